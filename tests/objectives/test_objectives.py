"""The masked LM against a NumPy twin, and that every objective has a test of its own."""

from pathlib import Path

import numpy as np
import pytest

from tests.objectives.small import (
    BATCHES,
    Case,
    array,
    check_gradient,
    check_splitting,
    check_value,
    parameters,
    softmax,
)
from unibert.objective_tables import MaskedLM
from unibert.objectives import OBJECTIVES
from unibert.pair_rules import ON_PAIRS


def twin(at, table):
    p = softmax(array(at.student.masked_logits))
    return -np.log(p[np.arange(len(p)), at.batch.target_ids.numpy()]).sum()


CASES = parameters([Case("masked_lm", MaskedLM(), twin)])


def test_every_objective_is_covered():
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    single = [name for name in OBJECTIVES if name not in ON_PAIRS]  # those are in test_pairs.py
    assert [name for name in single if f'Case("{name}"' not in tests] == []


@pytest.mark.parametrize("shape", BATCHES)
@pytest.mark.parametrize("case", CASES)
def test_value_equals_its_numpy_twin(case, shape):
    check_value(case, shape)


@pytest.mark.parametrize("case", CASES)
def test_gradient_equals_finite_differences_of_the_twin(case):
    check_gradient(case)


@pytest.mark.parametrize("case", CASES)
def test_the_rows_add_up_to_the_whole(case):
    check_splitting(case)
