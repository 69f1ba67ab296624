"""Scripts written, shown, checked by `sbatch --test-only`, and submitted, each stage after the one before it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime

from unibert.config import Recipe
from unibert.errors import ConfigError, MachineError
from unibert.slurm import jobs
from unibert.slurm.stages import Job, folder_of

# Their names are the options', but for these.
VARIABLES = {"time": "SBATCH_TIMELIMIT", "array": "SBATCH_ARRAY_INX", "mem": "SBATCH_MEM_PER_NODE"}


def say(text: str) -> None:
    """A word to the user beside the script, which alone goes to stdout."""
    print(text, file=sys.stderr, flush=True)


def show(ready: Sequence[Job]) -> None:
    """Write the scripts into the run folder, print them, and let sbatch check them.

    Raises:
        MachineError: sbatch refuses one.
    """
    write(ready)
    for job in ready:
        print(job.text, end="", flush=True)
    for job in ready:
        say(f"{job.path}: {check(job)}")


def write(ready: Sequence[Job]) -> None:
    """Write the scripts."""
    for job in ready:
        job.path.parent.mkdir(parents=True, exist_ok=True)
        job.path.write_text(job.text, encoding="utf-8")


def check(job: Job) -> str:
    """What `sbatch --test-only` says of a script. It uses up a job number.

    Raises:
        MachineError: the cluster refuses the script.
    """
    if shutil.which("sbatch") is None:
        return "not checked, there is no sbatch here"
    code, _, said = _sbatch(job, "--test-only")
    said = said.removeprefix("sbatch: ").removeprefix("error: ")
    if code and jobs.call("sinfo", "--noheader")[0]:
        return "not checked, no cluster answers sinfo"
    if code:
        raise MachineError(
            f"sbatch would refuse {job.path}: {said}: look at its #SBATCH lines and at sinfo, and ask for what the "
            "cluster has (--cpus-per-task, --gpus-per-node, --time, --partition, --account)"
        )
    return f"checked; {said}" if said else "checked"


def submit(ready: Sequence[Job], *, recipe: Recipe, after: str | None) -> list[jobs.Submitted]:
    """Check all, then submit them as a chain of dependencies, and keep their numbers.

    Raises:
        ConfigError: a job of the run that would write the same files waits or runs.
        MachineError: no sbatch here, or it refuses one; what was submitted before it is named.
    """
    _refuse_twice(ready, recipe=recipe)
    write(ready)
    for job in ready:
        check(job)
    done: list[jobs.Submitted] = []
    for job in ready:
        words = ["--parsable"]
        if after:
            words += [f"--dependency=afterok:{after}", "--kill-on-invalid-dep=yes"]
        code, text, said = _sbatch(job, *words)
        if code:
            before = (
                f"; {', '.join(str(one.job) for one in done)} are in the queue (unibert slurm cancel)" if done else ""
            )
            raise MachineError(f"sbatch refused {job.path}: {said}{before}")
        number = int(text.partition(";")[0])
        now = datetime.now().isoformat(timespec="seconds")
        done.append(jobs.Submitted(number, job.stage, job.log, job.members, now))
        jobs.record(folder_of(recipe), done[-1])
        say(f"{number}  {job.stage}{f', after {after}' if after else ''}")
        # Of a chain only the last one has to end well: those before it leave with 75, or did nothing.
        after = f"{number}_{job.members}" if job.stage == "train" and job.members else str(number)
    return done


def _refuse_twice(ready: Sequence[Job], *, recipe: Recipe) -> None:
    if shutil.which("sbatch") is None:
        raise MachineError("there is no sbatch here: call this on a node from which jobs are submitted")
    before = {job.job: job.stage for job in jobs.recorded(folder_of(recipe))}
    stages = {job.stage for job in ready}
    for entry in jobs.known(jobs.recorded(folder_of(recipe))):
        if entry.active and before[entry.job] in stages:
            raise ConfigError(
                f"job {entry.name} ({before[entry.job]} of this run) is {entry.state}, and two at once would write the "
                f"same files: unibert slurm stop or cancel {recipe.name} first"
            )


def _sbatch(job: Job, *words: str) -> tuple[int, str, str]:
    return jobs.call("sbatch", *words, str(job.path), environ=environment_for(job, os.environ))


def environment_for(job: Job, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without the SBATCH_ variables that would overrule what was filled in.

    sbatch believes them, which env.sh may set, before a script's own lines.
    """
    overruled = {VARIABLES.get(name, f"SBATCH_{name.replace('-', '_').upper()}") for name in job.given}
    return {name: value for name, value in environ.items() if name not in overruled}
