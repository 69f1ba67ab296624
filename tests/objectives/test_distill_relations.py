"""MiniLM's relations, with any number of heads, against a NumPy twin."""

import numpy as np
import pytest

from tests.objectives.small import (
    RECIPE,
    WIDER,
    Case,
    array,
    make_batch,
    make_objective,
    parameters,
    softmax,
)
from unibert.errors import ConfigError
from unibert.objective_tables import DistillRelations


def relation(attended, row, here, pair, heads):
    parts = {"q": attended.query, "k": attended.key, "v": attended.value}
    x, y = (np.concatenate(array(parts[name])[row][:, here], axis=-1) for name in pair)  # heads joined: [n, H]
    x, y = (np.stack(np.split(part, heads, axis=-1)) for part in (x, y))
    return softmax(x @ y.transpose(0, 2, 1) / np.sqrt(x.shape[-1]))


def twin(at, table):
    heads = table.relation_heads or 2
    total = 0.0
    for row, documents in enumerate(at.batch.document.numpy()):
        for document in set(documents[documents >= 0]):
            for pair in table.pairs:
                here = documents == document
                s = relation(at.student.attention[table.student_layer or 2], row, here, pair, heads)
                t = relation(at.teacher.attention[table.teacher_layer or 4], row, here, pair, heads)
                total += (t * (np.log(t) - np.log(s))).sum() / heads
    return total


TABLES = [
    DistillRelations(),
    DistillRelations(pairs=("qk", "vv"), relation_heads=1),
    DistillRelations(pairs=("vv",), relation_heads=6, student_layer=1, teacher_layer=3),
]
CASES = parameters(
    [Case("distill_relations", table, twin) for table in TABLES]
    + [Case("distill_relations", DistillRelations(relation_heads=3), twin, teacher=WIDER)]
)


def test_minilm_v1s_attention_transfer_is_the_relation_qk_with_the_models_own_heads():
    """Values differ by nothing but the mean over layers and heads, which both take."""
    from unibert.objective_tables import DistillAttention

    case = Case("distill_relations", DistillRelations(pairs=("qk",), relation_heads=2), twin)
    at = case.step(make_batch(), case.objective())
    attention = make_objective("distill_attention", DistillAttention(form="kl"))
    assert case.objective().term(at).total.item() == pytest.approx(attention.term(at).total.item(), rel=1e-12)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (DistillRelations(relation_heads=4), "relation_heads = 4 must divide both widths, 6 of the student and 12"),
        (DistillRelations(student_layer=3), "student_layer = 3: the student has 2 layers"),
        (DistillRelations(teacher_layer=5), "teacher_layer = 5: the teacher has 4 layers"),
        (DistillRelations(pairs=("qq", "qq")), "name each relation once"),
    ],
)
def test_what_cannot_be_is_refused(table, words):
    with pytest.raises(ConfigError, match=words):
        make_objective("distill_relations", table, teacher=WIDER)


@pytest.mark.parametrize("name", ["layer_drop", "projection_dropout"])
def test_layers_and_vectors_that_are_left_out_at_random_are_refused(name):
    student = RECIPE.student.model_copy(update={name: 0.2})
    with pytest.raises(ConfigError, match=rf"student.{name} = 0.2"):
        make_objective("distill_relations", DistillRelations(), recipe_student=student)
