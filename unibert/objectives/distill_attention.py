"""Distillation of attention maps (Jiao et al., arXiv 1909.10351 and 2103.06418)."""

from __future__ import annotations

import torch

from kernels.attention_maps import Form, attention_distance
from unibert.data.batches import Batch
from unibert.errors import ConfigError
from unibert.models.wanted import Wanted
from unibert.objective_tables import DistillAttention as DistillAttentionTable
from unibert.objectives.base import MicroStep, Needs, Objective, Setting, Term
from unibert.objectives.layers import layer_pairs
from unibert.schema import Table


class DistillAttention(Objective):
    """Distance of the student's attention from the teacher's, row by row of the maps.

    Formula, with a_ij = q_i . k_j / sqrt(D), p_i = softmax_j(a_ij), j over the n_i tokens of i's own document: sum over
    tokens i of the mean over layer pairs and heads of
    `scores_mse`: sum_j (a_s,ij - a_t,ij)^2 / n_i (the raw scores, as TinyBERT and, as far as is known, LightMBERT),
    `maps_mse`: sum_j (p_s,ij - p_t,ij)^2 / n_i, `kl`: KL(p_t,i || p_s,i) in nats; divided by the number of tokens.
    What lies outside of the document counts nothing; TinyBERT counts such entries as zeros in the mean, so that its
    value depends on the padding (the mean over the document is ours).
    Shapes: q, k [R, N, S, D], each model's own D; as many heads on both sides, or heads = "mean".
    Needs: queries and keys of the layers. Cost: no S x S lives on after the forward (kernels/attention_maps.py).
    Tag: loss/distill_attention.
    """

    name = "distill_attention"

    def __init__(self, table: Table, setting: Setting) -> None:
        super().__init__(table, setting)
        assert isinstance(table, DistillAttentionTable)
        student, teacher, dropouts = setting.student, self.teacher_sizes, setting.recipe.student
        self.form: Form = table.form
        self.mean_heads = table.heads == "mean"
        if student.heads != teacher.heads and not self.mean_heads:
            raise ConfigError(
                f"distill_attention compares head with head, but the student has {student.heads} and the teacher "
                f'{teacher.heads}: set objectives.distill_attention.heads = "mean", or take [objectives.'
                "distill_relations], which splits the heads anew"
            )
        if table.form != "scores_mse" and dropouts.attention_dropout:
            raise ConfigError(
                f'objectives.distill_attention.form = "{table.form}" with student.attention_dropout = '
                f"{dropouts.attention_dropout:g}: the student works with maps of which a part is dropped, so the whole "
                'maps that are compared are not its own; set student.attention_dropout = 0, or form = "scores_mse"'
            )
        refuse_layer_drop(setting, name=self.name)
        self.pairs = layer_pairs(table.layers, student=student.layers, teacher=teacher.layers, name=self.name, lowest=1)
        self.needs = Needs(
            student=Wanted(attention=frozenset(s for s, _ in self.pairs)),
            teacher=Wanted(attention=frozenset(t for _, t in self.pairs)),
        )

    def count(self, batch: Batch) -> int:
        return batch.tokens

    def term(self, at: MicroStep) -> Term:
        assert at.student is not None
        assert at.teacher is not None
        total = torch.zeros((), device=at.batch.document.device)
        for ours, theirs in self.pairs:
            student, teacher = at.student.attention[ours], at.teacher.attention[theirs]
            apart = attention_distance(
                (student.query, student.key),
                (teacher.query, teacher.key),
                document_RS=at.batch.document,
                form=self.form,
                mean_heads=self.mean_heads,
            )
            total = total + apart / len(self.pairs)
        return Term(total=total)


def refuse_layer_drop(setting: Setting, *, name: str) -> None:
    """ConfigError where layers are left out at random: then their attention is compared, but goes nowhere."""
    if setting.recipe.student.layer_drop:
        raise ConfigError(
            f"[objectives.{name}] with student.layer_drop = {setting.recipe.student.layer_drop:g}: the attention of a "
            "layer that is left out would be taught and never used; set student.layer_drop = 0, or turn it off"
        )
