"""Training from a cached teacher beside the resident one and beside none, and the bytes a cache takes.

    python benchmarks/teacher_cache.py [--recipe demo [--data.folder FOLDER ...]] [--rounds 7] [--save]

One rank, real text where --recipe names it (without, the tests' made-up one). First the recipe's logit distillation:
no teacher, the resident one and each form of cache, then all that the recipe distils, with the last state of every
token in the cache. Every side trains a run of its own on the same micro-batches; a round is one step of each, in an
order that turns around, so that what disturbs the machine disturbs all of them. The ratio is the median of the rounds'
ratios; the least and the greatest of them stand in the row. Writing the cache is timed too. Bytes are counted at the
teacher's own width, and for a random one of 768 with the same tokenizer at 15 % masking: they depend on nothing else.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rows as table
import torch
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

from unibert import cache_teacher
from unibert.config import Recipe, load_recipe
from unibert.measure import forget_memory, throwaway_trainer
from unibert.models.precision import bf16_is_faster
from unibert.models.student import build_student
from unibert.models.teacher import teacher_sizes
from unibert.objective_tables import Objectives
from unibert.runtime import dist
from unibert.runtime.dist import Ranks
from unibert.schema import Masking
from unibert.trainer import Trainer

WARM_UP = 2
"""Steps of every side before the clock runs."""
FORMS = ("hidden_int8", "hidden_bf16", "topk")
WIDE: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 2,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
ALLOWED_BYTES = 130.0
"""A corpus token, of a 768-wide teacher at 15 % masking, at most."""
SPEED = "tokens / s (higher is better)"


@dataclass
class Bench:
    """What every measurement needs, and the rows that come of it."""

    recipe: Recipe
    ranks: Ranks
    rounds: int
    scratch: Path
    arguments: str
    load: float = field(default_factory=lambda: os.getloadavg()[0])
    rows: list[list[str]] = field(default_factory=list)

    def row(
        self, what: str, against: str, unit: str, figures: tuple[float, float | None], *, repeats: int, of: str = ""
    ) -> None:
        """Print a figure, beside its baseline where it has one, and keep it for `--save`."""
        value, other = figures
        beside = "" if other is None else f", {against} {_shown(other)}: ratio {value / other:.3f}"
        print(f"{what}: {_shown(value)}{beside}; {unit}{of and f' ({of})'}", flush=True)
        cells = [_shown(value), "" if other is None else _shown(other), str(repeats)]
        shape, device = self.where()
        self.rows.append([self.arguments, what, against, shape + (of and f", {of}"), device, unit, *cells])

    def where(self) -> tuple[str, str]:
        """Columns `shape` and `device`."""
        recipe, config, teacher = self.recipe, build_student(self.recipe).hf.config, teacher_sizes(self.recipe)
        assert teacher is not None
        shape = f"student {config.num_hidden_layers}x{config.hidden_size}, teacher {teacher.layers}x{teacher.hidden}, "
        shape += f"V {config.vocab_size}, {recipe.train.global_batch_sequences} documents in micro-batches of "
        shape += f"{recipe.train.micro_batch_sequences}, masking {recipe.masking.fraction:g}"
        cuda, fast = torch.cuda.is_available(), bf16_is_faster(dist.device())
        name = torch.cuda.get_device_name() if cuda else f"CPU {torch.backends.cpu.get_cpu_capability()}"
        told = f"{name}, {torch.get_num_threads()} thread(s), {'bf16 where auto' if fast else 'fp32'}"
        return shape, f"{told}, load before {self.load:.1f}"


def side(bench: Bench, *objectives: str, **teacher: Any) -> Recipe:
    """The recipe with some of its objectives, its teacher changed; without discriminator."""
    recipe = bench.recipe
    assert recipe.teacher is not None
    on = Objectives(**{name: getattr(recipe.objectives, name) for name in objectives})
    changed = {"teacher": recipe.teacher.model_copy(update=teacher), "objectives": on, "discriminator": None}
    return recipe.model_copy(update=changed)


def cached(bench: Bench, form: str, *objectives: str, layers: tuple[int, ...] = ()) -> Recipe:
    """The side that reads a cache of this form, written now."""
    folder = bench.scratch / f"{form}{''.join(map(str, layers))}"
    recipe = side(bench, *objectives, kind="cached", cache=form, cache_folder=folder, cache_layers=layers)
    began = time.perf_counter()
    manifest = cache_teacher.run(recipe)
    per_second = manifest["tokens"] / (time.perf_counter() - began)
    name = f"{form}, last state of every token" if layers else form
    bench.row(f"writing a cache, loading the teacher included, {name}", "", SPEED, (per_second, None), repeats=1)
    report(bench, name, manifest)
    return recipe


def report(bench: Bench, name: str, manifest: Mapping[str, Any], *, allowed: float | None = None) -> None:
    """The bytes of a cache."""
    masked = f"{manifest['targets'] / manifest['tokens']:.1%} of the tokens masked"
    what, against = f"a cache, {name}", "" if allowed is None else "at most"
    unit = "bytes / corpus token (lower is better)"
    bench.row(what, against, unit, (manifest["bytes_per_token"], allowed), repeats=1, of=masked)


def compare(bench: Bench, sides: Mapping[str, Recipe], *, base: str) -> None:
    """Speed of every side, and of what it learns, against `base`."""
    forget_memory()
    with ExitStack() as stack:
        trainers = {
            name: stack.enter_context(throwaway_trainer(recipe, ranks=bench.ranks)) for name, recipe in sides.items()
        }
        speeds, last = race(trainers, rounds=bench.rounds)
    other = statistics.median(speeds[base])
    for name in sides:
        ratios = [own / theirs for own, theirs in zip(speeds[name], speeds[base], strict=True)]
        if name == base:
            continue
        figures = (other * statistics.median(ratios), other)
        spread = f"ratios {min(ratios):.3f} to {max(ratios):.3f}"
        bench.row(f"training, {name}", base, SPEED, figures, repeats=bench.rounds, of=spread)
        for tag in sorted(tag for tag in last[name] if tag.startswith("loss/distill_")):
            what = f"{tag} after {WARM_UP + bench.rounds} steps, {name}"
            unit = "loss (equal is right; topk is an approximation at temperatures other than 1)"
            bench.row(what, base, unit, (last[name][tag], last[base][tag]), repeats=1)


def race(trainers: Mapping[str, Trainer], *, rounds: int) -> tuple[dict[str, list[float]], dict[str, dict[str, float]]]:
    """Tokens a second of every side by round, and each one's tags after the last step."""
    speeds: dict[str, list[float]] = {name: [] for name in trainers}
    last: dict[str, dict[str, float]] = {}
    steps = [next(iter(trainers.values())).run.stream.step(step) for step in range(WARM_UP + rounds + 1)]
    for trainer in trainers.values():
        trainer.stream = iter(list(steps))  # ready, so that reading is nobody's time, yet looking ahead works
    for step in range(1, WARM_UP + rounds + 1):
        order = list(trainers)
        for name in order if step % 2 else reversed(order):
            began = _now()
            last[name] = _step(trainers[name], step)
            if step > WARM_UP:
                speeds[name].append(sum(batch.tokens for batch in steps[step - 1]) / (_now() - began))
    return speeds, last


