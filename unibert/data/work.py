"""The work of a stage in tasks, done by one process or by many, each task once, and never again after a restart.

A task's output depends on its settings alone. It writes its own files, each under a temporary name until it is whole,
and is recorded in <folder>/<name>.done.json last. So a stage gives the same bytes with any number of processes and
after any kill, and one that was cut off does what is left. Who does the tasks is the crew: see `crew`.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import orjson

from unibert.data.claims import Claims
from unibert.data.lines import finished, say, write_json
from unibert.errors import ConfigError, MachineError

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_LOOKS = 0.5
"""At what other members of an array have done."""


@dataclass(frozen=True)
class Task:
    """One piece of a stage. `name` is unique in its stage's folder, `settings` are all that its output depends on."""

    name: str
    settings: dict[str, Any]
    argument: Any


@dataclass(frozen=True)
class Done:
    """What a task's function returns: its result, in JSON's types, and the files it wrote."""

    result: dict[str, Any]
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Crew:
    """Who does the tasks: this process, the executor's, or the executor's beside the other members of an array."""

    executor: Executor | None = None
    claims: Claims | None = None
    workers: int = 1
    """Tasks at once."""

    def run(self, function: Callable[[Task], dict[str, Any]], tasks: Sequence[Task]) -> Iterator[tuple[Task, dict]]:
        """(task, result) of each task, as they end. The first error ends it all, after the tasks under way."""
        if self.executor is None or len(tasks) == 1:  # one task is done sooner than a worker begins
            for task in tasks:
                yield task, function(task)
            return
        futures: dict[Future[dict[str, Any]], Task] = {}
        try:
            for task in tasks:
                futures[self.executor.submit(function, task)] = task
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise MachineError(
                "a worker process was killed, perhaps for want of memory: run the command again (what is done is "
                "kept), with fewer --workers"
            ) from error
        finally:
            for future in futures:
                future.cancel()


ALONE = Crew()


