"""The log of a run: every step to metrics.jsonl, points to TensorBoard, a bar or lines to the screen.

How a run uses it:
    >>> with RunLogger(run_folder, recipe=recipe, rank=rank, first_step=step) as run_log:
    >>>     for step in range(first, last):
    >>>         run_log.log(step, values)  # once per step, an evaluation's values along with its step's
    >>>         run_log.sync()  # before a checkpoint is marked complete
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from rich.console import Console
from torch import Tensor

from unibert.config import Recipe
from unibert.errors import MachineError
from unibert.observe import metrics_file
from unibert.observe.console import RunConsole
from unibert.observe.rank_log import RankLog, job_name
from unibert.observe.tags import layout, tag_of
from unibert.observe.tensorboard import ScalarWriter, write_projector

log = logging.getLogger(__name__)


class RunLogger:
    """Writes what happens in a run; only rank 0 writes numbers, every rank has a log file of its own.

    Make it on every rank, after the process group exists (the ranks agree on the name of the log folder).

    Args:
        run_folder: the run's folder, of rank 0 at least.
        recipe: the run's recipe.
        rank: this process.
        first_step: last finished step of the checkpoint, 0 at a beginning. Whatever an earlier start logged
            after it is taken back: those steps are done again.
        device_peak_known: whether speed/mfu_percent will be logged.
        job: name of the folder under logs/; by `job_name()` when absent.
        console: where to print, for tests.
    """

    def __init__(
        self,
        run_folder: Path,
        *,
        recipe: Recipe,
        rank: int,
        first_step: int,
        device_peak_known: bool = False,
        job: str | None = None,
        console: Console | None = None,
    ) -> None:
        self.run_folder, self.recipe, self.rank = run_folder, recipe, rank
        self._last_step = first_step if first_step else -1
        with _disk(run_folder):
            self._rank_log = RankLog(run_folder, rank=rank, job=job or job_name())
        log.info("run %s goes on after step %d", recipe.name, first_step)
        self._closed = False
        if rank:
            return
        every, steps = recipe.log.every_steps, recipe.train.steps
        with _disk(run_folder):
            self._metrics = metrics_file.MetricsFile(run_folder / metrics_file.NAME, first_step=first_step)
            charts = layout(recipe, device_peak_known=device_peak_known)
            self._scalars = ScalarWriter(run_folder / "tb", first_step=first_step, layout=charts)
        # The steps since the last point are not lost by a restart between two points.
        self._window = [
            {tag: math.nan if value is None else value for tag, value in row.items() if "/" in tag}
            for row in self._metrics.kept
            if row["step"] > first_step // every * every
        ]
        self._console = RunConsole(steps=steps, first_step=first_step, every_steps=every, console=console)

    @property
    def rank_file(self) -> Path:
        """This rank's own log file."""
        return self._rank_log.path

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log a finished step. The same call on every rank; rank 0's numbers are the ones kept.

        Raises:
            AssertionError: a tag that observe/tags.py lacks, or a step that was logged already.
            MachineError: the disk is full or not writable.
        """
        rows = {tag: tag_of(tag) for tag in values}
        if step <= self._last_step:
            raise AssertionError(f"step {step} is logged after step {self._last_step}: log each step once, in order")
        self._last_step = step
        if self.rank:
            return
        every_step = {tag: values[tag] for tag, row in rows.items() if not row.when.evaluation}
        points = {tag: values[tag] for tag, row in rows.items() if row.when.evaluation}
        if every_step:
            self._window.append(every_step)
        if step % self.recipe.log.every_steps == 0 or step == self.recipe.train.steps:
            points |= _points(self._window)
            self._window = []
        with _disk(self.run_folder):
            self._metrics.append(step, values)
            if points:
                self._scalars.write(step, points)
        self._console.step(step, values)

    def projector(self, step: int, *, embeddings_NH: Tensor, languages: list[str], texts: list[str]) -> None:
        """Write sentence embeddings, coloured by language, for TensorBoard's projector (rank 0 only writes)."""
        if self.rank == 0:
            with _disk(self.run_folder):
                write_projector(
                    self._scalars.writer, step=step, embeddings_NH=embeddings_NH, languages=languages, texts=texts
                )

    def say(self, text: str) -> None:
        """A line for people: on rank 0's screen and in this rank's log file."""
        log.info("%s", text)
        if self.rank == 0:
            self._console.say(text)

    def sync(self) -> None:
        """Wait until metrics.jsonl is on the disk itself: a checkpoint never outlives its steps' numbers."""
        if self.rank == 0:
            with _disk(self.run_folder):
                self._metrics.sync()

    def close(self) -> None:
        """Close every file and leave the bar as it stands; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        if self.rank == 0:
            self._console.close()
            self._metrics.close()
            self._scalars.close()
        self._rank_log.close()

    def __enter__(self) -> RunLogger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            log.error("left after step %d by an error", self._last_step, exc_info=error)
        self.close()


def _points(window: list[dict[str, float]]) -> dict[str, float]:
    """One number per tag for the steps of the window; the mean is over the steps that have the tag."""
    series: dict[str, list[float]] = {}
    for values in window:
        for tag, value in values.items():
            series.setdefault(tag, []).append(value)
    sums = {"mean": lambda values: math.fsum(values) / len(values), "last": lambda values: values[-1], "max": max}
    return {tag: sums[tag_of(tag).point](values) for tag, values in series.items()}


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Turn a failed write into an error that says what to do."""
    try:
        yield
    except OSError as error:
        raise MachineError(
            f"cannot write the run's log in {folder}: {error.strerror or error}; free space or mend its rights and "
            "start the same command again: it goes on from the last complete checkpoint"
        ) from error
