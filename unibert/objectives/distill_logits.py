"""Distillation of the masked-LM distribution (Hinton et al. 2015; Sanh et al., arXiv 1910.01108)."""

from __future__ import annotations

from dataclasses import replace

from unibert.data.batches import Batch
from unibert.errors import ConfigError
from unibert.models.wanted import Wanted
from unibert.objective_tables import DistillLogits as DistillLogitsTable
from unibert.objectives.at_targets import losses_at_targets, losses_at_tokens
from unibert.objectives.base import MicroStep, Needs, Objective, Setting, Term
from unibert.schema import Table


class DistillLogits(Objective):
    """Distance of the student's tempered distribution over the vocabulary from the teacher's.

    Formula, with p = softmax(z / T), summed over positions and divided by their number:
    `forward_kl`: T^2 KL(p_t || p_s) (DistilBERT's; the default), `reverse_kl`: T^2 KL(p_s || p_t),
    `js`: T^2 (KL(p_s || m) + KL(p_t || m)) / 2 with m = (p_s + p_t) / 2 (SSLD, arXiv 2103.05959, takes this one:
    bounded by T^2 log 2, and needs no label), nats; T^2 keeps the gradient's size independent of T.
    `mse`: mean_v ((z_s - z_t) / T)^2, without T^2, so that a higher T only makes it weaker; a shift of all logits,
    which changes no distribution, counts in it.
    Positions: the masked targets, or every token that is no padding (SSLD's unlabelled text; our name for it).
    Shapes: z [M, V] (or [N, V] at N tokens), one vocabulary on both sides. Needs: both models' logits there.
    Cost: no logits [M, V] are formed (kernels/head.py), except in ZeRO-3 and by teachers that give nothing else. At all
    tokens both heads run on every one of them, about seven times as many as at 15 % masking.
    Tags: loss/distill_logits, teacher/agreement_top1.
    """

    name = "distill_logits"

    def __init__(self, table: Table, setting: Setting) -> None:
        super().__init__(table, setting)
        assert isinstance(table, DistillLogitsTable)
        ours, theirs = setting.student.vocabulary, self.teacher_sizes.vocabulary
        if ours != theirs:
            raise ConfigError(
                f"distill_logits compares probabilities piece by piece, but the student has {ours} pieces and the "
                f"teacher {theirs}: give both the recipe's tokenizer (unibert teacher trim), or turn it off"
            )
        self.table: DistillLogitsTable = table
        self.everywhere = table.positions == "all"
        wanted = Wanted(token_logits=self.everywhere, masked_logits=not self.everywhere, factored=True)
        self.needs = Needs(student=wanted, teacher=replace(wanted, last_hidden=False))

    def count(self, batch: Batch) -> int:
        return batch.tokens if self.everywhere else batch.targets

    def term(self, at: MicroStep) -> Term:
        if self.everywhere:
            found = losses_at_tokens(at, distill=self.table)
        else:
            found = losses_at_targets(at, self.setting.recipe, distill=self.table)
        return Term(
            total=found.divergence,
            observed={"teacher/agreement_top1": (found.agreed, float(self.count(at.batch)))},
        )
