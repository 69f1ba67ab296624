"""Student and discriminator by their engines equal a plain PyTorch loop that shares nothing with the trainer."""

import re

import pytest

from tests.dist import players_table as table
from tests.dist.players_cases import FP32, SELECTIONS


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """What the launches of the sample found."""
    return table.launch("sample", tmp_path_factory.mktemp("players"), timeout_seconds=600)


@pytest.mark.dist
@pytest.mark.parametrize("case", SELECTIONS["sample"], ids=str)
def test_a_sample_of_the_table(sample, case):
    assert table.problem(case, sample) is None, sample[case]


@pytest.mark.slow
def test_the_whole_table(tmp_path):
    found = table.launch("all", tmp_path, timeout_seconds=7200)
    assert not {case: said for case in found if (said := table.problem(case, found))}


def test_the_page_has_every_case_within_the_bound():
    cells = {}
    for line in table.DOCUMENT.read_text(encoding="utf-8").splitlines():
        way, optimizer, stage, *values = line.strip("| ").split(" | ") if line.count(" | ") >= 4 else ("", "", "")
        cells.setdefault((way, optimizer, stage), values)
    for number, case in enumerate(FP32):
        students, discriminators = zip(*(cell.split(" / ") for cell in cells[case.way, case.optimizer, str(case.stage)]))
