"""Several teachers as one: mixed by weight, by the language of a document, or one drawn for each step.

Mixed: the masked-LM distribution is the weighted mean of theirs (log sum_i w_i softmax(z_i), w summing to 1), the
hidden states the weighted mean; queries, keys and values have no mean, so it gives none. By language: a document's
answers are its teacher's. Drawn: a step's answers are one teacher's, a pure function of (seed, step), so a step costs
what one teacher costs, and ranks and micro-batches agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from unibert.config import Recipe
from unibert.data.sampler import hash64
from unibert.errors import ConfigError
from unibert.models.encoder import EncoderOutput
from unibert.models.folders import newest_export
from unibert.models.teacher.base import Teacher
from unibert.models.wanted import Wanted
from unibert.plan import step_of

if TYPE_CHECKING:
    from unibert.data.batches import Batch

_DRAW = 5  # what the hash is for, so that it differs from others of the seed


class SeveralTeachers(Teacher):
    """Teachers of one vocabulary and shape.

    Args:
        teachers: at least two, none of which works ahead by itself.
        weights: of each, any sum.
        recipe: how they share the work; seed and batches for the draw.
    """

    def __init__(self, teachers: Sequence[Teacher], weights: Sequence[float], *, recipe: Recipe, ahead: bool) -> None:
        assert recipe.teacher is not None
        first, self.way, self.recipe = teachers[0], recipe.teacher.several, recipe
        for other in teachers[1:]:
            if other.sizes != first.sizes:
                raise ConfigError(
                    f"[[teacher.more]]: shapes {first.sizes} and {other.sizes}: several teachers have one"
                )
        gives = first.gives
        for other in teachers[1:]:
            gives = gives - (gives - other.gives)
        if self.way != "drawn":
            gives = replace(gives, attention=frozenset())
        super().__init__(first.config, device=first.device, gives=gives, ahead=ahead)
        self.sizes, self.teachers = first.sizes, list(teachers)
        self.weights = np.array(weights, dtype=np.float64) / sum(weights)
        owner_L = torch.zeros(len(recipe.languages), dtype=torch.int64)
        for number, other in enumerate(recipe.teacher.more, start=1):
            owner_L[[recipe.languages.index(code) for code in other.languages]] = number
        self._owner_L = owner_L.to(first.device)

    @torch.no_grad()
    def forward(self, batch: Batch, wanted: Wanted) -> EncoderOutput:
        """See `Teacher`."""
        if self.way == "drawn":
            return self.teachers[self.drawn(step_of(self.recipe, int(batch.sample_ids[0])))].forward(batch, wanted)
        if self.way == "mixed":
            outs = [teacher.forward(batch, wanted) for teacher in self.teachers]
            return _joined(outs, _mean_of(self.weights), _mixture_of(self.weights))
        owner_D = self._owner_L[batch.language]
        document_T = batch.document.flatten()
        owner_T = torch.where(document_T >= 0, owner_D[document_T.clamp(min=0)], 0)
        present = owner_D.unique().tolist()
        outs = [self.teachers[number].forward(batch, wanted) for number in present]
        which_T = torch.searchsorted(torch.tensor(present, device=owner_T.device), owner_T).clamp(max=len(present) - 1)
        places = {"masked_logits": batch.target_positions, "token_logits": batch.token_positions}
        return _joined(
            outs,
            lambda parts, _: _chosen(parts, which_T.view(batch.document.shape)),
            lambda parts, name: _chosen(parts, which_T[places[name]]),
        )

    def drawn(self, step: int) -> int:
        """The teacher of a step, from 1."""
        part = int(hash64(self.recipe.train.seed, _DRAW, step)[0]) / 2**64
        return min(int(np.searchsorted(np.cumsum(self.weights), part, side="right")), len(self.teachers) - 1)

    def parameters(self) -> list[Tensor]:
        """Of all."""
        return [parameter for teacher in self.teachers for parameter in teacher.parameters()]

    def close(self) -> None:
        """See `Teacher`."""
        super().close()
        for teacher in self.teachers:
            teacher.close()


def _mean_of(weights: np.ndarray):
    def mean(parts: Sequence[Tensor], _: str) -> Tensor:
        return sum(w * part.float() for w, part in zip(weights.tolist(), parts, strict=True))  # type: ignore[return-value]

    return mean


def _mixture_of(weights: np.ndarray):
    def mixture(parts: Sequence[Tensor], _: str) -> Tensor:
        each = [part.float().log_softmax(-1) + np.log(w) for w, part in zip(weights.tolist(), parts, strict=True)]
        return torch.stack(each).logsumexp(0)

    return mixture


def _chosen(parts: Sequence[Tensor], which: Tensor) -> Tensor:
    """Rows of the part that `which` names."""
    out = parts[0]
    for number, part in enumerate(parts[1:], start=1):
        out = torch.where((which == number).unsqueeze(-1), part, out)
    return out


def _joined(outs: Sequence[EncoderOutput], states, logits) -> EncoderOutput:
    """One output of several, by what joins states and what joins logits."""

    def all_logits(name: str) -> Tensor | None:
        parts = [getattr(out, name) for out in outs]
        return None if parts[0] is None else logits(parts, name)

    hidden = {layer: states([out.hidden[layer] for out in outs], "hidden") for layer in outs[0].hidden}
    last = states([out.last_hidden for out in outs], "last_hidden")
    return EncoderOutput(last, all_logits("masked_logits"), all_logits("token_logits"), hidden)


def load_several(recipe: Recipe, *, device: torch.device) -> SeveralTeachers:
    """The teachers of a recipe with [[teacher.more]].

    Raises:
        ConfigError: shapes or vocabularies differ.
        DataError: a folder without a model.
    """
    from unibert.models.teacher import load_one, our_pieces
    from unibert.models.teacher.pieces import with_our_pieces

    table = recipe.teacher
    assert table is not None
    paths = [table.path or table.trimmed, *(other.path for other in table.more)]
    teachers = []
    for path in paths:
        one = load_one(table.model_copy(update={"path": path, "ahead": "off"}), device=device)
        source = newest_export(path)
        teachers.append(with_our_pieces(one, our_pieces(recipe, one, source=source), source=source))
    weights = [table.weight, *(other.weight for other in table.more)]
    ahead = table.ahead == "on" or (table.ahead == "auto" and (device.type != "cpu" or table.kind == "offloaded"))
    return SeveralTeachers(teachers, weights, recipe=recipe, ahead=ahead)
