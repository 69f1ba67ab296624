"""launch_slurm/train.sbatch on real daemons, with a trainer that costs nothing (light.py): who puts jobs back, when."""

from pathlib import Path

import pytest

from tests.slurm import light, survival
from tests.slurm.cluster import Cluster
from tests.slurm.survival import note, submit_light

pytestmark = pytest.mark.slurm
SECONDS = 240


@pytest.fixture
def checkout(tmp_path) -> Path:
    return light.make_checkout(tmp_path / "checkout")


def survive(cluster: Cluster, checkout: Path, event, *words: str) -> str:
    """The log of a job that came back once, and ended."""
    trial = submit_light(cluster, checkout, event.__name__, *words)
    seconds = trial.recovery(event)
    said = trial.job.finish(seconds=SECONDS)
    note(event, seconds, trainer=f"a trainer without torch {' '.join(words)}".strip())
    assert trial.job.restarts() == 1
    assert f"step={light.STEPS}/" in said
    return said


def test_a_job_that_gets_nowhere_stops_and_says_why(cluster, checkout):
    """Its rank is killed before each first checkpoint."""
    trial = submit_light(cluster, checkout, "hopeless", "--nodes=1")
    said = trial.job.finish(seconds=SECONDS, expect="FAILED", code=6)
    assert trial.job.restarts() == 2
    assert "2 restarts made no new checkpoint (the newest: none)" in said
    assert said.count("1 x 137") == 3


OTHERS = [pytest.param(event, marks=pytest.mark.slow) for event in (survival.scancel_signal, survival.kill_a_rank)]


@pytest.mark.parametrize("event", [survival.near_the_limit, *OTHERS])
def test_signals(cluster, checkout, event):
    said = survive(cluster, checkout, event)
    assert said.count("back into the queue") == 1


@pytest.mark.slow
def test_pre_emption_with_grace(cluster, checkout):
    said = survive(cluster, checkout, survival.pre_empt, "--partition=spot")
    assert "stopped and saved" in said


@pytest.mark.slow
@pytest.mark.parametrize("event", [survival.crash_the_last_node, survival.crash_the_first_node])
def test_a_node_is_lost_and_there_is_another(checkout, tmp_path, event):
    with Cluster(tmp_path / "lab", nodes=3) as cluster:
        survive(cluster, checkout, event)


@pytest.mark.slow
def test_a_node_is_lost_and_there_is_no_other(checkout, tmp_path):
    with Cluster(tmp_path / "lab", nodes=2) as cluster:
        said = survive(cluster, checkout, survival.crash_the_last_node, "--nodes=1-2")
    assert "2 ranks on node[1-2]" in said
    assert "1 ranks on node1:" in said


@pytest.mark.slow
@pytest.mark.parametrize("event", [survival.cut_the_last_node, survival.cut_the_first_node])
def test_a_cable_is_cut(checkout, tmp_path, event):
    with Cluster(tmp_path / "lab", nodes=3, cables=True) as cluster:
        survive(cluster, checkout, event)


@pytest.mark.slow
def test_a_real_time_limit_again_and_again(cluster, checkout):
    main = checkout / "unibert/__main__.py"
    main.write_text(main.read_text().replace("time.sleep(0.1)", "time.sleep(1)"))
    trial = submit_light(cluster, checkout, "limited", "--time=2", "--signal=B:USR1@90")
    said = trial.job.finish(seconds=600)
    assert trial.job.restarts() >= 3
    assert said.count("got USR1") == said.count("back into the queue") == trial.job.restarts()


@pytest.mark.slow
def test_a_chain_of_jobs(cluster, checkout):
    """Its first member is asked to stop, the second ends the run, the third has nothing to do."""
    chain = {"UNIBERT_CHAIN": "1"}
    trial = submit_light(cluster, checkout, "chain", "--no-requeue", "--array=1-3%1", "--output=chain.log", **chain)
    log = checkout / "chain.log"
    trial.job.wait(lambda: log.exists() and "step=12/" in log.read_text(), seconds=SECONDS, what="step 12")
    first = next(facts["JobId"] for facts in trial.job.members() if facts.get("ArrayTaskId") == "1")
    cluster.ask("scancel", "--signal=USR1", "--batch", first, expect=None)  # it complains of the others, which wait
    trial.job.wait(trial.job.over, seconds=SECONDS, what="the end of the chain")
    codes = {facts["ArrayTaskId"]: facts["ExitCode"] for facts in trial.job.members()}
    assert codes == {"1": "75:0", "2": "0:0", "3": "0:0"}, log.read_text()
    assert "nothing is left for this member" in log.read_text()
    assert (trial.run / f"logs/slurm_{trial.job.id}.starts").read_text().count("\n") == 2


@pytest.mark.slow
def test_a_warning_that_comes_before_the_ranks(cluster, checkout):
    """Then they train for a step, save, and the job comes back."""
    main = checkout / "unibert/__main__.py"
    main.write_text(main.read_text().replace("sys.exit(0)", "print('planning', flush=True), sys.exit(time.sleep(2))"))
    trial = submit_light(cluster, checkout, "early", "--nodes=1")
    trial.job.wait(lambda: "planning" in trial.job.said(), seconds=60, what="its start")
    survival.near_the_limit(trial)
    said = trial.job.finish(seconds=SECONDS)
    assert said.index("got USR1") < said.index("step=1/")
    assert "step=2/" in said[said.index("going on from") :]
    assert trial.job.restarts() == 1
