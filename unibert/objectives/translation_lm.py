"""Translation language modelling (Conneau & Lample 2019, arXiv 1901.07291)."""

from __future__ import annotations

from kernels.head import mlm_distill_head
from unibert.data.batches import Batch
from unibert.models.wanted import Wanted
from unibert.objectives.at_targets import rows
from unibert.objectives.base import MicroStep, Needs, Objective, Term


class TranslationLM(Objective):
    """Cross-entropy of the true token at the masked positions of both sides of a pair read as one text.

    Formula: sum over targets k of -log softmax(z_k)[y_k]; nats; divided by the number of targets.
    Shapes: z [K, V], y [K], over cls a sep b sep, a and b masked as they would be alone, but elsewhere; BERT's form
    of a pair, without language embeddings. Positions begin again in b with reset_positions (XLM) and go on without
    (PPA, arXiv 2010.12547; MMKD, arXiv 2211.01200, which always has English first). The masked LM's targets are
    not among these. Needs: the student's masked logits of batch.joined. Cost: one more forward over all pairs.
    Tag: loss/translation_lm.
    """

    name = "translation_lm"
    needs = Needs(joined=Wanted(masked_logits=True, factored=True))

    def count(self, batch: Batch) -> int:
        return batch.joined.targets if batch.joined is not None else 0

    def term(self, at: MicroStep) -> Term:
        assert at.joined is not None
        assert at.batch.joined is not None
        found = mlm_distill_head(rows(at.joined), targets_M=at.batch.joined.target_ids)
        return Term(total=found.cross_entropy)
