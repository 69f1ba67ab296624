"""What the student gets from the adversary, through the frozen discriminator."""

from __future__ import annotations

import math

import torch.nn.functional as F

from unibert.data.batches import Batch
from unibert.objective_tables import LanguageConfusion as LanguageConfusionTable
from unibert.objectives.base import LAST_HIDDEN, MicroStep, Needs, Objective, Setting, Term
from unibert.schema import Table


class LanguageConfusion(Objective):
    """Makes the language hard to read from the sentence feature.

    Formula, with p = softmax(D(z)) and D frozen, summed over documents and divided by their number:
    `uniform`: KL(p || 1/L) = log L + sum_l p_l log p_l, between 0 and log L (our default; the paper's form
    is not public). `reversal`: log p_language, minus the cross-entropy, whose gradient is that of a gradient
    reversal layer with this weight (Ganin et al. 2016); unbounded below.
    Shapes: z [D, H]. Needs: the student's last hidden state. Tag: loss/language_confusion.
    """

    name = "language_confusion"
    needs = Needs(student=LAST_HIDDEN)

    def __init__(self, table: Table, setting: Setting) -> None:
        super().__init__(table, setting)
        assert isinstance(table, LanguageConfusionTable)
        self.form = table.form

    def count(self, batch: Batch) -> int:
        return batch.documents

    def term(self, at: MicroStep) -> Term:
        assert at.discriminate is not None
        log_p_DL = F.log_softmax(at.discriminate(at.features_DH).float(), dim=-1)
        if self.form == "reversal":
            return Term(total=-F.nll_loss(log_p_DL, at.language_D, reduction="sum"))
        confused_D = math.log(log_p_DL.shape[-1]) + (log_p_DL.exp() * log_p_DL).sum(dim=-1)
        return Term(total=confused_D.sum())
