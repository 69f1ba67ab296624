"""Distillation of the masked-LM distribution (Hinton et al. 2015; Sanh et al., arXiv 1910.01108)."""

from __future__ import annotations

from kernels.distill_kl import distill_kl
from unibert.data.batches import Batch
from unibert.models.wanted import Wanted
from unibert.objective_tables import DistillLogits as DistillLogitsTable
from unibert.objectives.base import MicroStep, Needs, Objective, Setting, Term
from unibert.schema import Table


class DistillLogits(Objective):
    """Forward KL from the teacher's tempered distribution to the student's, at the masked positions.

    Formula: sum over targets m of T^2 KL(softmax(z_t,m / T) || softmax(z_s,m / T)); nats; divided by the
    number of targets. T^2 keeps the gradient's size independent of T.
    Shapes: z [M, V], one vocabulary on both sides. Needs: both masked logits.
    Tags: loss/distill_logits, teacher/agreement_top1.
    """

    name = "distill_logits"
    needs = Needs(student=Wanted(masked_logits=True), teacher=Wanted(masked_logits=True, last_hidden=False))

    def __init__(self, table: Table, setting: Setting) -> None:
        super().__init__(table, setting)
        assert isinstance(table, DistillLogitsTable)
        self.temperature = table.temperature

    def count(self, batch: Batch) -> int:
        return batch.targets

    def term(self, at: MicroStep) -> Term:
        assert at.student is not None
        assert at.teacher is not None
        student_MV, teacher_MV = at.student.masked_logits, at.teacher.masked_logits
        assert student_MV is not None
        assert teacher_MV is not None
        losses_M = distill_kl(student_MV, teacher_MV, temperature=self.temperature)
        agree = (student_MV.detach().argmax(dim=-1) == teacher_MV.argmax(dim=-1)).sum()
        return Term(total=losses_M.sum(), observed={"teacher/agreement_top1": (agree, float(self.count(at.batch)))})
