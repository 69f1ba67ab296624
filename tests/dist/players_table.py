"""The tables of docs/players.md: the trainer under DeepSpeed against a plain loop (players_reference.py), case by case.

    python -m tests.dist.players_table --write          # every case; writes the tables
    torchrun --nproc_per_node 2 -m tests.dist.players_table FOLDER NAME     # what that and the tests start

All cases of a selection with the same number of ranks share one launch; engines come and go in the process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.dist import players_reference
from tests.dist.players_cases import (
    FP32,
    HALF,
    MORE,
    OVERFLOWS,
    SELECTIONS,
    STEPS,
    TUTORIAL,
    Case,
    batches,
    prepare,
    trains_here,
    words,
)
from tests.dist.players_reference import Trained
from tests.runs import ROOT, environment, free_port
from unibert.config import load_recipe
from unibert.data.batches import Stream
from unibert.data.shards import ShardSet

DOCUMENT = ROOT / "docs" / "players.md"
BOUND = 1e-5
NORM_BOUNDS = {"fp32": 1e-4, "bf16": 3e-2, "fp16": 3e-2}
NOISE = "attention.self.key.bias"  # no gradient in exact arithmetic: Adam moves it by rounding alone


# ---- one rank -------------------------------------------------------------------------------------------------


@contextmanager
def assembled(case: Case, folder: Path) -> Iterator[Any]:
    """The trainer of a case; its engines are gone afterwards."""
    from unibert.assembly import assemble
    from unibert.observe.logger import RunLogger
    from unibert.runtime.dist import ranks_from_environment
    from unibert.runtime.stop import StopFlag
    from unibert.runtime.watchdog import Watchdog
    from unibert.trainer import Trainer

    recipe = load_recipe(folder / "tiny.toml", words(case, folder))
    run = assemble(recipe, ranks=ranks_from_environment(), resume="never")
    if case.variation.startswith("tutorial"):
        run.players.alone = lambda player: nullcontext()  # type: ignore[method-assign]
    with (
        RunLogger(run.folder, recipe=recipe, rank=run.ranks.rank, first_step=0) as logger,
        StopFlag(run.folder / "STOP") as stop,
        Watchdog(600, log_file=logger.rank_file) as watchdog,
    ):
        yield Trainer(run, logger=logger, stop=stop, watchdog=watchdog)
    for player in run.players:
        player.engine.destroy()


def parameters(engine: Any) -> dict[str, Tensor]:
    """The fp32 weights of an engine by name, flattened, whole on every rank."""
    from unibert.runtime.shards import shards_of

    sizes = {name: getattr(p, "ds_numel", p.numel()) for name, p in engine.module.named_parameters()}
    found = {name: torch.zeros(size) for name, size in sizes.items()}
    for shard in shards_of(engine):
        for piece in shard.fragments:
            found[piece.name][piece.start : piece.start + piece.numel] = shard.part(piece)
        for name in shard.names:
            if shard.group is not None:
                torch.distributed.all_reduce(found[name], group=shard.group)
    return found


def reference_case(case: Case) -> Case:
    """The case of one process whose micro-batches are the pieces between the discriminator's turns."""
    plain = case.variation if case.variation == "empty terms" else ""
    if "micro" in case.way and case.accumulation > 1:
        return Case(0, case.way, case.optimizer, 1, case.accumulation, "fp32", plain)
    return Case(0, case.way.replace("micro-batch", "window"), case.optimizer, 1, 1, "fp32", plain)


@cache
def reference(case: Case, folder: Path, dtype: torch.dtype = torch.float64) -> Trained:
    """What players_reference.py makes of a `reference_case`."""
    recipe = load_recipe(folder / "tiny.toml", words(case, folder))
    stream = Stream(recipe, ShardSet.open(recipe.data.folder / "shards", languages=recipe.languages), rank=0, world=1)
    return players_reference.train(
        recipe, pieces=lambda step: batches(stream, step, case=case), steps=STEPS, dtype=dtype
    )


@cache
def plain_bf16(case: Case, folder: Path) -> dict[str, float]:
    """How far the reference itself is off with the student in bf16."""
    exact, rounded = reference(case, folder).parameters, reference(case, folder, torch.bfloat16).parameters
    return {name: apart(rounded[name], exact[name]) for name in exact}


