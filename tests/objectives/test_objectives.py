"""What holds for every objective on single texts: its NumPy twin, its gradient, and that rows add up to the whole."""

import numpy as np
import pytest

from tests.objectives import (
    test_distill_attention,
    test_distill_hidden,
    test_distill_logits,
    test_distill_relations,
    test_language,
)
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


CASES = [*parameters([Case("masked_lm", MaskedLM(), twin)])]
for module in (test_distill_logits, test_distill_hidden, test_distill_attention, test_distill_relations, test_language):
    CASES += module.CASES


def test_every_objective_is_covered():
    covered = {case.name for parameter in CASES for case in parameter.values}
    assert covered | set(ON_PAIRS) == set(OBJECTIVES), "those on pairs are in test_pairs.py"


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