def _step(trainer: Trainer, step: int) -> dict[str, float]:
    """What `Trainer.step` does but for logging."""
    trainer.meter.start()
    micros, trainer.read = trainer.read_step(), None
    assert not isinstance(micros, Exception)
    return trainer.train_step(step, micros)


def _shown(value: float) -> str:
    return f"{value:.3f}" if value >= 1 else f"{value:.4g}"


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()  # the wall's: the teacher may work in a thread of its own


def speeds(bench: Bench) -> None:
    """All sides."""
    logits = ("masked_lm", "distill_logits")
    sides = {"no teacher": side(bench, "masked_lm"), "resident": side(bench, *logits)}
    sides |= {f"cached {form}": cached(bench, form, *logits) for form in FORMS}
    compare(bench, sides, base="resident")
    if bench.recipe.objectives.distill_hidden is None:
        return
    sizes, every = teacher_sizes(bench.recipe), ("masked_lm", "distill_hidden", "distill_logits")
    assert sizes is not None
    with_states = cached(bench, FORMS[0], *every, layers=(sizes.layers,))
    name = f"cached {FORMS[0]} with the last states"
    compare(bench, {"resident, states too": side(bench, *every), name: with_states}, base="resident, states too")


def wide_bytes(bench: Bench) -> None:
    """Bytes of every form for a teacher of width 768 at 15 % masking."""
    tokenizer = AutoTokenizer.from_pretrained(bench.recipe.data.folder / "tokenizer", local_files_only=True)
    folder = bench.scratch / "wide"
    torch.manual_seed(bench.recipe.train.seed)
    BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **WIDE)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    steps = max(2, min(bench.rounds, 4))  # of any text: the share of masked tokens is all that tells
    train = bench.recipe.train.model_copy(update={"steps": steps})
    bench.recipe = bench.recipe.model_copy(update={"masking": Masking(), "train": train})
    for form in FORMS:
        recipe = side(bench, "masked_lm", "distill_logits", path=folder, cache=form, cache_folder=folder / form)
        bench.recipe = recipe
        report(bench, f"768 wide, {form}", cache_teacher.run(recipe), allowed=ALLOWED_BYTES)


def main() -> None:
    """Speeds, then bytes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", help="name or path; its fields are overridden as on unibert's command line")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--save", action="store_true")
    options, overrides = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as scratch:
        if options.recipe is None:
            from tests.tiny import make_workspace

            options.recipe = str(make_workspace(Path(scratch) / "tiny"))
        # One step more than is run: the last one would let the teacher rest.
        steps = ["--train.steps", str(WARM_UP + options.rounds + 1), "--train.ladder", "[]"]
        recipe = load_recipe(options.recipe, [*overrides, *steps])
        ranks = dist.start(threads=recipe.train.threads_per_rank)
        words = f"teacher_cache.py {'' if '/' in options.recipe else options.recipe}".strip()
        bench = Bench(recipe, ranks, options.rounds, Path(scratch), words)
        speeds(bench)
        wide_bytes(bench)
        dist.stop()
    if options.save:
        table.save(bench.rows)


if __name__ == "__main__":
    main()
