"""A checkpoint goes on under any ZeRO stage, offload and world size: each pair, in fp32, against the unbroken run."""

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from tests.resume.elastic import ENGINES
from tests.runs import ROOT, environment, free_port, metrics, trains_in
from tests.tiny import make_workspace

TAGS = ("loss/total", "loss/language_guess", "optim/grad_norm/student", "optim/grad_norm/discriminator")
RING = [(engine, ENGINES[(i + 3) % len(ENGINES)]) for i, engine in enumerate(ENGINES)]
EVERY = list(product(ENGINES, ENGINES))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("elastic"))


def launch(recipe: Path, jobs: list[dict], *, world: int) -> None:
    words = [str(Path(sys.executable).parent / "torchrun"), "--nproc_per_node", str(world)]
    words += ["--master_port", str(free_port()), str(ROOT / "tests" / "resume" / "elastic.py")]
    done = subprocess.run(
        [*words, str(recipe), json.dumps(jobs)], env=environment(), capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-5000:]


def checkpoint(recipe: Path, name: str) -> str:
    return str(recipe.parent / "runs" / name / "checkpoints" / "step_00000003")


def first_halves(recipe: Path, *, world: int, engines=ENGINES) -> None:
    launch(
        recipe, [{"name": f"{engine}_w{world}", "engine": engine, "resume": "never"} for engine in engines], world=world
    )


def continued(recipe: Path, pairs, *, before: int, now: int) -> None:
    """Go on from step 3 of each pair's first engine with its second."""
    jobs = [
        {"name": f"{a}_w{before}_to_{b}_w{now}", "engine": b, "resume": checkpoint(recipe, f"{a}_w{before}")}
        for a, b in pairs
    ]
    launch(recipe, jobs, world=now)


def rows(recipe: Path, name: str) -> list[list[float]]:
    return [[row[tag] for tag in TAGS] for row in metrics(recipe.parent / "runs" / name)]


def check(recipe: Path, pairs, *, before: int, now: int) -> None:
    golden = rows(recipe, "zero0_w1")
    assert len(golden) == 6
    for a, b in pairs:
        found = rows(recipe, f"{a}_w{before}_to_{b}_w{now}")
        assert len(found) == 3
        for step, (row, expected) in enumerate(zip(found, golden[3:], strict=True), start=4):
            assert row == pytest.approx(expected, rel=1e-5), f"{a} on {before} -> {b} on {now}, step {step}"


def everything(recipe: Path, pairs) -> None:
    for world in (1, 2):
        first_halves(recipe, world=world)
        for engine in ENGINES:
            found = rows(recipe, f"{engine}_w{world}")
            for row, expected in zip(found, rows(recipe, "zero0_w1"), strict=True):
                assert row == pytest.approx(expected, rel=1e-5), f"{engine} on {world}"
    for before, now in ((1, 2), (2, 1)):
        continued(recipe, pairs, before=before, now=now)
        check(recipe, pairs, before=before, now=now)


@pytest.mark.dist
def test_each_engine_goes_on_as_another_on_another_number_of_ranks(recipe):
    everything(recipe, RING)


@pytest.mark.slow
@pytest.mark.dist
def test_the_same_engine_goes_on_bit_for_bit_in_half_precision(recipe):
    precisions = filter(trains_in, ("bf16", "fp16"))
    engines = [f"zero{stage}-{precision}" for precision in precisions for stage in range(4)]
    first_halves(recipe, world=2, engines=engines)
    continued(recipe, zip(engines, engines, strict=True), before=2, now=2)
    for engine in engines:
        found, expected = rows(recipe, f"{engine}_w2_to_{engine}_w2"), rows(recipe, f"{engine}_w2")
        assert found == expected[3:], engine
    crossing = [("zero1-bf16", "zero2-fp16"), ("zero0-bf16", "zero0-fp16")] if trains_in("fp16") else []
    continued(recipe, crossing, before=2, now=2)
    for a, b in crossing:  # fp16 begins with its own scale, not with the 1 of another precision
        found = metrics(recipe.parent / "runs" / f"{a}_w2_to_{b}_w2")
        assert [row["optim/loss_scale/student"] for row in found] == [2.0**12] * 3


@pytest.mark.slow
@pytest.mark.dist
def test_every_pair(recipe):
    everything(recipe, EVERY)
    for world in (1, 2):
        continued(recipe, EVERY, before=world, now=world)
        check(recipe, EVERY, before=world, now=world)
