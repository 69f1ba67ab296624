"""The discriminator's own loss: which language is a sentence in (Ganin et al. 2016, arXiv 1505.07818)."""

from __future__ import annotations

import torch.nn.functional as F

from unibert.data.batches import Batch
from unibert.objectives.base import LAST_HIDDEN, Needs, Objective, Setting, Term, Turn
from unibert.schema import Table


class LanguageGuess(Objective):
    """Cross-entropy of the language from detached features: it moves the discriminator alone.

    Formula: sum over features f of -log softmax(D(stopgrad z_f))[language_f]; nats; divided by the number of features
    in the discriminator's turn: one a document, or with discriminator.feature = "tokens" one a token, special tokens
    too, whose language is its document's.
    Shapes: z [F, H], D(z) [F, L]. Needs: the student's last hidden state. Cost: with "tokens" every token's state of
    the turn is kept, and D runs on all of them.
    Tags: loss/language_guess, adversary/accuracy.
    """

    name = "language_guess"
    player = "discriminator"
    needs = Needs(student=LAST_HIDDEN)

    def __init__(self, table: Table, setting: Setting) -> None:
        super().__init__(table, setting)
        self.every_token = judges_tokens(setting)

    def count(self, batch: Batch) -> int:
        return batch.tokens if self.every_token else batch.documents

    def term(self, at: Turn) -> Term:
        language_F = at.language_F
        logits_FL = at.discriminate(at.features_FH).float()
        right = (logits_FL.detach().argmax(dim=-1) == language_F).sum()
        return Term(
            total=F.cross_entropy(logits_FL, language_F, reduction="sum"),
            observed={"adversary/accuracy": (right, float(len(language_F)))},
        )


def judges_tokens(setting: Setting) -> bool:
    """Whether the discriminator judges every token."""
    table = setting.recipe.discriminator
    return table is not None and table.feature == "tokens"
