"""`unibert slurm --submit` on a cluster of real daemons: stages by dependency, a chain of jobs, stopping."""

import json
from pathlib import Path

import pytest

from tests.runs import metrics
from tests.slurm.cluster import Cluster, Job
from tests.slurm.survival import last_step
from tests.tiny import make_workspace
from unibert.slurm import jobs

pytestmark = pytest.mark.slurm
SECONDS = 600
"""Some ten times what anything here takes on two quiet cores."""
LONG = ("--nodes", 2, "--cpus-per-task", 1, "--save.every_steps", 10000, "--log.evaluate_every_steps", 10000)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("pipeline"))


def unibert(cluster: Cluster, *words: object) -> str:
    line = ["python", "-m", "unibert", "slurm", *map(str, words)]
    return cluster.ask(*line, seconds=SECONDS, UNIBERT_PREFLIGHT="0")


def submitted(cluster: Cluster, run: Path) -> dict[str, Job]:
    """The run's jobs by stage."""
    mine = jobs.recorded(run / "slurm")
    return {job.stage: Job(cluster, job.job, Path(job.log.replace("%j", str(job.job)))) for job in mine}


def test_train_evaluate_export(cluster, recipe):
    """Two nodes of one rank each, up to an export that has been judged, from one command."""
    run = recipe.parent / "runs/piped"
    words = ("--nodes", 2, "--cpus-per-task", 1, "--train.steps", 3, "--name", "piped")
    unibert(cluster, recipe, "--stages", "train,evaluate,export", "--submit", *words)
    there = submitted(cluster, run)
    assert list(there) == ["train", "evaluate", "export"]
    said = unibert(cluster, "status", recipe, "--name", "piped")
    assert f"{there['export'].id} export: PENDING (Dependency)" in said
    for job in there.values():
        job.finish(seconds=SECONDS)
    assert json.loads((run / "environment.json").read_text())["ranks"]["world"] == 2
    assert "2 ranks on node[" in there["train"].said()
    assert (run / "report/report.md").is_file()
    assert f"{run}/hf/step_00000003" in there["export"].said()
    said = unibert(cluster, "status", recipe, "--name", "piped")
    assert "step 3 of 3 (100.0 %)" in said and f"{there['evaluate'].id} evaluate: COMPLETED" in said


@pytest.mark.slow
def test_a_chain_goes_on_where_the_one_before_was_ended(cluster, recipe):
    """The first member saves when its limit is near, the second ends the run, the third has nothing to do."""
    run = recipe.parent / "runs/chained"
    words = ("--chain", 3, "--name", "chained", "--train.steps", 300, *LONG)
    unibert(cluster, recipe, "--stages", "train,export", "--submit", *words)
    there = submitted(cluster, run)
    train = there["train"]
    train.wait(lambda: last_step(run) >= 1, seconds=SECONDS, what="a step")
    cluster.ask("scancel", "--signal=USR1", "--batch", f"{train.id}_1")
    there["export"].finish(seconds=SECONDS)
    codes = {facts["ArrayTaskId"]: facts["ExitCode"] for facts in train.members()}
    assert codes == {"1": "75:0", "2": "0:0", "3": "0:0"}
    assert metrics(run)[-1]["step"] == 300
    logs = [log.read_text() for log in sorted(run.glob("slurm/train-*.out"))]
    assert ["going on from" in log for log in logs] == [False, True, False]
    assert "nothing is left for this member" in logs[2]


@pytest.mark.slow
def test_stop_saves_and_takes_everything_else_out(cluster, recipe):
    run = recipe.parent / "runs/stopped"
    words = ("--chain", 3, "--launcher", "deepspeed", "--name", "stopped", "--train.steps", 100000, *LONG)
    unibert(cluster, recipe, "--stages", "train,export", "--submit", *words)
    there = submitted(cluster, run)
    train = there["train"]
    train.wait(lambda: last_step(run) >= 1, seconds=SECONDS, what="a step")
    unibert(cluster, "stop", recipe, "--name", "stopped")
    train.wait(train.over, seconds=SECONDS, what="the end of the chain")
    there["export"].wait(there["export"].over, seconds=SECONDS, what="the end of what waited for it")
    assert sorted(facts["ExitCode"] for facts in train.members())[-1] == "75:0"
    assert there["export"].state() == "CANCELLED"
    step = metrics(run)[-1]["step"]
    assert (run / f"checkpoints/step_{step:08d}/COMPLETE").exists()
    assert "launcher.launch" in (next(run.glob("slurm/train-*_1.out"))).read_text(), "DeepSpeed's own launcher"
