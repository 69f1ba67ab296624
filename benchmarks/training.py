"""The training loop: what it costs beside hand-written loops, and what its parts cost.

    python benchmarks/training.py [--recipe demo [--data.folder FOLDER ...]] [--quick] [--save]

On one rank: our step against a minimal DeepSpeed loop of the same model, micro-batches and engine file, with MLM
alone; the adversary; the counting; saving and resuming beside DeepSpeed's own. Then it starts itself on two ranks:
the minimal loop again, and torch's DDP against ZeRO 0 to 3. The sides are interleaved, step by step; figures are
medians. Without --recipe the text is the tests' made-up one and the student 6 layers x 384, from random weights.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.nn.functional as F

from unibert.config import Recipe, load_recipe
from unibert.data.batches import Batch, Stream
from unibert.data.shards import ShardSet
from unibert.measure import FILES, forget_memory, throwaway_trainer
from unibert.models.precision import bf16_is_faster
from unibert.models.student import build_student
from unibert.objective_tables import LanguageConfusion, LanguageGuess, MaskedLM, Objectives
from unibert.observe.meter import peak_memory_bytes
from unibert.plan import accumulation_steps
from unibert.runtime import checkpoint, dist, dsconfig
from unibert.runtime.checkpoint import Saver
from unibert.runtime.dist import Ranks
from unibert.runtime.optimizers import build
from unibert.schema import Discriminator, Save
from unibert.trainer import Trainer

WORLD = 2
RESULTS = Path(__file__).with_name("results.csv")
LARGER = "--student.start random --train.micro_batch_sequences 64 --train.global_batch_sequences 256"


@dataclass
class Bench:
    """What every measurement needs, and the rows that come of it."""

    recipe: Recipe
    ranks: Ranks
    repeats: int
    files: tuple[str, ...] = FILES
    load: float = field(default_factory=lambda: os.getloadavg()[0])
    """Of the machine before it began: other work, where it is much above 0."""
    rows: list[list[str]] = field(default_factory=list)

    def row(self, what: str, against: str, unit: str, figures: tuple[float, float | None], *, repeats: int) -> None:
        """Print a figure, beside its baseline where it has one, and keep it for `--save`."""
        value, other = figures
        if self.ranks.is_first:
            beside = "" if other is None else f", {against} {other:,.3f}: ratio {value / other:.3f}"
            print(f"{what}: {value:,.3f}{beside}; {unit}", flush=True)
        cells = [f"{value:.3f}", "" if other is None else f"{other:.3f}", str(repeats)]
        self.rows.append([what, against, *self.where(), unit, *cells])

    def where(self) -> tuple[str, str]:
        """Columns `shape` and `device`."""
        recipe, config = self.recipe, build_student(self.recipe).hf.config
        train, device = recipe.train, dist.device()
        shape = f"{config.num_hidden_layers}x{config.hidden_size}, V {config.vocab_size}, {recipe.student.trainable} "
        shape += f"moving, S {recipe.data.max_sequence_tokens}, {train.global_batch_sequences} documents in micro-"
        shape += f"batches of {train.micro_batch_sequences}, {self.ranks.world} rank(s), {recipe.engines.student}"
        name = (
            torch.cuda.get_device_name() if device.type == "cuda" else f"CPU {torch.backends.cpu.get_cpu_capability()}"
        )
        fast = "bf16 where auto" if bf16_is_faster(device) else "fp32"
        return shape, f"{name}, {torch.get_num_threads()} thread(s) a rank, {fast}, load before {self.load:.1f}"

    def write(self, arguments: str) -> None:
        """Append the rows to results.csv."""
        words, here = ["git", "rev-parse", "--short", "HEAD"], RESULTS.parent
        commit = subprocess.run(words, capture_output=True, text=True, check=True, cwd=here)
        first = [datetime.date.today().isoformat(), commit.stdout.strip(), f"training.py {arguments}".strip()]
        with RESULTS.open("a", newline="") as file:
            csv.writer(file).writerows([*first, *row] for row in self.rows)


# --- the sides --------------------------------------------------------------------------------------------------------


def ours(trainer: Trainer) -> Callable[[list[Batch]], None]:
    """One step of the real loop on micro-batches that are ready: what `Trainer.step` and its caller do."""
    steps = iter(range(1, 10**9))

    def step(micros: list[Batch]) -> None:
        trainer.meter.start()
        trainer.train_step(next(steps), micros)
        trainer.agree(False, False)  # nobody stops, nobody writes

    return step


class Minimal:
    """What one writes after DeepSpeed's tutorial: engine, mean cross-entropy, backward, step."""

    def __init__(self, recipe: Recipe, *, world: int) -> None:
        student = build_student(recipe).to(dist.device())
        config = dsconfig.complete(
            dsconfig.load(recipe.engines.student),
            micro_batch=recipe.train.micro_batch_sequences,
            accumulation=accumulation_steps(recipe, world=world),
            world=world,
            clip_norm=recipe.optimizer.clip_norm,
            bf16_is_faster=bf16_is_faster(dist.device()),
        )
        self.engine: Any
        self.engine, *_ = deepspeed.initialize(
            model=student, optimizer=build(student, table=recipe.optimizer), config=config
        )

    def step(self, micros: list[Batch]) -> None:
        for batch in micros:
            loss = mean_loss(self.engine, batch)
            self.engine.backward(loss)
            self.engine.step()


