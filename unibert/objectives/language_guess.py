"""The discriminator's own loss: which language is a sentence in (Ganin et al. 2016, arXiv 1505.07818)."""

from __future__ import annotations

import torch.nn.functional as F

from unibert.data.batches import Batch
from unibert.objectives.base import LAST_HIDDEN, Needs, Objective, Term, Turn


class LanguageGuess(Objective):
    """Cross-entropy of the language from detached sentence features: it moves the discriminator alone.

    Formula: sum over documents d of -log softmax(D(stopgrad z_d))[language_d]; nats; divided by the number
    of documents in the discriminator's turn.
    Shapes: z [D, H], D(z) [D, L]. Needs: the student's last hidden state.
    Tags: loss/language_guess, adversary/accuracy.
    """

    name = "language_guess"
    player = "discriminator"
    needs = Needs(student=LAST_HIDDEN)

    def count(self, batch: Batch) -> int:
        return batch.documents

    def term(self, at: Turn) -> Term:
        language_D = at.language_D
        logits_DL = at.discriminate(at.features_DH).float()
        right = (logits_DL.detach().argmax(dim=-1) == language_D).sum()
        return Term(
            total=F.cross_entropy(logits_DL, language_D, reduction="sum"),
            observed={"adversary/accuracy": (right, float(len(language_D)))},
        )
