"""Distillation of the masked-LM distribution (Hinton et al. 2015; Sanh et al., arXiv 1910.01108)."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from kernels.divergence import Kind, divergence
from unibert.data.batches import Batch
from unibert.errors import ConfigError
from unibert.models.encoder import EncoderOutput
from unibert.models.wanted import Wanted
from unibert.objective_tables import DistillLogits as DistillLogitsTable
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
    Cost: at all tokens both heads run on every one of them, about seven times as many as at 15 % masking.
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
        self.kind: Kind = table.divergence
        self.temperature = table.temperature
        self.everywhere = table.positions == "all"
        wanted = Wanted(token_logits=self.everywhere, masked_logits=not self.everywhere)
        self.needs = Needs(student=wanted, teacher=replace(wanted, last_hidden=False))

    def count(self, batch: Batch) -> int:
        return batch.tokens if self.everywhere else batch.targets

    def term(self, at: MicroStep) -> Term:
        student_MV, teacher_MV = self._logits(at.student), self._logits(at.teacher)
        losses_M = divergence(student_MV, teacher_MV, kind=self.kind, temperature=self.temperature)
        agree = (student_MV.detach().argmax(dim=-1) == teacher_MV.argmax(dim=-1)).sum()
        return Term(total=losses_M.sum(), observed={"teacher/agreement_top1": (agree, float(self.count(at.batch)))})

    def _logits(self, out: EncoderOutput | None) -> Tensor:
        assert out is not None
        logits = out.token_logits if self.everywhere else out.masked_logits
        assert logits is not None
        return logits
