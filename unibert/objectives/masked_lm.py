"""Masked language modelling (Devlin et al. 2019, arXiv 1810.04805)."""

from __future__ import annotations

import torch.nn.functional as F

from unibert.data.batches import Batch
from unibert.models.wanted import Wanted
from unibert.objectives.base import MicroStep, Needs, Objective, Term


class MaskedLM(Objective):
    """Cross-entropy of the true token at the masked positions.

    Formula: sum over targets m of -log softmax(z_m)[y_m]; nats; divided by the number of targets.
    Shapes: z [M, V], y [M]. Needs: the student's masked logits. Cost: one head over M rows.
    Tags: loss/masked_lm, loss_by_language/<code>.
    """

    name = "masked_lm"
    needs = Needs(student=Wanted(masked_logits=True))

    def count(self, batch: Batch) -> int:
        return batch.targets

    def term(self, at: MicroStep) -> Term:
        assert at.student is not None
        assert at.student.masked_logits is not None
        losses_M = F.cross_entropy(at.student.masked_logits.float(), at.batch.target_ids, reduction="none")
        return Term(total=losses_M.sum(), per_target=losses_M.detach())
