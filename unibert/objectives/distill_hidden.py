"""Distillation of hidden states.

Squared distance: the last layer's in LightMBERT (Jiao et al., arXiv 2103.06418), several layers' in TinyBERT
(arXiv 1909.10351). Cosine: DistilBERT (Sanh et al., arXiv 1910.01108).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unibert.data.batches import Batch
from unibert.models.wanted import Wanted
from unibert.objective_tables import DistillHidden as DistillHiddenTable
from unibert.objectives.base import MicroStep, Needs, Objective, Setting, Term
from unibert.objectives.layers import layer_pairs
from unibert.schema import Table


class DistillHidden(Objective):
    """Distance of the states of student and teacher, token by token.

    Formula: sum over tokens t of the mean over layer pairs (i, j) of the distance of a = W h_s,i,t + b and
    c = h_t,j,t, divided by the number of tokens: |a - c|^2 / H_t (`mse`), or 1 - a.c / (|a| |c|) (`cosine`, which
    does not depend on how large a teacher's states are). W and b, one for all layers as in TinyBERT's code, are there
    when the widths differ or `project` asks for them; between equal widths they begin as the identity (ours).
    Shapes: h_s [R, S, H_s], h_t [R, S, H_t]; padding is left out, and with positions = "unmasked" the masked-LM targets
    too (our addition: a student that must repeat the teacher's state at a mask learns the masked LM badly, and no text
    that the encoder will read later has masks).
    Needs: the hidden states of the layers. Tag: loss/distill_hidden.
    """

    name = "distill_hidden"

    def __init__(self, table: Table, setting: Setting) -> None:
        super().__init__(table, setting)
        assert isinstance(table, DistillHiddenTable)
        student, teacher = setting.student, self.teacher_sizes
        self.pairs = layer_pairs(table.layers, student=student.layers, teacher=teacher.layers, name=self.name, lowest=0)
        self.projects = table.project or student.hidden != teacher.hidden
        self.form = table.form
        self.skip_targets = table.positions == "unmasked"
        self.needs = Needs(
            student=Wanted(hidden=frozenset(s for s, _ in self.pairs) - {student.layers}),
            teacher=Wanted(hidden=frozenset(t for _, t in self.pairs) - {teacher.layers}),
        )

    def module(self) -> nn.Module | None:
        if not self.projects:
            return None
        projection = nn.Linear(self.setting.student.hidden, self.teacher_sizes.hidden)
        if projection.in_features == projection.out_features:
            with torch.no_grad():
                nn.init.eye_(projection.weight)
                nn.init.zeros_(projection.bias)
        return projection

    def count(self, batch: Batch) -> int:
        return batch.tokens - batch.targets if self.skip_targets else batch.tokens

    def term(self, at: MicroStep) -> Term:
        assert at.student is not None
        assert at.teacher is not None
        chosen_RS = self._positions(at.batch)
        layers = self.setting.student.layers, self.teacher_sizes.layers
        total = torch.zeros((), device=chosen_RS.device)
        for ours, theirs in self.pairs:
            student_NH = at.student.states(ours, layers=layers[0])[chosen_RS]
            if self.projects:
                student_NH = at.beside[self.name](student_NH)
            teacher_NH = at.teacher.states(theirs, layers=layers[1])[chosen_RS]
            total = total + self._apart(student_NH.float(), teacher_NH.float()).sum() / len(self.pairs)
        return Term(total=total)

    def _apart(self, student_NH: Tensor, teacher_NH: Tensor) -> Tensor:
        """The distance of each token's two states, [N]."""
        if self.form == "cosine":
            return 1 - F.cosine_similarity(student_NH, teacher_NH, dim=-1)
        return (student_NH - teacher_NH).square().mean(dim=-1)

    def _positions(self, batch: Batch) -> Tensor:
        """Bool [R, S]: the tokens that are compared."""
        chosen_RS = batch.document >= 0
        if self.skip_targets:
            chosen_RS.view(-1)[batch.target_positions] = False
        return chosen_RS
