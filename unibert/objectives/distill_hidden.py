"""Distillation of the last hidden state (Jiao et al., arXiv 2103.06418, use the last layer only)."""

from __future__ import annotations

from unibert.data.batches import Batch
from unibert.objectives.base import MicroStep, Needs, Objective, Term


class DistillHidden(Objective):
    """Mean squared distance of student and teacher, token by token.

    Formula: sum over tokens t of |h_s,t - h_t,t|^2 / H; divided by the number of tokens.
    Shapes: h [R, S, H], the same width on both sides; padding is left out.
    Needs: both last hidden states. Tag: loss/distill_hidden.
    """

    name = "distill_hidden"
    player = "student"
    needs = Needs(student=frozenset({"last_hidden"}), teacher=frozenset({"last_hidden"}))

    def count(self, batch: Batch) -> int:
        return batch.tokens

    def term(self, at: MicroStep) -> Term:
        assert at.teacher is not None
        real_RS = at.batch.document >= 0
        apart_TH = at.student.last_hidden[real_RS].float() - at.teacher.last_hidden[real_RS].float()
        return Term(total=apart_TH.square().mean(dim=-1).sum())
