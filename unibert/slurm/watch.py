"""Asking after a run's jobs: status, tail, stop, cancel; from the run folder and from SLURM."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from unibert.config import Recipe, load_recipe
from unibert.data.exports import newest_export
from unibert.errors import ConfigError, DataError, MachineError
from unibert.observe.metrics_file import NAME, read_metrics
from unibert.slurm import jobs
from unibert.slurm.jobs import Known, Submitted
from unibert.slurm.stages import folder_of

SHOWN = ("loss/total", "eval/masked_cross_entropy", "speed/tokens_per_second")


def status(recipe: Recipe) -> None:
    """Print how far the run is, what is saved, and where its jobs are."""
    for lines in (progress, job_lines):  # the first is worth saying when SLURM does not answer
        print("\n".join(lines(recipe)), flush=True)


def progress(recipe: Recipe) -> list[str]:
    """What the run folder says."""
    run = recipe.run_folder
    began_with = run / "recipe.toml"  # its overrides need not be typed again
    steps = (load_recipe(began_with) if began_with.is_file() else recipe).train.steps
    rows = read_metrics(run / NAME)
    lines = [f"run       {run}: nothing logged yet"]
    if rows:
        last = rows[-1]
        latest = {tag: row[tag] for row in rows for tag in SHOWN if row.get(tag) is not None}
        figures = ", ".join(f"{tag} {value:.4g}" for tag, value in latest.items())
        share = f"{100 * last['step'] / steps:.1f} %"
        lines = [
            f"run       {run}: step {last['step']:,} of {steps:,} ({share}), {_ago(last['unix_seconds'])}",
            f"metrics   {figures}",
        ]
    saved = max((path.parent for path in run.glob("checkpoints/step_*/COMPLETE")), default=None)
    if saved:
        lines.append(f"saved     {saved}, {_ago((saved / 'COMPLETE').stat().st_mtime)}")
    with suppress(DataError):  # none yet
        lines.append(f"model     {newest_export(run)}")
    if (run / "STOP").exists():
        lines.append(f"stopping  {run / 'STOP'} is there: the run saves and leaves after its step")
    return lines


def job_lines(recipe: Recipe) -> list[str]:
    """A line for each job, or member of an array, that SLURM knows, and for the last of those that it forgot."""
    mine = jobs.recorded(folder_of(recipe))
    if not mine:
        return ["jobs      none was submitted by unibert slurm"]
    known = jobs.known(mine)
    lines = []
    for job in mine:
        entries = [entry for entry in known if entry.job == job.job]
        lines += [_job_line(job, entry) for entry in entries]
        if not entries and job is mine[-1]:
            lines.append(f"job       {job.job} {job.stage}: ended, and SLURM has forgotten it")
    lines += [line for job in mine if job.stage == "tensorboard" for line in tunnels(job, known)]
    logs = [log for job in mine for log in job.logs()]
    return [*lines, *(f"log       {log}" for log in logs[-1:])]


def _job_line(job: Submitted, entry: Known) -> str:
    words = [f"job       {entry.name} {job.stage}: {entry.state}"]
    if entry.state == "PENDING" and entry.reason:
        words.append(f"({entry.reason})")
    if entry.nodes:
        words.append(f"on {entry.nodes}")
    if entry.active and entry.began and entry.state != "PENDING":
        words.append(f"since {entry.began:%Y-%m-%d %H:%M}")
    if entry.exit_code:
        words.append(f"with {entry.exit_code}")
    if entry.restarts:
        words.append(f"after {entry.restarts} restart{'s' if entry.restarts > 1 else ''}")
    return " ".join(words)


def tunnels(job: Submitted, known: Sequence[Known]) -> list[str]:
    """What a running TensorBoard's log says of how to reach it."""
    if not any(entry.job == job.job and entry.state == "RUNNING" for entry in known):
        return []
    text = "\n".join(log.read_text(encoding="utf-8", errors="replace") for log in job.logs())
    return [f"tunnel    {line}" for line in text.splitlines() if line.startswith("ssh -N")][-1:]


def tail(recipe: Recipe, *, rank: int | None, lines: int, follow: bool) -> None:
    """Print the end of the newest log of a job, or of a rank; go on as it grows where that is wanted.

    Raises:
        DataError: there is none yet.
    """
    run = recipe.run_folder
    if rank is None:
        logs = [log for job in jobs.recorded(folder_of(recipe)) for log in job.logs()]
    else:
        logs = list(run.glob(f"logs/*/rank_{rank:05d}.log"))
    if not logs:
        raise DataError(f"{run}: no log yet{'' if rank is None else f' of rank {rank}'}: unibert slurm status says why")
    newest = max(logs, key=lambda path: path.stat().st_mtime)
    print(f"==> {newest}", file=sys.stderr, flush=True)
    os.execvp("tail", ["tail", "-n", str(lines), *(["-F"] if follow else []), str(newest)])


def stop(recipe: Recipe) -> None:
    """Let a training that runs save and leave after its step, and take those out that wait.

    Raises:
        ConfigError: no training of the run waits or runs.
    """
    mine = [job for job in jobs.recorded(folder_of(recipe)) if job.stage == "train"]
    active = [entry for entry in jobs.known(mine) if entry.active]
    if not active:
        raise ConfigError(f"no training of {recipe.name} waits or runs (unibert slurm status {recipe.name})")
    waiting = sorted({entry.job for entry in active if entry.state == "PENDING"})
    if waiting:  # first, or the next of a chain would begin and go on
        _scancel("--state=PENDING", *map(str, waiting))
        print(f"taken out of the queue: {', '.join(map(str, waiting))}")
    if any(entry.state != "PENDING" for entry in active):
        (recipe.run_folder / "STOP").touch()
        print(f"{recipe.run_folder / 'STOP'} is there: the run saves and leaves after its step")


def cancel(recipe: Recipe) -> None:
    """Cancel every job of the run that waits or runs.

    Raises:
        ConfigError: there is none.
    """
    active = sorted({entry.job for entry in jobs.known(jobs.recorded(folder_of(recipe))) if entry.active})
    if not active:
        raise ConfigError(f"no job of {recipe.name} waits or runs (unibert slurm status {recipe.name})")
    _scancel(*map(str, active))
    print(f"cancelled: {', '.join(map(str, active))}")


def _scancel(*words: str) -> None:
    code, _, said = jobs.call("scancel", *words)
    if code:
        raise MachineError(f"scancel: {said}")


def _ago(unix_seconds: float) -> str:
    seconds = max(0.0, time.time() - unix_seconds)
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
