"""launch_slurm/train.sbatch against stand-ins for srun, squeue, scontrol and the trainer: what it does in each case.

It relies on the trainer's contract alone: a file STOP in the run folder or the one that UNIBERT_STOP_FILE names, or
SIGTERM: save and leave with 75.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "launch_slurm"

TRAINER = """
import os, pathlib, signal, sys, time
if sys.argv[1] == "plan":
    sys.exit(2 if sys.argv[2] == "bad" else 0)
term = []
signal.signal(signal.SIGTERM, lambda *_: term.append(1))
stop = pathlib.Path("runs", sys.argv[2], "STOP"), pathlib.Path(os.environ["UNIBERT_STOP_FILE"])
assert not any(path.exists() for path in stop), "a stale file was left"
print("training", flush=True)
for _ in range(200):
    if sys.argv[2] == "quick":
        sys.exit(0)
    if sys.argv[2] == "crash":
        sys.exit(4)
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if term or any(path.exists() for path in stop):
        if sys.argv[2] != "barren":
            saved = stop[0].with_name("checkpoints")
            path = saved / f"step_{1 + len(list(saved.glob('*'))):08d}"
            path.mkdir(parents=True)
            (path / "COMPLETE").touch()
        sys.exit(75)
    time.sleep(0.05)
"""
CONFIG = """
from types import SimpleNamespace
load_recipe = lambda name, overrides: SimpleNamespace(run_folder=f"runs/{name}", train=SimpleNamespace(steps=9))
"""


class Cluster:
    """A checkout with a trainer of a few lines, and a PATH where SLURM's commands are ours."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        (self.bin / "python").symlink_to(sys.executable)
        self.command("srun", 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"')
        self.command("squeue", 'cat "$STATE"')
        self.command("scontrol", 'echo "$*" >> scontrol.log')
        (folder / "state").write_text("RUNNING\n")
        package = folder / "unibert"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "config.py").write_text(CONFIG)
        (package / "__main__.py").write_text(TRAINER)
        (folder / "launch_slurm").mkdir()
        for name in ("env.sh", "preflight.sh", "task.sh", "train.sbatch"):
            (folder / "launch_slurm" / name).write_bytes((SCRIPTS / name).read_bytes())

    def command(self, name: str, body: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)

    def submit(self, *words: str, **more: str) -> subprocess.Popen[str]:
        job = {
            "SLURM_SUBMIT_DIR": str(self.folder),
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "node1",
            "SLURM_NTASKS": "1",
            "STATE": str(self.folder / "state"),
        }
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "UNIBERT"))}
        return subprocess.Popen(
            ["bash", SCRIPTS / "train.sbatch", *words],
            env=environ | job | more | {"PATH": f"{self.bin}:{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def end(self, job: subprocess.Popen[str]) -> tuple[int, str, bool]:
        """(exit code, what was printed, whether the job was put back into the queue)."""
        said, _ = job.communicate(timeout=30)
        log = self.folder / "scontrol.log"
        return job.returncode, said, log.exists() and "requeue 7" in log.read_text()


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def until_training(job: subprocess.Popen[str]) -> None:
    assert job.stdout is not None
    for line in job.stdout:
        if "training" in line:
            return
    raise AssertionError("the trainer never started")


def test_a_finished_run_leaves_with_zero(cluster: Cluster):
    code, _, requeued = cluster.end(cluster.submit("quick"))
    assert (code, requeued) == (0, False)


def test_near_the_time_limit_it_saves_and_goes_back_into_the_queue(cluster: Cluster):
    job = cluster.submit("long")
    until_training(job)
    job.send_signal(signal.SIGUSR1)
    code, said, requeued = cluster.end(job)
    assert (code, requeued) == (0, True), said
    assert "got USR1" in said


def test_preemption_that_only_reaches_the_step_goes_back_into_the_queue(cluster: Cluster):
    """With GraceTime SLURM sends TERM to every process of the step, the task's shell too, not to the batch shell."""
    job = cluster.submit("long")
    until_training(job)
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    for task in map(int, children):
        for process in [*Path(f"/proc/{task}/task/{task}/children").read_text().split(), str(task)]:
            os.kill(int(process), signal.SIGTERM)
    code, said, requeued = cluster.end(job)
    assert (code, requeued) == (0, True), said


def test_a_stop_file_of_the_users_own_ends_the_job(cluster: Cluster):
    job = cluster.submit("long")
    until_training(job)
    (cluster.folder / "runs/long/STOP").touch()
    code, said, requeued = cluster.end(job)
    assert (code, requeued) == (75, False), said
    assert "goes on" in said


def test_a_cancelled_job_is_not_put_back(cluster: Cluster):
    job = cluster.submit("long")
    until_training(job)
    (cluster.folder / "state").write_text("COMPLETING\n")
    job.send_signal(signal.SIGTERM)
    code, said, requeued = cluster.end(job)
    assert (code, requeued) == (75, False), said


def test_the_number_of_restarts_is_capped(cluster: Cluster):
    job = cluster.submit("long", SLURM_RESTART_COUNT="3", UNIBERT_MAX_RESTARTS="3")
    until_training(job)
    time.sleep(0.1)
    job.send_signal(signal.SIGUSR1)
    code, said, requeued = cluster.end(job)
    assert (code, requeued) == (75, False), said
    assert "after 3 restarts" in said


@pytest.mark.parametrize(("words", "expected"), [(["crash"], 4), (["bad"], 2), ([], 2)])
def test_errors_keep_their_exit_code(cluster: Cluster, words: list[str], expected: int):
    code, said, requeued = cluster.end(cluster.submit(*words))
    assert (code, requeued) == (expected, False), said


def test_what_an_earlier_start_left_is_removed(cluster: Cluster):
    (cluster.folder / "runs/quick/logs/slurm_7").mkdir(parents=True)
    (cluster.folder / "runs/quick/logs/slurm_7/stop").touch()
    (cluster.folder / "runs/quick/logs/slurm_7/left.0").write_text("75\n")
    (cluster.folder / "runs/quick/STOP").touch()
    code, said, requeued = cluster.end(cluster.submit("quick"))
    assert (code, requeued) == (0, False), said


def test_a_killed_rank_puts_the_job_back(cluster: Cluster):
    code, said, requeued = cluster.end(cluster.submit("killed"))
    assert (code, requeued) == (0, True), said
    assert "1 x 137" in said


@pytest.mark.parametrize("recipe", ["killed", "barren"])
def test_restarts_that_save_nothing_new_come_to_an_end(cluster: Cluster, recipe: str):
    """Two restarts after the first start; what that one had saved counts for nothing."""
    checkpoint = cluster.folder / "runs" / recipe / "checkpoints/step_00000004/COMPLETE"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    for restart in range(3):
        job = cluster.submit(recipe, SLURM_RESTART_COUNT=str(restart))
        if recipe == "barren":
            until_training(job)
            job.send_signal(signal.SIGUSR1)
        code, said, requeued = cluster.end(job)
        assert (code, requeued) == ((0, True) if restart < 2 else (6, False)), said
        (cluster.folder / "scontrol.log").unlink(missing_ok=True)
    assert "2 restarts made no new checkpoint (the newest: step_00000004)" in said
    code, said, requeued = cluster.end(cluster.submit(recipe, SLURM_RESTART_COUNT="3"))
    assert (code, requeued) == (6, False), "SLURM itself put it back"
    assert "training" not in said


def test_progress_is_what_keeps_a_job_in_the_queue(cluster: Cluster):
    for restart in range(4):
        job = cluster.submit("long", SLURM_RESTART_COUNT=str(restart))
        until_training(job)
        job.send_signal(signal.SIGUSR1)
        code, said, requeued = cluster.end(job)
        assert (code, requeued) == (0, True), said


def test_a_member_of_a_chain_leaves_the_rest_to_the_next(cluster: Cluster):
    chain = {"UNIBERT_CHAIN": "1", "SLURM_ARRAY_JOB_ID": "5"}
    job = cluster.submit("long", **chain)
    until_training(job)
    job.send_signal(signal.SIGUSR1)
    code, said, requeued = cluster.end(job)
    assert (code, requeued) == (75, False), said
    done = cluster.folder / "runs/long/checkpoints/step_00000009/COMPLETE"
    done.parent.mkdir()
    done.touch()
    code, said, requeued = cluster.end(cluster.submit("long", **chain))
    assert (code, requeued) == (0, False), said
    assert "training" not in said


def test_a_chain_that_saves_nothing_new_comes_to_an_end(cluster: Cluster):
    codes = []
    for member in range(4):
        job = cluster.submit("killed", UNIBERT_CHAIN="monday", SLURM_JOB_ID=str(7 + member))
        codes.append(cluster.end(job)[0])
    assert codes == [75, 75, 6, 6]
