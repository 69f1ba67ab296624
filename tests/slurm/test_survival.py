"""Jobs of launch_slurm/train.sbatch survive what happens to jobs, and the run is the one that nothing happened to.

Each starts again by itself, on whatever nodes there are, and its trace of losses is bit for bit that of an undisturbed
run; on fewer ranks, up to rounding. SLURM_RECOVERY_SAVE=1 keeps the seconds (survival.py).
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm import survival
from tests.slurm.cluster import Cluster
from tests.slurm.survival import PATIENCE_SECONDS, STEPS, Trial, note, rank_processes, submit, undisturbed
from tests.tiny import make_workspace

pytestmark = [pytest.mark.slurm, pytest.mark.dist]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("survival"))


@pytest.fixture(scope="module")
def expected(recipe) -> list:
    trace = undisturbed(recipe, "undisturbed")
    assert len(trace) == STEPS
    return trace


def survive(cluster: Cluster, recipe: Path, event: Callable[[Trial], None], *words: str) -> Trial:
    """The run after the event, ended."""
    trial = submit(cluster, recipe, event.__name__, *words)
    seconds = trial.recovery(event)
    note(event, seconds, trainer="tiny recipe")
    trial.job.finish(seconds=PATIENCE_SECONDS)
    assert trial.job.restarts() == 1
    return trial


@pytest.mark.slow
def test_a_job_near_its_time_limit(cluster, recipe, expected):
    trial = survive(cluster, recipe, survival.near_the_limit)
    assert trial.trace() == expected
    assert "back into the queue" in trial.job.said()


@pytest.mark.slow
@pytest.mark.parametrize("event", [survival.scancel_signal, survival.kill_a_rank])
def test_signals(cluster, recipe, expected, event):
    assert survive(cluster, recipe, event).trace() == expected


@pytest.mark.slow
def test_a_signal_while_ranks_start(cluster, recipe, expected):
    """It is kept until the first step; nothing of a rank's start is lost by it."""
    trial = submit(cluster, recipe, "early")
    trial.job.wait(lambda: len(rank_processes(trial.job)) == 2, seconds=PATIENCE_SECONDS, what="the ranks' processes")
    survival.scancel_signal(trial)
    said = trial.job.finish(seconds=PATIENCE_SECONDS)
    assert "with: 2 x 75" in said
    assert trial.job.restarts() == 1
    assert trial.trace() == expected


@pytest.mark.slow
def test_pre_emption_with_grace(cluster, recipe, expected):
    trial = survive(cluster, recipe, survival.pre_empt, "--partition=spot")
    assert trial.trace() == expected
    assert "stopped and saved" in trial.job.said()


@pytest.mark.slow
def test_a_node_is_lost_and_there_is_another(recipe, expected, tmp_path):
    with Cluster(tmp_path / "lab", nodes=3) as cluster:
        trial = survive(cluster, recipe, survival.crash_the_last_node)
        assert trial.trace() == expected
        assert trial.nodes() == ["node1", "node3"]


@pytest.mark.slow
def test_the_node_of_the_batch_script_is_lost(recipe, expected, tmp_path):
    with Cluster(tmp_path / "lab", nodes=3) as cluster:
        trial = survive(cluster, recipe, survival.crash_the_first_node)
        assert trial.trace() == expected
        assert trial.nodes() == ["node2", "node3"]


@pytest.mark.slow
def test_a_node_is_lost_and_there_is_no_other(recipe, expected, tmp_path):
    """`sbatch --nodes=1-2`: one rank does the work of two."""
    with Cluster(tmp_path / "lab", nodes=2) as cluster:
        trial = submit(cluster, recipe, "elastic", "--nodes=1-2")
        seconds = trial.recovery(survival.crash_the_last_node)
        trial.job.finish(seconds=PATIENCE_SECONDS)
        assert (trial.job.restarts(), trial.nodes()) == (1, ["node1"])
    note(survival.crash_the_last_node, seconds, trainer="tiny recipe, 2 ranks, then 1,")
    found = trial.trace()
    assert [row[0] for row in found] == [row[0] for row in expected]
    for row, other in zip(found, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-4)


@pytest.mark.slow
def test_a_cable_is_cut(recipe, expected, tmp_path):
    with Cluster(tmp_path / "lab", nodes=3, cables=True) as cluster:
        trial = survive(cluster, recipe, survival.cut_the_last_node)
        assert trial.trace() == expected
        assert trial.nodes() == ["node1", "node3"]


@pytest.mark.slow
def test_a_real_time_limit_again_and_again(cluster, recipe):
    """SLURM warns by itself; after three requeues it has been enough."""
    minutes = os.environ.get("SLURM_TEST_MINUTES", "2")  # more where the machine is busy
    options = ("--train.steps", "100000", "--train.global_batch_sequences", "256")
    trial = submit(cluster, recipe, "limited", f"--time={minutes}", "--signal=B:USR1@60", options=options)
    trial.job.wait(lambda: trial.resumed() >= 3, seconds=4 * 60 * int(minutes), what="three requeues")
    (trial.run / "STOP").touch()
    said = trial.job.finish(seconds=PATIENCE_SECONDS, expect="FAILED", code=75)
    assert said.count("got USR1") == said.count("back into the queue") == 3
    found = trial.trace()
    assert [row[0] for row in found] == list(range(1, len(found) + 1))
    assert found == undisturbed(recipe, "unlimited", *options, until=len(found))
