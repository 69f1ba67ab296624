"""The vocabularies of a run and its teacher, compared piece by piece, and a teacher of another order of pieces.

What follows from each relation:
  equal      the teacher reads our ids
  padded     it has more rows than pieces: the logits of the rest are left out
  permuted   the same pieces under other ids: ids and logits are mapped
  superset   it has our pieces and others: ids are mapped, the logits of the others are left out, so that its
             distribution is the one given that the piece is one of ours
  different  it lacks pieces of ours: it cannot read our ids, and its logits are of something else: refused
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from unibert.data.shard_format import TokenizerFacts
from unibert.errors import ConfigError
from unibert.models.encoder import EncoderOutput
from unibert.models.teacher.base import Teacher
from unibert.models.wanted import Wanted

if TYPE_CHECKING:
    from unibert.data.batches import Batch

Relation = Literal["equal", "padded", "permuted", "superset", "different"]
SAID = {
    "equal": "it reads our ids as they are",
    "padded": "the logits of its rows without a piece are left out",
    "permuted": "ids and logits are mapped",
    "superset": "ids are mapped, and the logits of its other pieces are left out",
    "different": "it can neither read our ids nor give logits of our pieces",
}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pieces:
    """How a teacher's pieces stand to ours."""

    relation: Relation
    of_teacher: np.ndarray
    """int64 [V]: the teacher's id of each of our pieces; -1 of what it lacks."""
    lacking: tuple[str, ...] = ()
    """Pieces of ours that it lacks."""

    def read(self, batch: Batch) -> Batch:
        """The batch in the teacher's ids; targets keep ours."""
        if self.relation in ("equal", "padded"):
            return batch
        return replace(batch, input_ids=torch.from_numpy(self.of_teacher).to(batch.input_ids.device)[batch.input_ids])


def compare(own: Path, teacher: Path, *, rows: int) -> Pieces | None:
    """Compare the tokenizers of two folders; special tokens by what they are for, as their names differ.

    Args:
        own: the recipe's.
        teacher: the teacher's.
        rows: of the teacher's embeddings.

    Returns:
        None when one folder has no tokenizer, so that nothing can be compared.
    """
    if not all((folder / "tokenizer.json").is_file() for folder in (own, teacher)):
        return None
    ours, theirs = (Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab() for folder in (own, teacher))
    special, other = TokenizerFacts.read(own).special, TokenizerFacts.read(teacher).special
    of_teacher = np.full(1 + max(ours.values()), -1, dtype=np.int64)
    for piece, number in ours.items():
        of_teacher[number] = theirs.get(piece, -1)
    for role in ("cls", "sep", "pad", "mask", "unk"):
        of_teacher[getattr(special, role)] = getattr(other, role)
    unused = sorted(set(range(len(of_teacher))) - set(ours.values()))
    of_teacher[unused] = other.unk  # ids that stand for nothing occur nowhere
    lacking = tuple(piece for piece, number in ours.items() if not 0 <= of_teacher[number] < rows)
    if lacking:
        return Pieces("different", of_teacher, lacking)
    if len(theirs) > len(ours):
        return Pieces("superset", of_teacher)
    if (of_teacher != np.arange(len(of_teacher))).any():
        return Pieces("permuted", of_teacher)
    return Pieces("padded" if rows > len(of_teacher) else "equal", of_teacher)


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
            f"{SAID['different']}. Trim it to this tokenizer (unibert teacher trim RECIPE), take one that has these "
            "pieces, or turn the objectives that need a teacher off"
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
