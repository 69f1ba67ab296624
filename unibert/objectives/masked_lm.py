"""Masked language modelling (Devlin et al. 2019, arXiv 1810.04805)."""

from __future__ import annotations

from unibert.data.batches import Batch
from unibert.models.wanted import Wanted
from unibert.objectives.at_targets import losses_at_targets
from unibert.objectives.base import MicroStep, Needs, Objective, Term


class MaskedLM(Objective):
    """Cross-entropy of the true token at the masked positions.

    Formula: sum over targets m of -log softmax(z_m)[y_m]; nats; divided by the number of targets.
    Shapes: z [M, V], y [M]. Needs: the student's head at the targets. Cost: one head over M rows, shared with
    distill_logits; no logits [M, V] are formed (kernels/head.py), except in ZeRO-3.
    Tags: loss/masked_lm, loss_by_language/<code>.
    """

    name = "masked_lm"
    needs = Needs(student=Wanted(masked_logits=True, factored=True))

    def count(self, batch: Batch) -> int:
        return batch.targets

    def term(self, at: MicroStep) -> Term:
        recipe = self.setting.recipe
        distill = recipe.objectives.distill_logits
        if at.teacher is None or (distill is not None and distill.positions == "all"):
            distill = None  # some teachers do not read held-out text
        found = losses_at_targets(at, recipe, distill=distill)
        return Term(total=found.cross_entropy, per_target=found.cross_entropy_M)
