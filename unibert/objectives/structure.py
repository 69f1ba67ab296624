"""MMKD's structure alignment (Li et al., arXiv 2211.01200)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unibert.models.heads import seeded
from unibert.models.projections import Projection
from unibert.objective_tables import Structure as StructureTable
from unibert.objectives.align_sentences import OnPairs, english_first, group_sizes, unit
from unibert.objectives.base import MicroStep, Setting, Term
from unibert.schema import Table


class Structure(OnPairs):
    """The translations are as near to each other as the teacher finds the English sentences.

    Formula, with F_T and F_S the unit features of a group's English sides (teacher) and of the other sides (student):
    sum over its rows i of KL(softmax(F_T F_T^T)[i] || softmax(F_S F_S^T)[i]), temperature 1; divided by the number of
    rows (the paper's batchmean).
    Shapes: features by a Linear-ReLU-Linear head each to projection_size. The student's is learned; the teacher's is
    random, the same for a seed and never trained, as in the sentence alignment: were both learned, both could make
    every sentence the same (our reading of "separate heads"). The set that is compared is a group of `group_pairs`
    consecutive pairs (ours; the paper's is the batch), so that ranks and micro-batch change nothing.
    Needs: the student's last hidden state, the teacher's of the unmasked text. Tag: loss/structure.
    """

    name = "structure"
    with_teacher = True

    def __init__(self, table: Table, setting: Setting) -> None:
        super().__init__(table, setting)
        assert isinstance(table, StructureTable)
        self.size, self.projected = table.group_pairs, table.projection_size
        with seeded(setting.recipe.train.seed, purpose="the teacher's head of structure"):
            self.fixed = Projection(self.teacher_sizes.hidden, self.projected).requires_grad_(False)

    def module(self) -> nn.Module:
        return Projection(self.setting.student.hidden, self.projected)

    def term(self, at: MicroStep) -> Term:
        sides_E2, pair_E = english_first(at.batch, self.pivot)
        sizes = group_sizes(pair_E, pairs=len(at.batch.pairs), size=self.size)
        student_EP = at.beside[self.name](self.student_DH(at)[sides_E2[:, 1]])
        with torch.no_grad():
            english_EH = self.teacher_EH(at, sides_E2[:, 0])
            teacher_EP = self.fixed.to(english_EH.device)(english_EH)
        groups = zip(_alike(teacher_EP, sizes), _alike(student_EP, sizes), strict=True)
        total = student_EP.sum() * 0
        for teacher, student in groups:
            total = total + F.kl_div(student, teacher, reduction="sum", log_target=True)
        return Term(total=total)


def _alike(features_EP: Tensor, sizes: list[int]) -> list[Tensor]:
    """Of each group the log of how near its sentences are to each other, [size, size]."""
    return [F.log_softmax(unit(part) @ unit(part).T, dim=-1) for part in features_EP.split(sizes) if len(part)]
