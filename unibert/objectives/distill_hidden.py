"""Distillation of hidden states (Jiao et al., arXiv 2103.06418, the last layer; arXiv 1909.10351, several)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unibert.data.batches import Batch
from unibert.models.wanted import Wanted
from unibert.objective_tables import DistillHidden as DistillHiddenTable
from unibert.objectives.base import MicroStep, Needs, Objective, Setting, Term
from unibert.objectives.layers import layer_pairs
from unibert.schema import Table


class DistillHidden(Objective):
    """Mean squared distance of student and teacher, token by token.

    Formula: sum over tokens t of the mean over layer pairs (i, j) of |W h_s,i,t + b - h_t,j,t|^2 / H_t, divided by the
    number of tokens. W and b, one for all layers as in TinyBERT's code, are there when the widths differ or
    `project` asks for them; between equal widths they begin as the identity (ours).
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
            apart_NH = student_NH.float() - at.teacher.states(theirs, layers=layers[1])[chosen_RS].float()
            total = total + apart_NH.square().mean(dim=-1).sum() / len(self.pairs)
        return Term(total=total)

    def _positions(self, batch: Batch) -> Tensor:
        """Bool [R, S]: the tokens that are compared."""
        chosen_RS = batch.document >= 0
        if self.skip_targets:
            chosen_RS.view(-1)[batch.target_positions] = False
        return chosen_RS
