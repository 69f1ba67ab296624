"""Student and discriminator by their engines equal a plain PyTorch loop that shares nothing with the trainer."""

import re

import pytest

from tests.dist import players_table as table
from tests.dist.players_cases import FP32, SELECTIONS, trains_here


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """What the launches of the sample found."""
    return table.launch("sample", tmp_path_factory.mktemp("players"), timeout_seconds=600)


@pytest.mark.dist
@pytest.mark.parametrize("case", SELECTIONS["sample"], ids=str)
def test_a_sample_of_the_table(sample, case):
    if not trains_here(case):
        pytest.skip("this CPU does not train in fp16")
    assert table.problem(case, sample) is None, sample[case]


@pytest.mark.slow
def test_the_whole_table(tmp_path):
    found = table.launch("all", tmp_path, timeout_seconds=7200)
    assert not {case: said for case in found if (said := table.problem(case, found))}


def test_the_page_has_every_case_within_the_bound():
    section = re.search(
        "<!-- fp32:begin -->(.*)<!-- fp32:end -->", table.DOCUMENT.read_text(encoding="utf-8"), re.DOTALL
    )
    assert section, "docs/players.md has lost its marks"
    for head in {f"| {case.way} | {case.optimizer} | {case.stage} | " for case in FP32}:
        (line,) = [line for line in section[1].splitlines() if line.startswith(head)]
        values = [float(number) for number in re.findall(r"\d\.\de-\d\d", line)]
        assert len(values) == 2 * 4, line  # both players; 1 and 2 ranks, each with accumulation 1 and 4
        assert max(values) <= table.BOUND, line