@contextmanager
def crew(workers: int | None = None) -> Iterator[Crew | None]:
    """The crew that the environment says; None on MPI ranks other than the first, which serve it until it is done.

    Under mpirun the ranks do the tasks of the first one (mpi4py.futures). Elsewhere `workers` processes do them, as
    many as there are cores when None; in a SLURM array every member does so, and they share the tasks out by claims.
    """
    cores = len(os.sched_getaffinity(0))
    if _mpi_ranks() > 1:
        from mpi4py import MPI
        from mpi4py.futures import MPICommExecutor

        with MPICommExecutor(MPI.COMM_WORLD, root=0) as executor:
            yield None if executor is None else Crew(cast(Executor, executor), workers=MPI.COMM_WORLD.Get_size() - 1)
        return
    count = cores if workers is None else workers
    if count < 1:
        raise ConfigError(f"--workers {count}: at least 1")
    with Claims.from_environment() as claims:
        if count == 1:
            yield Crew(claims=claims)
            return
        context = multiprocessing.get_context("spawn")
        threads = str(max(1, cores // count))
        with ProcessPoolExecutor(count, mp_context=context, initializer=_begin_worker, initargs=(threads,)) as pool:
            yield Crew(pool, claims=claims, workers=count)


def _mpi_ranks() -> int:
    """Ranks that mpirun started; 1 without it."""
    return int(os.environ.get("OMPI_COMM_WORLD_SIZE") or os.environ.get("PMI_SIZE") or 1)


def _begin_worker(threads: str) -> None:
    """Few threads, since there are many processes; and an end when the parent is killed, which sends no word."""
    os.environ["RAYON_NUM_THREADS"] = threads
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


def perform(
    function: Callable[[Any], Done],
    tasks: Sequence[Task],
    *,
    folder: Path,
    crew: Crew = ALONE,
    what: str,
    force: bool = False,
) -> list[dict[str, Any]]:
    """The results of all tasks, in their order; tasks that are recorded with the same settings are not done again.

    Args:
        function: of a task's argument; importable by name, as other processes must find it.
        tasks: with different names.
        folder: of the records (and of the tasks' files, as a rule).
        crew: who does them.
        what: for the progress lines.
        force: do recorded ones too.

    Raises:
        What the function raises; MachineError when a worker was killed.
    """
    assert len({task.name for task in tasks}) == len(tasks), "two tasks of one name"
    if crew.claims is not None and force:
        raise ConfigError("--force in an array would undo what other members do: remove the stage's folder instead")
    results: dict[str, dict[str, Any]] = {}
    told = _Progress(what, len(tasks))
    for task in () if force else tasks:
        if (result := _recorded(folder, task)) is not None:
            results[task.name] = result
    told.skipped(len(results))
    run = partial(_do, function, folder)
    while left := [task for task in tasks if task.name not in results]:
        mine = left if crew.claims is None else _claimed(crew, folder, left, results)
        for task, result in crew.run(run, mine):
            results[task.name] = result
            if crew.claims is not None:
                crew.claims.release(folder / task.name)
            told.one()
        if not mine:
            time.sleep(SECONDS_BETWEEN_LOOKS)
    return [results[task.name] for task in tasks]


def sweep(folder: Path) -> None:
    """Remove the temporary files that killed processes left below a folder; not while another one writes there."""
    for left in folder.rglob(".*.tmp"):
        if left.is_file():
            left.unlink()


def forget(name: str, *, folder: Path) -> None:
    """Let the task of this name be done again."""
    (folder / f"{name}.done.json").unlink(missing_ok=True)


def _claimed(crew: Crew, folder: Path, left: Sequence[Task], results: dict[str, dict[str, Any]]) -> list[Task]:
    """As many tasks as this member can do at once; notes those that another one has done."""
    assert crew.claims is not None
    mine: list[Task] = []
    for task in crew.claims.in_my_order(left):
        if len(mine) == crew.workers:
            break
        if not crew.claims.take(folder / task.name):
            continue
        if (result := _recorded(folder, task)) is not None:
            results[task.name] = result
            crew.claims.release(folder / task.name)
        else:
            mine.append(task)
    return mine


def _record(folder: Path, task: Task) -> Path:
    return folder / f"{task.name}.done.json"


def _recorded(folder: Path, task: Task) -> dict[str, Any] | None:
    """The result of a task that was done with these settings and whose files are there."""
    record = finished(_record(folder, task), json.loads(json.dumps(task.settings)))
    if record is None:
        return None
    sizes = {folder / name: size for name, size in record["files"].items()}
    whole = all(path.is_file() and path.stat().st_size == size for path, size in sizes.items())
    return record["result"] if whole else None


def _do(function: Callable[[Any], Done], folder: Path, task: Task) -> dict[str, Any]:
    """Do one task and record it."""
    _record(folder, task).unlink(missing_ok=True)
    with _without_collector():
        done = function(task.argument)
    files = {os.path.relpath(path, folder): path.stat().st_size for path in done.files}
    # Through JSON, so that a first run and a restart see the same types.
    result = orjson.loads(orjson.dumps(done.result, option=orjson.OPT_NON_STR_KEYS))
    write_json(_record(folder, task), {"settings": task.settings, "files": files, "result": result})
    return result


@contextmanager
def _without_collector() -> Iterator[None]:
    """No search for cycles meanwhile: a task holds many small objects and makes none, and the search took a fifth."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@dataclass
class _Progress:
    """Says now and then how far a stage is."""

    what: str
    total: int
    done: int = 0
    began: float = field(default_factory=time.monotonic)
    said: float = field(default_factory=time.monotonic)

    def skipped(self, count: int) -> None:
        self.done = count
        if count and count < self.total:
            say(f"{self.what}: {count} of {self.total} were done before")

    def one(self) -> None:
        self.done += 1
        if time.monotonic() - self.said > SECONDS_BETWEEN_LINES:
            self.said = time.monotonic()
            say(f"{self.what}: {self.done} of {self.total}, {self.said - self.began:.0f} s")
