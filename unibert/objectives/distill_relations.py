"""Distillation of self-attention relations: MiniLM (arXiv 2002.10957) and MiniLMv2 (arXiv 2012.15828)."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.attention_maps import attention_distance
from unibert.data.batches import Batch
from unibert.errors import ConfigError
from unibert.models.attention import Attended
from unibert.models.wanted import Wanted
from unibert.objective_tables import DistillRelations as DistillRelationsTable
from unibert.objectives.base import MicroStep, Needs, Objective, Setting, Term
from unibert.objectives.distill_attention import refuse_layer_drop
from unibert.schema import Table


class DistillRelations(Objective):
    """What the tokens' queries, keys and values say of each other, taken over from one layer of the teacher.

    Formula: the heads of a model are joined and split anew into A relation heads of width d = H / A (each model's own
    H); with r_a,i = softmax_j(x_a,i . y_a,j / sqrt(d)), j over i's own document: sum over tokens i, over the relations
    (x, y), and mean over a, of KL(r_a,i of the teacher || r_a,i of the student); nats; divided by the number of tokens.
    MiniLMv2 takes qq, kk and vv; MiniLM qk and vv, with the models' own heads. Its weights of the relations are 1.
    Shapes: q, k, v [R, N, S, D]; any width and number of heads, as long as A divides both widths.
    Needs: queries, keys and values of one layer on each side. Cost: no S x S lives on after the forward.
    Tag: loss/distill_relations.
    """

    name = "distill_relations"

    def __init__(self, table: Table, setting: Setting) -> None:
        super().__init__(table, setting)
        assert isinstance(table, DistillRelationsTable)
        student, teacher = setting.student, self.teacher_sizes
        self.heads = table.relation_heads or student.heads
        if student.hidden % self.heads or teacher.hidden % self.heads:
            raise ConfigError(
                f"objectives.distill_relations.relation_heads = {self.heads} must divide both widths, "
                f"{student.hidden} of the student and {teacher.hidden} of the teacher"
            )
        if len(set(table.pairs)) < len(table.pairs):
            raise ConfigError(f"objectives.distill_relations.pairs = {list(table.pairs)}: name each relation once")
        refuse_layer_drop(setting, name=self.name)
        if dropped := setting.recipe.student.projection_dropout:
            raise ConfigError(
                f"[objectives.distill_relations] with student.projection_dropout = {dropped:g}: a vector's product "
                "with itself grows by 1 / (1 - p) where parts of it are dropped; set student.projection_dropout = 0"
            )
        self.relations = table.pairs
        self.ours = _layer(table.student_layer, student.layers, whose="student")
        self.theirs = _layer(table.teacher_layer, teacher.layers, whose="teacher")
        self.needs = Needs(
            student=Wanted(attention=frozenset({self.ours})), teacher=Wanted(attention=frozenset({self.theirs}))
        )

    def count(self, batch: Batch) -> int:
        return batch.tokens

    def term(self, at: MicroStep) -> Term:
        assert at.student is not None
        assert at.teacher is not None
        student, teacher = self._split(at.student.attention[self.ours]), self._split(at.teacher.attention[self.theirs])
        document_RS = at.batch.document
        total = torch.zeros((), device=document_RS.device)
        for x, y in self.relations:
            total = total + attention_distance(
                (student[x], student[y]), (teacher[x], teacher[y]), document_RS=document_RS, form="kl"
            )
        return Term(total=total)

    def _split(self, attended: Attended) -> dict[str, Tensor]:
        """q, k and v as [R, A, S, d]."""
        joined = {name[0]: part.transpose(1, 2).flatten(2) for name, part in attended._asdict().items()}
        return {name: part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for name, part in joined.items()}


def _layer(chosen: int | None, layers: int, *, whose: str) -> int:
    if chosen is not None and chosen > layers:
        raise ConfigError(f"objectives.distill_relations.{whose}_layer = {chosen}: the {whose} has {layers} layers")
    return chosen or layers