class Ddp:
    """The same by torch's DistributedDataParallel: fp32 weights, under autocast where bf16 is faster."""

    def __init__(self, recipe: Recipe) -> None:
        self.student = build_student(recipe).to(dist.device())
        self.model = torch.nn.parallel.DistributedDataParallel(self.student)
        self.optimizer = build(self.student, table=recipe.optimizer)
        self.clip_norm, self.bf16 = recipe.optimizer.clip_norm, bf16_is_faster(dist.device())

    def step(self, micros: list[Batch]) -> None:
        for number, batch in enumerate(micros, start=1):
            quiet: AbstractContextManager = nullcontext() if number == len(micros) else self.model.no_sync()
            with quiet:
                with torch.autocast(dist.device().type, torch.bfloat16, enabled=self.bf16):
                    loss = mean_loss(self.model, batch) / len(micros)
                loss.backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()


def mean_loss(model: Callable[..., Any], batch: Batch) -> torch.Tensor:
    """The masked LM's, of one micro-batch."""
    batch = batch.to(dist.device())
    out = model(batch.input_ids, batch.position_ids, batch.document, batch.target_positions)
    return F.cross_entropy(out.masked_logits.float(), batch.target_ids)


# --- measuring --------------------------------------------------------------------------------------------------------


def now() -> float:
    """Seconds: of CPU time when one thread is alone, in which other work on the machine does not show; else wall."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    alone = torch.distributed.get_world_size() == 1 and not torch.cuda.is_available() and torch.get_num_threads() == 1
    return time.process_time() if alone else time.perf_counter()


def interleave(
    sides: Sequence[Callable[[list[Batch]], None]], stream: Callable[[int], list[Batch]], *, repeats: int
) -> list[list[float]]:
    """Tokens a second of this rank for each side, by round; a round gives every side the same micro-batches."""
    speeds: list[list[float]] = [[] for _ in sides]
    for turn in range(repeats + 2):
        micros = stream(turn)
        order = list(enumerate(sides))
        for number, step in order if turn % 2 else order[::-1]:
            torch.distributed.barrier()
            began = now()
            step(micros)
            if turn >= 2:  # two rounds of warm-up
                speeds[number].append(sum(batch.tokens for batch in micros) / (now() - began))
    return speeds


def medians(speeds: list[list[float]], *, world: int) -> tuple[float, float]:
    """(first, second) side's tokens/s over all ranks, such that their ratio is the median of the rounds' ratios."""
    second = world * statistics.median(speeds[1])
    return second * statistics.median(a / b for a, b in zip(*speeds, strict=True)), second


class Clock:
    """Adds up the seconds spent in methods of an object."""

    def __init__(self, thing: Any, *names: str) -> None:
        self.seconds = 0.0
        for name in names:
            setattr(thing, name, self._around(getattr(thing, name)))

    def _around(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = now()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds += now() - began

        return timed


def masked_lm_alone(recipe: Recipe) -> Recipe:
    """The recipe without discriminator and distillation."""
    return recipe.model_copy(update={"discriminator": None, "objectives": Objectives(masked_lm=MaskedLM())})


def with_adversary(recipe: Recipe) -> Recipe:
    """The masked LM and both sides of the adversary."""
    table = recipe.discriminator or Discriminator()
    on = Objectives(masked_lm=MaskedLM(), language_guess=LanguageGuess(), language_confusion=LanguageConfusion())
    return recipe.model_copy(update={"discriminator": table, "objectives": on})


# --- rows -------------------------------------------------------------------------------------------------------------


def loop_against_minimal(bench: Bench) -> None:
    """Our step beside the minimal loop's, then what part of it is counting and metering."""
    recipe, world = masked_lm_alone(bench.recipe), bench.ranks.world
    unit = "tokens/s (higher is better)"
    with throwaway_trainer(recipe, ranks=bench.ranks) as trainer:
        stream, step, minimal = trainer.run.stream.step, ours(trainer), Minimal(recipe, world=world)
        speeds = interleave([step, minimal.step], stream, repeats=bench.repeats)
        figures = medians(speeds, world=world)
        bench.row("our loop, MLM alone", "a minimal DeepSpeed loop", unit, figures, repeats=bench.repeats)
        counting = Clock(trainer, "count", "agree")
        meter = Clock(trainer, "measure", "summarise")
        began = now()
        for turn in range(bench.repeats):
            step(stream(turn))
        whole = (now() - began) / 100
        unit = "% of a step (lower is better)"
        bench.row("counting targets and agreeing", "", unit, (counting.seconds / whole, None), repeats=bench.repeats)
        bench.row("the meter's sums", "", unit, (meter.seconds / whole, None), repeats=bench.repeats)
        if world == 1:
            saving(bench, trainer, minimal.engine)


