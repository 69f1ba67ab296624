"""What happens to jobs, done to a job on the tests' cluster: afterwards it has to train on by itself.

tests/slurm/test_survival.py compares the runs with an undisturbed one. With SLURM_RECOVERY_SAVE=1 the seconds from an
event to the next step of training are appended to benchmarks/results.csv.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import rows
from tests.runs import finish, metrics, start, trace
from tests.slurm.cluster import Cluster, Job

STEPS = 24
STEP_OF_EVENT = 7
"""The newest checkpoint is then of step 4, so that what is lost has to be trained again."""
TAGS = ("loss/total", "loss/language_guess", "optim/grad_norm/student", "optim/grad_norm/discriminator")
OPTIONS = (
    "--train.global_batch_sequences", "64", "--train.steps", str(STEPS), "--save.every_steps", "4",
    "--save.export=false", "--log.every_steps", "1", "--log.evaluate_every_steps", "1000",
)  # fmt: skip
PATIENCE_SECONDS = 600
"""Some ten times what anything here takes on two quiet cores."""


@dataclass(frozen=True)
class Trial:
    """One run of a recipe as a job."""

    job: Job
    run: Path

    def wait_for_step(self, step: int) -> None:
        """It has trained so far, by its log."""
        self.job.wait(lambda: f"step={step}/" in self.job.said(), seconds=PATIENCE_SECONDS, what=f"step {step}")

    def resumed(self) -> int:
        """How often a step has followed on a start from a checkpoint."""
        return len(re.findall(r"going on from .*\n(?:.*\n)*?.*\bstep=", self.job.said()))

    def starts(self) -> int:
        """How often ranks have been started."""
        return self.job.said().count(" ranks on ")

    def recovery(self, event: Callable[[Trial], None]) -> tuple[float, float]:
        """Seconds from an event to the next start of ranks, which are SLURM's, and to the first step thereafter."""
        self.wait_for_step(STEP_OF_EVENT)
        starts, resumed, began = self.starts(), self.resumed(), time.time()
        event(self)
        started = self.job.wait(lambda: self.starts() > starts, seconds=PATIENCE_SECONDS, what="the next start")
        again = self.job.wait(lambda: self.resumed() > resumed, seconds=PATIENCE_SECONDS, what="training again")
        return started - began, again - began

    def trace(self) -> list[tuple[float, ...]]:
        return trace(self.run, TAGS)

    def nodes(self) -> list[str]:
        """Those that the job has now."""
        return self.job.cluster.ask("scontrol", "show", "hostnames", self.job.facts()["NodeList"]).split()


def submit(
    cluster: Cluster, recipe: Path, name: str, *words: str, options: tuple[str, ...] = (), **environ: str
) -> Trial:
    """Submit the recipe on two nodes; `words` are sbatch's, `options` the recipe's."""
    run = recipe.parent / "runs" / name
    job = cluster.submit(
        "--nodes=2", *words, "launch_slurm/train.sbatch", str(recipe), "--name", name, *OPTIONS, *options,
        log=recipe.parent / f"{name}.log", **{"UNIBERT_PREFLIGHT": "0", **environ},
    )  # fmt: skip
    return Trial(job, run)


def submit_light(cluster: Cluster, checkout: Path, name: str, *words: str, **environ: str) -> Trial:
    """Submit a run of light.py's trainer on two nodes."""
    job = cluster.submit(
        "--nodes=2", *words, "launch_slurm/train.sbatch", name,
        checkout=checkout, **{"UNIBERT_PREFLIGHT": "0", **environ},
    )  # fmt: skip
    return Trial(job, checkout / "runs" / name)


def last_step(run: Path) -> int:
    """The last step that metrics.jsonl has."""
    try:
        return int(metrics(run)[-1]["step"])
    except (OSError, IndexError, ValueError):  # not there yet, or a line is half written
        return 0


def undisturbed(recipe: Path, name: str, *options: str, until: int | None = None) -> list[tuple[float, ...]]:
    """The trace of the same run by torchrun, to its end or up to a step."""
    run = recipe.parent / "runs" / name
    process = start(recipe, "--name", name, *OPTIONS, *options, launcher="torchrun", world=2)
    if until is None:
        finish(process, seconds=PATIENCE_SECONDS)
        return trace(run, TAGS)
    while last_step(run) < until:
        assert process.poll() is None, process.communicate()[0][-3000:]
        time.sleep(0.1)
    (run / "STOP").touch()
    finish(process, expect=1)  # of torchrun, whose ranks left with 75
    return trace(run, TAGS)[:until]


def note(event: Callable[[Trial], None], seconds: tuple[float, float], *, trainer: str) -> None:
    """Print the two spans of `Trial.recovery`, and keep them if that is asked for."""
    what = event.__name__.replace("_", " ")
    print(f"{what}: ranks are started again after {seconds[0]:.1f} s, training again after {seconds[1]:.1f} s")
    if os.environ.get("SLURM_RECOVERY_SAVE") == "1":
        shape = f"{trainer} on 2 nodes of a SLURM 22.05 on one machine (SlurmdTimeout 15 s, requeue delay 5 s)"
        device = f"CPU, 2 cores, load {os.getloadavg()[0]:.0f}"
        row = (
            "../tests/slurm/survival.py",
            f"from event to training again: {what}",
            "of which until ranks are started",
        )
        rows.save([(*row, shape, device, "s (lower is better)", f"{seconds[1]:.1f}", f"{seconds[0]:.1f}", 1)])


# --- what happens ---


def near_the_limit(trial: Trial) -> None:
    """What SLURM sends when the time limit is near."""
    trial.job.signal("--signal=USR1", "--batch")


def scancel_signal(trial: Trial) -> None:
    """SIGTERM to every process of the step, as `scancel --signal` sends it."""
    trial.job.signal("--signal=TERM")


def kill_a_rank(trial: Trial) -> None:
    """What a node that is out of memory does to the second rank."""
    os.kill(rank_processes(trial.job)[1], signal.SIGKILL)


def pre_empt(trial: Trial) -> None:
    """Somebody more important wants all nodes for a moment; pre-emption comes with grace time."""
    trial.job.cluster.submit("--nodes=3", "--exclusive", "--wrap", "sleep 5", log=trial.job.log.with_suffix(".urgent"))


def crash_the_last_node(trial: Trial) -> None:
    """Its machine is gone, at once."""
    trial.job.cluster.lab("crash", trial.nodes()[-1])


def crash_the_first_node(trial: Trial) -> None:
    """The one with the batch script and rank 0."""
    trial.job.cluster.lab("crash", trial.nodes()[0])


def cut_the_last_node(trial: Trial) -> None:
    """Its cable is pulled: nothing is closed, nobody answers."""
    trial.job.cluster.lab("cut", trial.nodes()[-1])


def cut_the_first_node(trial: Trial) -> None:
    """The one with the batch script, which runs on and must not stop its successor."""
    trial.job.cluster.lab("cut", trial.nodes()[0])


def rank_processes(job: Job) -> dict[int, int]:
    """Process id by rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
            environ = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if words[1:4] == ["-m", "unibert", "train"] and f"SLURM_JOB_ID={job.id}" in environ:
            rank = next(word for word in environ if word.startswith("SLURM_PROCID="))
            found[int(rank.partition("=")[2])] = int(folder.name)
    return found
