"""What the masked LM and the distillation of logits have in common: both read the head, so it is gone through once.

Neither model's logits are formed where its head comes as factors (kernels/head.py).
"""

from __future__ import annotations

from kernels.head import HeadLosses, Rows, mlm_distill_head
from unibert.models.encoder import EncoderOutput
from unibert.objective_tables import DistillLogits
from unibert.objectives.base import MicroStep
from unibert.schema import Recipe


def losses_at_targets(at: MicroStep, recipe: Recipe, *, distill: DistillLogits | None) -> HeadLosses:
    """Cross-entropy and distance from the teacher at the masked targets, computed once for all who ask.

    Args:
        at: with the student's head at the targets, and the teacher's when it is compared.
        recipe: tells whether there is a masked LM.
        distill: how the teacher is compared at the targets, None when it is not.
    """
    if "at_targets" not in at.shared:
        labelled = distill is None or recipe.objectives.masked_lm is not None
        at.shared["at_targets"] = mlm_distill_head(
            rows(at.student),
            targets_M=at.batch.target_ids if labelled else None,
            teacher=None if distill is None else rows(at.teacher),
            kind="forward_kl" if distill is None else distill.divergence,
            temperature=1.0 if distill is None else distill.temperature,
            factors=(at.factors.get("masked_lm", 1.0), at.factors.get("distill_logits", 1.0)),
        )
    return at.shared["at_targets"]


def losses_at_tokens(at: MicroStep, *, distill: DistillLogits) -> HeadLosses:
    """The distance from the teacher at every token."""
    return mlm_distill_head(
        rows(at.student, everywhere=True),
        teacher=rows(at.teacher, everywhere=True),
        kind=distill.divergence,
        temperature=distill.temperature,
        factors=(0.0, 1.0),
    )


def rows(out: EncoderOutput | None, *, everywhere: bool = False) -> Rows:
    """The logits of a reading, at the targets or everywhere, as factors where it has them so."""
    assert out is not None
    inputs = out.token_inputs if everywhere else out.masked_inputs
    if inputs is not None:
        assert out.decoder is not None
        return Rows(inputs, out.decoder.weight, out.decoder.bias)
    logits = out.token_logits if everywhere else out.masked_logits
    assert logits is not None
    return Rows(logits)
