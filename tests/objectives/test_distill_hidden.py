"""Distillation of hidden states: layer maps, projection and positions, against a NumPy twin."""

import numpy as np
import pytest
import torch

from tests.objectives.small import (
    STUDENT,
    TEACHER,
    WIDER,
    Case,
    array,
    linear,
    make_batch,
    make_objective,
    parameters,
)
from unibert.errors import ConfigError
from unibert.models.wanted import Sizes, Wanted
from unibert.objective_tables import DistillHidden
from unibert.objectives.layers import layer_pairs

PAIRS = {"last": [(2, 4)], "uniform": [(1, 2), (2, 4)], "bottom": [(1, 1), (2, 2)], "skip": [(1, 2)]}


def twin(at, table):
    real = at.batch.document.numpy() >= 0
    if table.positions == "unmasked":
        real.ravel()[at.batch.target_positions.numpy()] = False
    pairs = PAIRS[table.layers] if isinstance(table.layers, str) else table.layers
    total = 0.0
    for ours, theirs in pairs:
        h_s, h_t = array(at.student.states(ours, layers=2))[real], array(at.teacher.states(theirs, layers=4))[real]
        if "distill_hidden" in at.beside:
            h_s = linear(at.beside["distill_hidden"], h_s)
        if table.form == "cosine":
            norms = np.linalg.norm(h_s, axis=-1) * np.linalg.norm(h_t, axis=-1)
            total += (1 - (h_s * h_t).sum(-1) / norms).sum() / len(pairs)
        else:
            total += ((h_s - h_t) ** 2).mean(-1).sum() / len(pairs)
    return total


TABLES = [
    DistillHidden(),
    DistillHidden(positions="unmasked"),
    DistillHidden(layers="uniform"),
    DistillHidden(layers="bottom"),
    DistillHidden(layers="skip", project=True),
    DistillHidden(layers=((0, 0), (1, 3))),
    DistillHidden(form="cosine", layers="uniform"),
]
CASES = parameters(
    [Case("distill_hidden", table, twin) for table in TABLES]
    + [Case("distill_hidden", table, twin, teacher=WIDER) for table in (TABLES[0], TABLES[2], TABLES[-1])]
)


def test_only_the_layers_in_the_map_are_asked_for():
    needs = make_objective("distill_hidden", DistillHidden()).needs
    assert needs.student == needs.teacher == Wanted()
    needs = make_objective("distill_hidden", DistillHidden(layers=((0, 0), (1, 3), (2, 4)))).needs
    assert (needs.student.hidden, needs.teacher.hidden) == ({0, 1}, {0, 3})


def test_a_projection_between_equal_widths_begins_as_the_identity():
    plain = Case("distill_hidden", DistillHidden(), twin)
    projected = Case("distill_hidden", DistillHidden(project=True), twin)
    totals = [
        objective.term(case.step(make_batch(), objective)).total.item()
        for case in (plain, projected)
        for objective in [case.objective()]
    ]
    assert totals[0] == pytest.approx(totals[1], rel=1e-12)
    assert plain.objective().module() is None


def test_the_layer_maps():
    def pairs(layers, student=6, teacher=12, lowest=0):
        return list(layer_pairs(layers, student=student, teacher=teacher, name="x", lowest=lowest))

    assert pairs("last") == [(6, 12)]
    # TinyBERT, counted from 0: student i takes the attention of teacher i * k + k - 1
    assert pairs("uniform") == [(i + 1, (i * 2 + 2 - 1) + 1) for i in range(6)]
    assert pairs("skip") == [(1, 2), (2, 4), (3, 6), (4, 8), (5, 10)]
    assert pairs("bottom") == [(i, i) for i in range(1, 7)]
    assert pairs("uniform", student=5, teacher=12) == [(1, 2), (2, 4), (3, 7), (4, 9), (5, 12)]


@pytest.mark.parametrize(
    ("layers", "student", "words"),
    [
        ("uniform", 5, "has 5 layers and the teacher only 4"),
        ("skip", 1, "leaves the last layer out"),
        (((1, 5),), 2, r"\[\[1, 5\]\].*0\.\.4"),
        (((-1, 2),), 2, r"0\.\.2"),
        (((1, 2), (1, 2)), 2, "different pairs"),
        ((), 2, "different pairs"),
    ],
)
def test_layers_that_are_not_there_are_refused(layers, student, words):
    sizes = Sizes(layers=student, hidden=6, heads=2, vocabulary=11)
    with pytest.raises(ConfigError, match=words):
        make_objective("distill_hidden", DistillHidden(layers=layers), student=sizes)


def test_hidden_states_of_a_real_encoder_are_counted_as_hugging_face_does():
    """hidden_states[11] of twelve layers is layer 11: index 0 is the embeddings."""
    from tests.unit.test_models_encoder import packed, tiny
    from unibert.models.wanted import Wanted

    encoder = tiny(num_hidden_layers=3)
    _, ids, places, owner = packed()
    with torch.no_grad():
        out = encoder(ids, places, owner, wanted=Wanted(hidden=frozenset({0, 1, 2})))
        layers = encoder.hf.base_model.encoder.layer
        state = out.states(0, layers=3)
        for number, layer in enumerate(layers, start=1):
            state = layer(state, owner[:, None, :, None] == owner[:, None, None, :])
            assert torch.allclose(state, out.states(number, layers=3), atol=1e-6), number
    assert not np.allclose(array(out.states(2, layers=3)), array(out.last_hidden))


def test_sizes_of_the_cases():
    assert (STUDENT.layers, TEACHER.layers, WIDER.layers) == (2, 4, 4), "the twin's layers"
