"""MMKD's sentence alignment (Li et al., arXiv 2211.01200), in the manner of BYOL (Grill et al., arXiv 2006.07733)."""

from __future__ import annotations

import torch
from torch import nn

from unibert.data.batches import Batch
from unibert.models.heads import seeded
from unibert.models.projections import Bootstrapped, NormalisedProjection
from unibert.objective_tables import Bootstrap
from unibert.objectives.align_sentences import OnPairs, english_first, group_sizes, unit
from unibert.objectives.base import MicroStep, Setting, Term
from unibert.schema import Table

LEAST = 3
"""Rows over which a batch normalisation still tells one text from another."""


class BootstrapPairs(OnPairs):
    """The translation's feature predicts the teacher's of the English side.

    Formula: sum over pairs with an English side of 2 - 2 cos(pred(proj(f_s(other))), stopgrad(proj_T(f_t(en))));
    divided by their number. Groups with fewer than three of them are left out: normalised over one or two rows every
    feature is 0 or 1, whatever it was.
    Shapes: proj is Linear(H, H, no bias)-BN-ReLU-Linear(H, P, no bias)-BN(no affine), pred is Linear(P, H)-BN-ReLU-
    Linear(H, P), with H = 768 and P = 128 in the paper's code; proj_T has proj's shape, is random and never trained,
    and the same for a seed. The paper normalises over the batch; here over groups of `group_pairs` consecutive pairs
    (our choice), so that ranks and micro-batch change nothing. Also ours: it may read the masked text.
    Needs: the student's last hidden state, the teacher's of the unmasked text. Tag: loss/align_sentences.
    """

    name = "align_sentences"
    with_teacher = True

    def __init__(self, table: Table, setting: Setting) -> None:
        super().__init__(table, setting)
        assert isinstance(table, Bootstrap)
        self.size, self.projected = table.group_pairs, table.projection_size
        with seeded(setting.recipe.train.seed, purpose="the teacher's projection of align_sentences"):
            self.fixed = NormalisedProjection(self.teacher_sizes.hidden, self.projected, projector=True)
        self.fixed.requires_grad_(False)

    def module(self) -> nn.Module:
        return Bootstrapped(self.setting.student.hidden, self.projected)

    def count(self, batch: Batch) -> int:
        return sum(self._sizes(batch))

    def _sizes(self, batch: Batch) -> list[int]:
        """Of the groups that are not left out, the pairs with an English side; 0 for the others."""
        _, pair_E = english_first(batch, self.pivot)
        sizes = group_sizes(pair_E, pairs=len(batch.pairs), size=self.size)
        return [size if size >= LEAST else 0 for size in sizes]

    def term(self, at: MicroStep) -> Term:
        sides_E2, pair_E = english_first(at.batch, self.pivot)
        sizes = self._sizes(at.batch)
        kept_E = torch.tensor(sizes, device=pair_E.device)[pair_E // self.size] > 0
        predicted_EP = at.beside[self.name](self.student_DH(at)[sides_E2[kept_E, 1]], sizes)
        with torch.no_grad():
            english_EH = self.teacher_EH(at, sides_E2[:, 0])[kept_E]
            target_EP = self.fixed.to(english_EH.device)(english_EH, sizes)
        cosine_E = (unit(predicted_EP) * unit(target_EP)).sum(dim=-1)
        return Term(total=(2 - 2 * cosine_E).sum())
