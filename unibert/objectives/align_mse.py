"""Both sides drawn to the teacher's English sentence embedding (Reimers & Gurevych 2020, arXiv 2004.09813)."""

from __future__ import annotations

from torch import nn

from unibert.data.batches import Batch
from unibert.models.projections import Straight
from unibert.objectives.align_sentences import OnPairs, english_first
from unibert.objectives.base import MicroStep, Term


class MeanSquaredPairs(OnPairs):
    """Mean squared distance of the student's features of both sides to the teacher's of the English one.

    Formula: sum over pairs with an English side of |f_s(en) - f_t(en)|^2 / H + |f_s(other) - f_t(en)|^2 / H; divided by
    twice their number.
    Shapes: f_s [D, H_s], by a learned linear map to H_t where the widths differ (our choice); f_t [D, H_t].
    Needs: the student's last hidden state, the teacher's of the unmasked text. Tag: loss/align_sentences.
    """

    name = "align_sentences"
    with_teacher = True

    def module(self) -> nn.Module | None:
        student, teacher = self.setting.student.hidden, self.teacher_sizes.hidden
        return None if student == teacher else Straight(student, teacher)

    def count(self, batch: Batch) -> int:
        return 2 * super().count(batch)

    def term(self, at: MicroStep) -> Term:
        sides_E2, _ = english_first(at.batch, self.pivot)
        student_E2H = self.student_DH(at)[sides_E2]
        if self.name in at.beside:
            student_E2H = at.beside[self.name](student_E2H)
        apart_E2H = student_E2H - self.teacher_EH(at, sides_E2[:, 0])[:, None]
        return Term(total=apart_E2H.square().mean(dim=-1).sum())
