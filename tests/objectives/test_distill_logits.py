"""Distillation of logits, in every divergence and at both sorts of positions, against NumPy twins."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.objectives.small import (
    TEACHER,
    Case,
    array,
    make_batch,
    make_objective,
    make_step,
    parameters,
    softmax,
)
from unibert.errors import ConfigError
from unibert.objective_tables import DistillLogits
from unibert.objectives.base import MicroStep


def kl(p, q):
    return (p * (np.log(p) - np.log(q))).sum()


def twin(at, table):
    t = table.temperature
    which = "token_logits" if table.positions == "all" else "masked_logits"
    z_s, z_t = array(getattr(at.student, which)), array(getattr(at.teacher, which))
    p_s, p_t = softmax(z_s / t), softmax(z_t / t)
    if table.divergence == "mse":
        return (((z_s - z_t) / t) ** 2).mean(-1).sum()
    m = (p_s + p_t) / 2
    return (
        t
        * t
        * {"forward_kl": kl(p_t, p_s), "reverse_kl": kl(p_s, p_t), "js": (kl(p_s, m) + kl(p_t, m)) / 2}[
            table.divergence
        ]
    )


DIVERGENCES = ["forward_kl", "reverse_kl", "js", "mse"]
CASES = parameters(
    [
        Case("distill_logits", DistillLogits(divergence=kind, positions=positions, temperature=temperature), twin)
        for kind in DIVERGENCES
        for positions, temperature in (("masked", 2.0), ("all", 0.7))
    ]
)


@pytest.mark.parametrize("positions", ["masked", "all"])
def test_only_the_head_that_is_needed_is_asked_for(positions):
    needs = make_objective("distill_logits", DistillLogits(positions=positions)).needs
    assert replace(needs.student, last_hidden=False) == needs.teacher
    assert (needs.student.masked_logits, needs.student.token_logits) == (positions == "masked", positions == "all")


def test_js_needs_no_label_and_is_symmetric_and_bounded():
    at = make_step(make_batch())
    objective = make_objective("distill_logits", DistillLogits(divergence="js", temperature=1.0))
    total = objective.term(at).total.item()
    other_ids = replace(at.batch, target_ids=at.batch.target_ids + 1)
    turned = MicroStep(other_ids, student=at.teacher, teacher=at.student)
    assert objective.term(turned).total.item() == pytest.approx(total, rel=1e-9)
    assert 0 < total < math.log(2) * objective.count(at.batch)


def test_two_vocabularies_are_refused():
    with pytest.raises(ConfigError, match=r"11 pieces and the teacher 12.*unibert teacher trim"):
        make_objective("distill_logits", DistillLogits(), teacher=replace(TEACHER, vocabulary=12))