def adversary(bench: Bench) -> None:
    """A step with both sides of the adversary beside one without."""
    plain, more = masked_lm_alone(bench.recipe), with_adversary(bench.recipe)
    with throwaway_trainer(plain, ranks=bench.ranks) as off, throwaway_trainer(more, ranks=bench.ranks) as on:
        speeds = interleave([ours(on), ours(off)], on.run.stream.step, repeats=bench.repeats)
        what, unit = "with the adversary", "tokens/s (higher is better)"
        figures = medians(speeds, world=bench.ranks.world)
        bench.row(what, "without, MLM alone", unit, figures, repeats=bench.repeats)


def saving(bench: Bench, trainer: Trainer, engine: Any) -> None:
    """What a save costs the training, and a load, beside DeepSpeed's own of an engine of the same state."""
    run, repeats = trainer.run, max(2, bench.repeats // 2)
    seconds: dict[str, list[float]] = {}
    sizes = {}

    def timed(name: str, work: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        began = time.perf_counter()
        work(*args, **kwargs)
        seconds.setdefault(name, []).append(time.perf_counter() - began)

    with tempfile.TemporaryDirectory() as scratch:
        folders = {name: Path(scratch) / name for name in ("background", "foreground", "deepspeed")}
        savers = {
            name: Saver(folders[name], ranks=run.ranks, table=Save(background=name == "background", keep_last=1))
            for name in ("background", "foreground")
        }
        for _ in range(repeats):
            for name, saver in savers.items():
                timed(f"{name} begin", saver.begin, players=run.players, state=run.state)
                while saver.writing:  # the training would go on here
                    time.sleep(0.01)
                timed(f"{name} finish", saver.finish)
            timed("deepspeed save", engine.save_checkpoint, str(folders["deepspeed"]), tag="now")
            path = checkpoint.complete_folders(folders["background"])[0]
            timed("load", checkpoint.load, path, players=run.players, ranks=run.ranks)
            timed("deepspeed load", engine.load_checkpoint, str(folders["deepspeed"]), tag="now")
        sizes = {name: _bytes(folder) / 2**20 for name, folder in folders.items()}
    took = {name: statistics.median(times) for name, times in seconds.items()}
    theirs, unit = took["deepspeed save"], "wall s the training stands still (lower is better)"
    for name in savers:
        still = took[f"{name} begin"] + took[f"{name} finish"]
        bench.row(f"a save in the {name}", "engine.save_checkpoint", unit, (still, theirs), repeats=repeats)
    loads = (took["load"], took["deepspeed load"])
    bench.row("resuming", "engine.load_checkpoint", "wall s (lower is better)", loads, repeats=repeats)
    written = (sizes["foreground"], sizes["deepspeed"])
    bench.row("a checkpoint", "engine.save_checkpoint", "MiB (lower is better)", written, repeats=1)


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def ddp_against_zero(bench: Bench) -> None:
    """Our loop under each file beside DDP: memory of each alone, then the speeds, interleaved."""
    world, whole = bench.ranks.world, bench.recipe
    recipes = {
        file: masked_lm_alone(whole).model_copy(update={"engines": whole.engines.model_copy(update={"student": file})})
        for file in bench.files
    }
    forget_memory()
    ddp = Ddp(recipes["zero0"])
    shards = ShardSet.open(whole.data.folder / "shards", languages=whole.languages)
    stream = Stream(whole, shards, rank=bench.ranks.rank, world=world).step
    theirs = peak_of(ddp.step, stream)
    del ddp
    peaks = {}
    for file, recipe in recipes.items():
        forget_memory()
        with throwaway_trainer(recipe, ranks=bench.ranks) as trainer:
            peaks[file] = peak_of(ours(trainer), stream)
            del trainer
    ddp = Ddp(recipes["zero0"])
    for file, recipe in recipes.items():
        bench.recipe = recipe
        with throwaway_trainer(recipe, ranks=bench.ranks) as trainer:
            speeds = interleave([ours(trainer), ddp.step], stream, repeats=bench.repeats)
            del trainer
        figures = medians(speeds, world=world)
        bench.row(f"our loop, {file}", "torch DDP", "tokens/s (higher is better)", figures, repeats=bench.repeats)
        memory, unit = (peaks[file], theirs), "peak GiB of a rank (lower is better)"
        bench.row(f"our loop, {file}", "torch DDP", unit, memory, repeats=1)
    bench.recipe = whole


def peak_of(step: Callable[[list[Batch]], None], stream: Callable[[int], list[Batch]]) -> float:
    """GiB of the rank that needs most in two steps."""
    for turn in range(2):
        step(stream(turn))
    return max(dist.everyone_says(peak_memory_bytes(dist.device()))) / 2**30


# --- the command ------------------------------------------------------------------------------------------------------


def main() -> None:
    """One rank, then two: the second part is this script again, under torchrun."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", help="name or path; its fields are overridden as on unibert's command line")
    parser.add_argument("--quick", action="store_true", help="the tests' miniature model, two rounds, fewer files")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    options, overrides = parser.parse_known_args()
    if "RANK" in os.environ:
        on_these_ranks(options, overrides)
        return
    words = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        if options.recipe is None:
            from tests.tiny import make_workspace

            options.recipe = str(make_workspace(Path(folder)))
            larger = [] if options.quick else LARGER.split()
            words, overrides = [*words, "--recipe", options.recipe, *larger], [*overrides, *larger]
        on_these_ranks(options, overrides)
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(WORLD)]
        subprocess.run([*launcher, __file__, *words], check=True)


def on_these_ranks(options: argparse.Namespace, overrides: list[str]) -> None:
    """The measurements for this number of ranks."""
    recipe = load_recipe(options.recipe, overrides)
    ranks = dist.start(threads=recipe.train.threads_per_rank)
    bench = Bench(recipe, ranks, options.repeats)
    if options.quick:
        bench.repeats, bench.files = 2, FILES[::3]
    loop_against_minimal(bench)
    (adversary if ranks.world == 1 else ddp_against_zero)(bench)
    dist.stop()
    if options.save and ranks.is_first:
        bench.write(" ".join(word for word in sys.argv[1:] if "/" not in word))


if __name__ == "__main__":
    main()
