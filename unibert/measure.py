"""Which ZeRO stage is quickest for a recipe on the ranks at hand: a few real steps under each, within two minutes.

`unibert plan RECIPE --measure` prints what this finds and one line of advice. Nothing is written to the run's own
folder: each file of ds_configs gets its own engines, in a temporary one.
"""

from __future__ import annotations

import contextlib
import gc
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import psutil
import torch
from rich.console import Console

from unibert.assembly import assemble
from unibert.config import Recipe
from unibert.errors import Stopped
from unibert.models.precision import bf16_is_faster
from unibert.observe.logger import RunLogger
from unibert.plan import GIB, accumulation_steps, make_plan
from unibert.runtime import dist, dsconfig
from unibert.runtime.dist import Ranks
from unibert.runtime.stop import StopFlag
from unibert.runtime.watchdog import Watchdog
from unibert.trainer import Trainer

FILES = ("zero0", "zero1", "zero2", "zero3")
"""What is tried, in ds_configs/: the one that is simplest and communicates least first."""
BUDGET_SECONDS = 120.0
WARM_UP_STEPS = 2
MOST_STEPS = 12
MOST_MICRO_BATCHES = 8
"""Of a measured step: with more, the cost of the optimizer's move hardly shows."""
LEAST_STEPS_WANTED = 4
"""Timed steps of a file that must fit its part of the budget, or the steps are cut shorter."""
CLOSE = 0.05
"""Speeds that differ by less are called equal."""
ROOM = 0.9
"""Share of a rank's memory that a run may fill."""


@dataclass(frozen=True)
class Measured:
    """What one file came to.

    Attributes:
        file: in ds_configs/.
        tokens_per_second: over all ranks, median of the steps; None when it was not measured.
        peak_gib: most memory of any rank.
        steps: timed ones.
        micro_batches: of a timed step, on each rank.
        why_not: where it was not measured.
    """

    file: str
    tokens_per_second: float | None = None
    peak_gib: float = 0.0
    steps: int = 0
    micro_batches: int = 0
    why_not: str = ""


def measure(recipe: Recipe, *, budget_seconds: float = BUDGET_SECONDS) -> list[Measured]:
    """Measure every file of FILES on the ranks this process is one of; rank 0 prints table and advice.

    Raises:
        UnibertError: whatever would keep the run from starting, such as shards that are not there.
        Stopped: a signal asked to leave.
    """
    ranks = dist.start(threads=recipe.train.threads_per_rank)
    try:
        room = ROOM * _memory_gib(ranks)
        rows: list[Measured] = []
        end = time.monotonic() + budget_seconds
        for number, file in enumerate(FILES):
            until = time.monotonic() + (end - time.monotonic()) / (len(FILES) - number)
            rows.append(_one(file, recipe=recipe, ranks=ranks, until=until, room=room, before=rows))
    finally:
        dist.stop()
    if ranks.is_first:
        print("\n" + text(rows, recipe=recipe, world=ranks.world, room=room), flush=True)
    return rows


