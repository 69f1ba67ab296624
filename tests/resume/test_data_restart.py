"""Text that is prepared by many processes, killed and started again, is the text of one; data_chaos.py does more."""

import random
import shutil
from pathlib import Path

import pytest

from tests.resume import data_corpora
from tests.resume.data_chaos import STAGES, Preparation, moments, play, same_files


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Preparation:
    """Up to shards, by one process."""
    folder = tmp_path_factory.mktemp("restart")
    recipe = data_corpora.write(folder / "corpora", size=0.5)
    return Preparation(recipe, folder / "expected", stages=STAGES[:5]).run()


@pytest.mark.dist
def test_a_killed_preparation_ends_with_the_same_bytes(small: Preparation) -> None:
    broken = Preparation(small.recipe, small.data.with_name("broken"), workers=2, stages=small.stages)
    kills = [("clean", 0.8 * small.seconds["clean"]), ("tokenize", 0.8 * small.seconds["tokenize"])]
    assert broken.disturbed(kills)  # both of them, unless this machine is suddenly much quicker
    assert same_files(broken.data, small.data) > 250


@pytest.mark.dist
def test_mpi_ranks_tokenize_the_same_bytes(small: Preparation) -> None:
    ranks = Preparation(small.recipe, small.data.with_name("ranks"), ranks=3)
    made = shutil.ignore_patterns("tokenizer", "shards*", "report.*")
    shutil.copytree(small.data, ranks.data, ignore=lambda at, names: made(at, names) if Path(at) == small.data else [])
    ranks.run(["tokenize"])
    assert same_files(ranks.data, small.data) > 250
    assert ranks.said.read_text().count("tokenizer: learning") == 1  # the other ranks serve the first


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Preparation:
    """Everything, by one process."""
    folder = tmp_path_factory.mktemp("chaos")
    return Preparation(data_corpora.write(folder / "corpora", size=4), folder / "expected").run()


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "ranks", "kills"), [(1, 1, 4), (2, 1, 10), (4, 1, 4), (1, 3, 4)], ids=["one", "two", "four", "mpi"]
)
def test_chaos(large: Preparation, tmp_path: Path, workers: int, ranks: int, kills: int) -> None:
    expected = tmp_path / "expected"
    expected.symlink_to(large.data)
    play(large.recipe, expected, kills=kills, workers=workers, ranks=ranks, chance=random.Random(workers + ranks))


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("kills", [0, 2])
def test_an_array(large: Preparation, tmp_path: Path, kills: int) -> None:
    chance = random.Random(kills)
    array = Preparation(large.recipe, tmp_path / "array")
    begin = [moment for _, moment in moments(large.seconds, kills, chance)]
    array.array(3, [3 + 4 * moment for moment in begin], chance)
    same_files(array.data, large.data)
