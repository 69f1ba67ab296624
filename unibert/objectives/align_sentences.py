"""What all forms of sentence alignment share, and the in-batch one."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unibert.data.batches import Batch
from unibert.models.discriminator import features
from unibert.models.projections import Projection
from unibert.objective_tables import InBatchContrast
from unibert.objectives.base import LAST_HIDDEN, MicroStep, Needs, Objective, Setting, Term
from unibert.pair_rules import PIVOT
from unibert.schema import Table


class OnPairs(Objective):
    """An objective that compares the sentences of translation pairs by one feature each.

    Letters: P pairs, E of them with an English side, D documents, H width.
    """

    with_teacher = False

    def __init__(self, table: Table, setting: Setting) -> None:
        super().__init__(table, setting)
        settings: Any = table
        self.kind, self.masked = settings.feature, settings.reading == "masked"
        student = {"student" if self.masked else "student_unmasked": LAST_HIDDEN}
        teacher = {"teacher_unmasked": LAST_HIDDEN} if self.with_teacher else {}
        self.needs = Needs(**student, **teacher)
        languages = setting.recipe.languages
        self.pivot = languages.index(PIVOT) if PIVOT in languages else -1

    def count(self, batch: Batch) -> int:
        return len(english_first(batch, self.pivot)[0]) if self.with_teacher else len(batch.pairs)

    def student_DH(self, at: MicroStep) -> Tensor:
        """The student's feature of every document, fp32, with gradient."""
        output = at.student if self.masked else at.student_unmasked
        assert output is not None
        return features(output.last_hidden, at.batch, kind=self.kind).float()

    def teacher_EH(self, at: MicroStep, english_E: Tensor) -> Tensor:
        """The teacher's of the pairs' English sides, constants; `english_E` are these, of `english_first`."""
        assert at.teacher_unmasked is not None
        hidden, foreign = at.teacher_unmasked.last_hidden, at.batch.foreign
        if foreign is not None:
            return features(hidden, foreign, kind=self.kind).float()
        return features(hidden, at.batch, kind=self.kind).float()[english_E]


def english_first(batch: Batch, english: int) -> tuple[Tensor, Tensor]:
    """(documents of the pairs with an English side, that one first [E, 2]; which of the P pairs they are [E])."""
    is_english_P2 = batch.language[batch.pairs] == english
    chosen_E = is_english_P2.any(dim=1).nonzero().squeeze(1)
    sides_E2, second_E = batch.pairs[chosen_E], is_english_P2[chosen_E, 1]
    return torch.where(second_E[:, None], sides_E2.flip(1), sides_E2), chosen_E


def group_sizes(pair_N: Tensor, *, pairs: int, size: int) -> list[int]:
    """How many of some of a batch's pairs are in each group of `size` consecutive ones.

    Args:
        pair_N: which pairs, ascending, [N].
        pairs: all pairs of the batch, P.
        size: of a group.
    """
    return torch.bincount(pair_N // size, minlength=-(-pairs // size)).tolist()


def unit(values: Tensor) -> Tensor:
    """Vectors of length 1."""
    return F.normalize(values, dim=-1)


class InBatch(OnPairs):
    """Each side finds its translation among the other sides of its group.

    Formula, with u, v the unit features of a group's first and second sides and C = u v^T / temperature: sum over
    its pairs i of (-log softmax_row(C)[i, i] - log softmax_column(C)[i, i]) / 2; nats; divided by the number of pairs.
    Shapes: features [P, H], by a learned Linear-ReLU-Linear to projection_size where that is set. A group is
    `group_pairs` consecutive pairs of the stream, and never cut by a micro-batch: so ranks and micro-batch
    change nothing. Needs: the student's last hidden state.
    Tags: loss/align_sentences, align/retrieval_top1. Cost: with reading = "unmasked" one forward.
    Source: InfoNCE (van den Oord et al. 2018, arXiv 1807.03748), symmetric as in CLIP and LaBSE; the temperature
    is our choice.
    """

    name = "align_sentences"

    def __init__(self, table: Table, setting: Setting) -> None:
        super().__init__(table, setting)
        assert isinstance(table, InBatchContrast)
        self.size, self.temperature, self.projected = table.group_pairs, table.temperature, table.projection_size

    def module(self) -> nn.Module | None:
        return Projection(self.setting.student.hidden, self.projected) if self.projected else None

    def term(self, at: MicroStep) -> Term:
        features_P2H = self.student_DH(at)[at.batch.pairs]
        if self.projected:
            features_P2H = at.beside[self.name](features_P2H)
        first_PH, second_PH = unit(features_P2H).unbind(dim=1)
        total, right = features_P2H.sum() * 0, torch.zeros((), device=features_P2H.device)
        for start in range(0, len(first_PH), self.size):
            u, v = first_PH[start : start + self.size], second_PH[start : start + self.size]
            cosines, own = u @ v.T / self.temperature, torch.arange(len(u), device=u.device)
            both = (F.cross_entropy(logits, own, reduction="sum") for logits in (cosines, cosines.T))
            total = total + sum(both) / 2
            right += (cosines.detach().argmax(dim=1) == own).sum()
        return Term(total=total, observed={"align/retrieval_top1": (right, float(len(first_PH)))})