def apart(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Over all parameters, the largest of max|difference| / max|reference|."""
    return max(
        float((found[name].detach().flatten() - weight.detach().flatten()).abs().max() / weight.detach().abs().max())
        for name, weight in expected.items()
        if NOISE not in name
    )


def train(case: Case, folder: Path) -> tuple[Trained, dict[str, Any]]:
    """Train a case; besides, what fp16 skipped and who moved, in each step if it overflows, else in the last."""
    steps: dict[str, list] = {"skipped": [], "moved": []}
    with assembled(case, folder) as trainer:
        players = trainer.run.players
        now = {player.name: parameters(player.engine) for player in players}
        for step in range(1, STEPS + 1):
            trainer.train_step(step, batches(trainer.run.stream, step, case=case))
            if case in OVERFLOWS or step == STEPS:
                before, now = now, {player.name: parameters(player.engine) for player in players}
                steps["skipped"].append({player.name: player.skipped for player in players})
                steps["moved"].append({name: not _same(before[name], now[name]) for name in now})
        norms = {player.name: player.grad_norm for player in players}
    return Trained(now, norms), steps


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def measure(case: Case, folder: Path, *, expected: Trained | None) -> dict[str, Any]:
    """How far each player is from the reference after a case, if this rank has that; an error of the tutorial's way."""
    try:
        found, steps = train(case, folder)
    except (AssertionError, RuntimeError) as error:
        if case not in TUTORIAL:
            raise
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    if expected is None:
        return {}
    far = {name: apart(found.parameters[name], expected.parameters[name]) for name in found.norms}
    return far | steps | {"norm": max(abs(found.norms[name] / expected.norms[name] - 1) for name in found.norms)}


def work(folder: Path, selection: str) -> None:
    """One rank: the cases of a selection for this number of ranks. Each rank has its share of the references, and
    writes what it compared with them."""
    from unibert.runtime import dist

    ranks = dist.start(threads=1)
    cases = [case for case in SELECTIONS[selection] if case.world == ranks.world and trains_here(case)]
    needed = list(dict.fromkeys(map(reference_case, cases)))
    expected = {case: reference(case, folder) for case in needed[ranks.rank :: ranks.world]}
    found = []
    for number, case in enumerate(cases, start=1):
        mine = expected.get(reference_case(case))
        values = measure(case, folder, expected=mine)
        if mine:
            if case in HALF:
                values["plain"] = plain_bf16(reference_case(case), folder)
            found.append((asdict(case), values))
            print(f"{number} of {len(cases)}: {case}: {shown(values)}", flush=True)
    (folder / f"{selection}.world{ranks.world}.rank{ranks.rank}.json").write_text(json.dumps(found))
    dist.stop()


# ---- all launches, verdicts and the page ------------------------------------------------------------------------


def launch(selection: str, folder: Path, *, timeout_seconds: float) -> dict[Case, dict[str, Any]]:
    """Measure a selection, in one launch for each number of ranks, all at once; what was found of each case."""
    prepare(folder)
    launches = [_start(selection, folder, world=world) for world in {case.world for case in SELECTIONS[selection]}]
    try:
        for process, log in launches:
            assert process.wait(timeout_seconds) == 0, log.read_text()[-5000:]
    finally:
        for process, _ in launches:
            process.terminate()  # torchrun ends its ranks
    lines = [line for file in folder.glob(f"{selection}.world*.json") for line in json.loads(file.read_text())]
    return {Case(**case): values for case, values in lines}


def _start(selection: str, folder: Path, *, world: int) -> tuple[subprocess.Popen, Path]:
    torchrun, log = str(Path(sys.executable).parent / "torchrun"), folder / f"world{world}.log"
    words = [torchrun, "--nproc_per_node", str(world), "--master_port", str(free_port())]
    words += ["-m", "tests.dist.players_table", str(folder), selection]
    with log.open("w") as output:
        return subprocess.Popen(words, env=environment(), cwd=ROOT, stdout=output, stderr=output), log


def problem(case: Case, found: dict[Case, dict[str, Any]]) -> str | None:
    """What is wrong with a case; None when it shows what it should."""
    values = found[case]
    if case in TUTORIAL:
        shows = "error" in values or values["discriminator"] > 1e-3
        return None if shows else "the tutorial's way is right, or this table sees nothing"
    if case in OVERFLOWS:
        return _overflow_problem(values, victim=case.variation.split()[0])
    bound = dict.fromkeys(("student", "discriminator"), BOUND) | {"norm": NORM_BOUNDS[case.precision]}
    if case.precision != "fp32":
        alone = found[replace(case, stage=0, world=1, precision="bf16")]
        bound |= {name: 1.5 * min(alone[name], values["plain"][name]) for name in values["plain"]}
    far = [f"{name} is {values[name]:.1e} off, above {most:.1e}" for name, most in bound.items() if values[name] > most]
    return "; ".join(far) or None


def _overflow_problem(values: dict[str, Any], *, victim: str) -> str | None:
    skipped, (other,) = values["skipped"], {"student", "discriminator"} - {victim}
    counts = [0, *(step[victim] for step in skipped)]
    if not 0 < counts[-1] < STEPS:
        return f"the {victim} skipped {counts[-1]} of {STEPS} steps"
    if skipped[-1][other]:
        return f"the {other} skipped {skipped[-1][other]} steps"
    right = [{victim: now == before, other: True} for before, now in pairwise(counts)]
    return None if values["moved"] == right else f"moved in each step: {values['moved']}, skipped {counts[1:]}"


def shown(values: dict[str, Any]) -> str:
    """What was found of a case, for a cell of a table."""
    return values.get("error") or f"{values['student']:.1e} / {values['discriminator']:.1e}"


def rows(cases: Sequence[Case], *, head: Sequence[str], found: dict[Case, dict[str, Any]]) -> list[str]:
    """One row for the cases that agree in the fields of `head`, a cell for each of them."""
    groups: dict[tuple, list[str]] = {}
    for case in cases:
        groups.setdefault(tuple(getattr(case, name) for name in head), []).append(shown(found[case]))
    return [f"| {' | '.join(map(str, key))} | {' | '.join(cells)} |" for key, cells in groups.items()]


def sections(found: dict[Case, dict[str, Any]]) -> dict[str, list[str]]:
    """The tables of the page."""
    ways, variations = ("way", "optimizer", "stage"), ("variation", "stage")
    alone = [case for case in HALF if (case.precision, case.stage, case.world) == ("bf16", 0, 1)]
    skipped = {case: found[case]["skipped"][-1] for case in OVERFLOWS}
    return {
        "fp32": [
            "| adversary | optimizer | ZeRO | 1 rank | 1 rank, accumulation 4 | 2 ranks | 2 ranks, accumulation 4 |",
            "|---|---|---|---|---|---|---|",
            *rows(FP32, head=ways, found=found),
        ],
        "half": [
            "| precision | adversary | optimizer | ZeRO | 1 rank | 2 ranks |",
            "|---|---|---|---|---|---|",
            *(f"| bf16 | {c.way} | {c.optimizer} | plain loop | {shown(found[c]['plain'])} | |" for c in alone),
            *rows(HALF, head=("precision", *ways), found=found),
        ],
        "more": ["| what | student's ZeRO | difference |", "|---|---|---|", *rows(MORE, head=variations, found=found)],
        "overflow": [
            "| what | student's ZeRO | moves skipped by student / discriminator |",
            "|---|---|---|",
            *(f"| {c.variation} | {c.stage} | {of['student']} / {of['discriminator']} |" for c, of in skipped.items()),
        ],
        "tutorial": [
            "| what | student's ZeRO | difference |",
            "|---|---|---|",
            *rows(TUTORIAL, head=variations, found=found),
        ],
    }


def write(found: dict[Case, dict[str, Any]]) -> None:
    """Put the tables between their marks in the page."""
    text = DOCUMENT.read_text(encoding="utf-8")
    for name, lines in sections(found).items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        text = text[: text.index(begin)] + "\n".join([begin, *lines, ""]) + text[text.index(end) :]
    DOCUMENT.write_text(text, encoding="utf-8")


def main() -> None:
    if sys.argv[1:] != ["--write"]:
        return work(Path(sys.argv[1]), sys.argv[2])
    if not all(map(trains_here, SELECTIONS["all"])):
        sys.exit("the page has tables in fp16, which this CPU does not train in")
    with tempfile.TemporaryDirectory() as folder:
        found = launch("all", Path(folder), timeout_seconds=7200)
    write(found)
    wrong = {case: said for case in SELECTIONS["all"] if (said := problem(case, found))}
    return sys.exit("\n".join(f"{case}: {said}" for case, said in wrong.items()) or None)


if __name__ == "__main__":
    main()
