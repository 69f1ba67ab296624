"""What the student gets from the adversary, through the frozen discriminator."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from unibert.data.batches import Batch
from unibert.objective_tables import LanguageConfusion as LanguageConfusionTable
from unibert.objectives.base import LAST_HIDDEN, MicroStep, Needs, Objective, Setting, Term
from unibert.objectives.language_guess import judges_tokens
from unibert.schema import Table

GOLDEN = -7046029254386353131
"""2**64 / golden ratio, as int64: multiples of it are spread evenly (Fibonacci hashing, Knuth)."""


class LanguageConfusion(Objective):
    """Makes the language hard to read from what the discriminator reads.

    Formula, with p = softmax(D(z)) and D frozen, summed over features and divided by their number (documents, or with
    discriminator.feature = "tokens" tokens):
    `uniform`: KL(1/L || p) = -log L - 1/L sum_l log p_l, the domain confusion of Tzeng et al. (arXiv 1510.02192). Its
    gradient by the logits is p - 1/L, largest where D is sure (our default; the paper's form is not public).
    `entropy`: KL(p || 1/L) = log L + sum_l p_l log p_l, between 0 and log L; where p is one-hot its gradient vanishes.
    `reversal`: log p_language, unbounded below. This negative cross-entropy has, through a discriminator that is frozen
    here and learns by its own loss, exactly the gradient of a gradient reversal layer with this weight (Ganin et al.
    2016): two names in the literature, one form here.
    `label_flip`: -log p_wrong, the wrong language a fixed pseudo-random one of the others for each document of the
    stream, so that it does not depend on how the stream is cut (which label is ours; flipping is GANs' usual form).
    Shapes: z [F, H]. Needs: the student's last hidden state. Tag: loss/language_confusion.
    """

    name = "language_confusion"
    needs = Needs(student=LAST_HIDDEN)

    def __init__(self, table: Table, setting: Setting) -> None:
        super().__init__(table, setting)
        assert isinstance(table, LanguageConfusionTable)
        self.form = table.form
        self.every_token = judges_tokens(setting)

    def count(self, batch: Batch) -> int:
        return batch.tokens if self.every_token else batch.documents

    def term(self, at: MicroStep) -> Term:
        assert at.discriminate is not None
        log_p_FL = F.log_softmax(at.discriminate(at.features_FH).float(), dim=-1)
        if self.form == "reversal":
            return Term(total=-F.nll_loss(log_p_FL, at.language_F, reduction="sum"))
        if self.form == "label_flip":
            wrong_D = wrong_language(at.batch.sample_ids, at.batch.language, languages=log_p_FL.shape[-1])
            return Term(total=F.nll_loss(log_p_FL, wrong_D[at.judged_F], reduction="sum"))
        most = math.log(log_p_FL.shape[-1])
        if self.form == "entropy":
            return Term(total=(most + (log_p_FL.exp() * log_p_FL).sum(dim=-1)).sum())
        return Term(total=(-most - log_p_FL.mean(dim=-1)).sum())


def wrong_language(sample_ids: Tensor, language_D: Tensor, *, languages: int) -> Tensor:
    """int64 [D]: for each document another language than its own, each of the others equally often."""
    mixed_D = torch.bitwise_right_shift(sample_ids * GOLDEN, 32) & 0x7FFFFFFF
    return (language_D + 1 + mixed_D % (languages - 1)) % languages
