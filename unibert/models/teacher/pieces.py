"""A teacher of more pieces than ours, or of another order of them (data/pieces.py), as one of our vocabulary."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unibert.data.pieces import Pieces, compare
from unibert.errors import ConfigError
from unibert.models.encoder import EncoderOutput
from unibert.models.teacher.base import Teacher
from unibert.models.wanted import Wanted

if TYPE_CHECKING:
    from unibert.data.batches import Batch

__all__ = ["SAID", "MappedTeacher", "Pieces", "compare", "with_our_pieces"]

SAID = {
    "equal": "it reads our ids as they are",
    "padded": "the logits of its rows without a piece are left out",
    "permuted": "ids and logits are mapped",
    "superset": "ids are mapped, and the logits of its other pieces are left out",
    "different": "it can neither read our ids nor give logits of our pieces",
}
log = logging.getLogger(__name__)


def with_our_pieces(teacher: Teacher, pieces: Pieces | None, *, source: Path) -> Teacher:
    """The teacher as one of our vocabulary; says what was found.

    Raises:
        ConfigError: the vocabularies differ.
    """
    if pieces is None:
        return teacher
    log.info("teacher %s: %s vocabulary: %s", source, pieces.relation, SAID[pieces.relation])
    if pieces.relation == "different":
        some = ", ".join(repr(piece) for piece in pieces.lacking[:5])
        raise ConfigError(
            f"{source}: its vocabulary is another one ({len(pieces.lacking)} of our pieces are not in it, as {some}): "
            f"{SAID['different']}; only a teacher by itself could read text of its own, for objectives on translation "
            "pairs. Trim it to this tokenizer (unibert teacher trim RECIPE), take one that has these pieces, or turn "
            "the objectives that need a teacher off"
        )
    return teacher if pieces.relation == "equal" else MappedTeacher(teacher, pieces)


class MappedTeacher(Teacher):
    """A teacher of more pieces, or of another order of them, as one of ours."""

    def __init__(self, inner: Teacher, pieces: Pieces) -> None:
        super().__init__(inner.config, device=inner.device, gives=inner.gives, ahead=inner.works_ahead)
        self.inner, self.pieces = inner, pieces
        self.gives_unmasked, self.why, self.reads_anything = inner.gives_unmasked, inner.why, inner.reads_anything
        self.sizes = replace(inner.sizes, vocabulary=len(pieces.of_teacher))
        self._columns = torch.from_numpy(pieces.of_teacher).to(inner.device)

    @torch.no_grad()
    def forward(self, batch: Batch, wanted: Wanted) -> EncoderOutput:
        """See `Teacher`."""
        out = self.inner.forward(self.pieces.read(batch), wanted)
        return out._replace(masked_logits=self._ours(out.masked_logits), token_logits=self._ours(out.token_logits))

    def parameters(self) -> list[Tensor]:
        """The inner one's."""
        return self.inner.parameters()

    def close(self) -> None:
        """See `Teacher`."""
        super().close()
        self.inner.close()

    def _ours(self, logits: Tensor | None) -> Tensor | None:
        return None if logits is None else logits.index_select(-1, self._columns)