@contextlib.contextmanager
def throwaway_trainer(recipe: Recipe, *, ranks: Ranks) -> Iterator[Trainer]:
    """A trainer at its first step, whose run folder and engines are gone afterwards; every rank enters it."""
    made = tempfile.mkdtemp(prefix="unibert_measure_") if ranks.is_first else ""
    folder = Path(dist.everyone_says(made)[0])
    save = recipe.save.model_copy(update={"export": False})
    try:
        run = assemble(recipe.model_copy(update={"runs_folder": folder, "save": save}), ranks=ranks, resume="auto")
        with (
            RunLogger(run.folder, recipe=recipe, rank=ranks.rank, first_step=0, console=Console(quiet=True)) as logger,
            StopFlag(run.folder / "STOP") as stop,
            Watchdog(60 * recipe.train.stall_minutes, log_file=logger.rank_file) as watchdog,
        ):
            yield Trainer(run, logger=logger, stop=stop, watchdog=watchdog)
            for player in run.players:
                player.engine.destroy()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def forget_memory() -> None:
    """Free what is not in use, and let the peak of this process begin again from what is.

    Where Linux refuses that (/proc/self/clear_refs is not writable), the peak on a CPU stays the most so far.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def shortened(recipe: Recipe, *, world: int, most: int = MOST_MICRO_BATCHES) -> Recipe:
    """The recipe after its ladder, its steps cut to about `most` micro-batches that hold the discriminator's turns."""
    turns = _turns(recipe)
    size = max(turns, min(accumulation_steps(recipe, world=world), most // turns * turns))
    batch = size * recipe.train.micro_batch_sequences * world
    train = recipe.train.model_copy(update={"ladder": (), "global_batch_sequences": batch})
    return recipe.model_copy(update={"train": train})


def advice(rows: Sequence[Measured], *, room: float) -> str:
    """One line: the fastest that leaves room, or the simplest one that is as fast as that within 5 %."""
    known = [row for row in rows if row.tokens_per_second is not None]
    fitting = [row for row in known if row.peak_gib <= room]
    if not fitting:
        return (
            f"none leaves room in {room:.1f} GiB: take a smaller train.micro_batch_sequences, "
            "train.recompute_activations, or a file with offload"
        )
    fastest = max(fitting, key=_speed)
    best = next(row for row in fitting if _speed(row) >= (1 - CLOSE) * _speed(fastest))
    missing = [row for row in rows if row not in fitting]
    if best is fastest:
        why = "nothing that fits is faster" if missing else "nothing is faster"
    else:
        gain = 100 * (_speed(fastest) / _speed(best) - 1)
        why = f"{fastest.file} is only {gain:.1f} % faster and communicates more"
    skipped = [row.file for row in missing if FILES.index(row.file) < FILES.index(best.file)]
    if skipped:
        why += f", and {' and '.join(skipped)} would not leave room"
    if min(row.steps for row in known) < LEAST_STEPS_WANTED:
        why += " (of so few steps this is a hint only)"
    return f"take --engines.student {best.file}: {why}; {best.peak_gib:.2f} of {room / ROOM:.1f} GiB of a rank are used"


def text(rows: Sequence[Measured], *, recipe: Recipe, world: int, room: float) -> str:
    """The table, and the advice under it."""
    size, whole = max(row.micro_batches for row in rows), accumulation_steps(recipe, world=world)
    cut = f", in steps of {size} micro-batches where the run's have {whole}" if size < whole else ""
    lines = [f"measured on {world} rank{'s' if world > 1 else ''}{cut}; waiting for data is not counted"]
    lines.append(f"  {'file':8}{'tokens/s':>12}{'peak GiB of a rank':>22}{'steps':>8}")
    for row in rows:
        if row.tokens_per_second is None:
            lines.append(f"  {row.file:8}not measured: {row.why_not}")
        else:
            lines.append(f"  {row.file:8}{row.tokens_per_second:12,.0f}{row.peak_gib:22.2f}{row.steps:8}")
    return "\n".join([*lines, advice(rows, room=room)])


def _one(file: str, *, recipe: Recipe, ranks: Ranks, until: float, room: float, before: Sequence[Measured]) -> Measured:
    """One file, with the steps that the first measured one had."""
    tree = dsconfig.load(file, owned=dsconfig.owned_by_recipe(recipe, world=ranks.world))
    if tree["bf16"]["enabled"] == "auto":
        tree["bf16"]["enabled"] = bf16_is_faster(dist.device())
    plan = make_plan(recipe, world=ranks.world, student_engine=tree)
    planned = sum(engine.rank_bytes - engine.host_bytes for engine in plan.engines) / GIB
    if planned > room / ROOM:
        return Measured(file, why_not=f"weights, gradients and optimizer alone take {planned:.1f} GiB")
    if before and any(dist.everyone_says(time.monotonic() > until)):
        return Measured(file, why_not="the time was over")
    engines = recipe.engines.model_copy(update={"student": file})
    short = shortened(recipe.model_copy(update={"engines": engines}), world=ranks.world)
    forget_memory()
    try:
        with throwaway_trainer(short, ranks=ranks) as trainer:
            size = next((row.micro_batches for row in before if row.micro_batches), None)
            return replace(_time_steps(trainer, until=until, size=size), file=file)
    except torch.OutOfMemoryError:  # equal ranks run out of it together
        return Measured(file, why_not="a rank ran out of memory")


def _time_steps(trainer: Trainer, *, until: float, size: int | None) -> Measured:
    """Warm-up in the shortest steps there are, then steps of `size` micro-batches, or of as many as the time allows."""
    turns = _turns(trainer.recipe)
    speeds, peak, took, late = [], 0.0, 0.0, False
    for step in count(1):
        micros = trainer.run.stream.step(step - 1)
        warm = step > WARM_UP_STEPS or late
        if warm and size is None:
            fitting = min(dist.everyone_says((until - time.monotonic()) / took / LEAST_STEPS_WANTED))
            size = max(turns, min(len(micros), math.floor(fitting) * turns))
        trainer.meter.start()
        began = time.monotonic()
        values = trainer.train_step(step, micros[: size if warm else turns])
        took = time.monotonic() - began
        peak = values["memory/peak_gib"]
        if warm:
            speeds.append(values["speed/tokens_per_second"])
        wanted = 1 if warm else LEAST_STEPS_WANTED
        late, stopping = trainer.agree(time.monotonic() + wanted * took > until, trainer.stop.wanted())
        if stopping:
            raise Stopped(f"stopped by {trainer.stop.reason or 'another rank'} while measuring; nothing is kept")
        if speeds and (late or len(speeds) == MOST_STEPS):
            break
    return Measured("", statistics.median(speeds), peak, len(speeds), size or 0)


def _turns(recipe: Recipe) -> int:
    """Micro-batches of a step are a multiple of this."""
    turns = recipe.discriminator.turns if recipe.discriminator else 1
    return 1 if turns == "every_micro_batch" else turns


def _speed(row: Measured) -> float:
    assert row.tokens_per_second is not None
    return row.tokens_per_second


def _memory_gib(ranks: Ranks) -> float:
    """What a rank has: its device, or its part of the host's memory; the least of all ranks."""
    total = torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else psutil.virtual_memory().total
    shared = 1 if torch.cuda.is_available() else ranks.local_world
    return min(dist.everyone_says(total / shared / GIB))
