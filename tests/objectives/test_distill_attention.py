"""Distillation of attention maps, in every form, layer map and way with heads, against a NumPy twin."""

from dataclasses import replace

import numpy as np
import pytest

from tests.objectives.small import (
    RECIPE,
    STUDENT,
    TEACHER,
    WIDER,
    Case,
    array,
    make_objective,
    parameters,
    softmax,
)
from unibert.errors import ConfigError
from unibert.objective_tables import DistillAttention

PAIRS = {"last": [(2, 4)], "uniform": [(1, 2), (2, 4)]}


def maps(attended, row, here, table):
    q, k = array(attended.query)[row][:, here], array(attended.key)[row][:, here]
    scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
    out = scores if table.form == "scores_mse" else softmax(scores)
    return out.mean(0, keepdims=True) if table.heads == "mean" else out


def twin(at, table):
    pairs = PAIRS[table.layers] if isinstance(table.layers, str) else table.layers
    total = 0.0
    for ours, theirs in pairs:
        for row, documents in enumerate(at.batch.document.numpy()):
            for document in set(documents[documents >= 0]):
                here = documents == document
                s = maps(at.student.attention[ours], row, here, table)
                t = maps(at.teacher.attention[theirs], row, here, table)
                apart = t * (np.log(t) - np.log(s)) if table.form == "kl" else (s - t) ** 2 / here.sum()
                total += apart.sum() / len(s) / len(pairs)
    return total


FORMS = ["scores_mse", "maps_mse", "kl"]
CASES = parameters(
    [
        Case("distill_attention", DistillAttention(form=form, layers=layers), twin)
        for form in FORMS
        for layers in ("last", "uniform", ((1, 3), (2, 1)))
    ]
    + [Case("distill_attention", DistillAttention(form=form, heads="mean"), twin, teacher=WIDER) for form in FORMS]
)


def test_only_the_layers_in_the_map_are_asked_for():
    needs = make_objective("distill_attention", DistillAttention(layers="uniform")).needs
    assert (needs.student.attention, needs.teacher.attention) == ({1, 2}, {2, 4})
    assert not needs.student.hidden and not needs.student.masked_logits


def test_uneven_heads_are_refused_unless_their_mean_is_compared():
    with pytest.raises(ConfigError, match=r"student has 2 and the teacher 3: set .*heads = \"mean\""):
        make_objective("distill_attention", DistillAttention(), teacher=WIDER)
    make_objective("distill_attention", DistillAttention(heads="mean"), teacher=WIDER)


@pytest.mark.parametrize("form", ["maps_mse", "kl"])
def test_maps_with_attention_dropout_are_refused(form):
    student = RECIPE.student.model_copy(update={"attention_dropout": 0.1})
    with pytest.raises(ConfigError, match=r"student.attention_dropout = 0.1: .*not its own; set"):
        make_objective("distill_attention", DistillAttention(form=form), recipe_student=student)
    make_objective("distill_attention", DistillAttention(form="scores_mse"), recipe_student=student)


def test_layers_that_are_left_out_at_random_are_refused():
    student = RECIPE.student.model_copy(update={"layer_drop": 0.2})
    with pytest.raises(ConfigError, match=r"student.layer_drop = 0.2"):
        make_objective("distill_attention", DistillAttention(), recipe_student=student)


def test_there_is_no_attention_in_layer_0():
    with pytest.raises(ConfigError, match=r"layer 1\.\.2"):
        make_objective("distill_attention", DistillAttention(layers=((0, 0),)))


def test_a_student_as_deep_as_its_teacher_has_the_same_uniform_and_bottom_map():
    teacher = replace(TEACHER, layers=STUDENT.layers)
    needs = [
        make_objective("distill_attention", DistillAttention(layers=layers), teacher=teacher).needs
        for layers in ("uniform", "bottom")
    ]
    assert needs[0] == needs[1]
