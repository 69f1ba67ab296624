"""`plan` against reality: the bytes an engine holds, and `plan --measure`.

As a script, under torchrun: `test_measure.py FOLDER` writes what the engines of FOLDER hold, rank by rank.
"""

import gc
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.runs import ROOT, TIMEOUT_SECONDS, environment, launcher_words
from tests.tiny import make_workspace
from unibert import measure as measuring
from unibert.config import load_recipe
from unibert.measure import FILES, Measured, advice, shortened, throwaway_trainer
from unibert.plan import accumulation_steps, make_plan
from unibert.runtime import dist

pytestmark = pytest.mark.dist
CASES = [f"{file}.{kind}" for file in FILES for kind in ("fp32", "bf16")]
OFFLOADED = ["zero1_offload.bf16", "zero2_offload.bf16", "zero3_offload.bf16"]
# Matrices above the size under which ZeRO-3 does not cut; several micro-batches, for the gradients that wait.
MODEL = (
    "--student.start random --student.num_layers 1 --student.intermediate_size 1024 --train.global_batch_sequences 32"
)
ALONE = dict.fromkeys(("distill_hidden", "distill_logits", "language_guess", "language_confusion"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A workspace, and an engine file for every case."""
    made = tmp_path_factory.mktemp("measure")
    make_workspace(made)
    for case in CASES + OFFLOADED:
        file, kind = case.split(".")
        tree = json.loads((ROOT / "ds_configs" / f"{file}.json").read_text()) | {"bf16": {"enabled": kind == "bf16"}}
        tree["zero_optimization"]["reduce_bucket_size"] = 1000  # buffers of communication come on top of the plan
        (made / f"{case}.json").write_text(json.dumps(tree))
    return made


# --- bytes ------------------------------------------------------------------------------------------------------------


def held(folder, case, ranks):
    """[bytes alive of a student's engine in the middle of a step, of them the module's weights and gradients, planned,
    planned on the host].
    """
    options = [*MODEL.split(), "--engines.student", str(folder / f"{case}.json")]
    recipe = load_recipe(folder / "tiny.toml", options)
    objectives = recipe.objectives.model_copy(update=ALONE)
    recipe = recipe.model_copy(update={"objectives": objectives, "discriminator": None})
    tree = json.loads((folder / f"{case}.json").read_text())
    plan = make_plan(recipe, world=ranks.world, student_engine=tree).engines[0]
    moments = []
    gc.freeze()  # what is there already is not looked at
    with throwaway_trainer(recipe, ranks=ranks) as trainer:
        student = trainer.run.players["student"]
        trainer.train_step(1, trainer.run.stream.step(0))
        goes_back = student.backward

        def backward(loss):
            goes_back(loss)
            torch.distributed.barrier()  # what is being sent is let go of
            alive = storages()
            own = [tensor for p in student.module.parameters() for tensor in (p, p.grad) if tensor is not None]
            mine = {tensor.untyped_storage().data_ptr() for tensor in own} & alive.keys()
            moments.append((sum(alive.values()), sum(alive[where] for where in mine)))

        student.backward = backward
        trainer.train_step(2, trainer.run.stream.step(1))
        student.backward = goes_back
    return [*moments[0], plan.total_bytes, plan.host_bytes]


def storages():
    """Bytes of every floating-point tensor that came after gc.freeze, by where its storage is."""
    gc.collect()
    found = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor) and thing.is_floating_point():
            for tensor in (thing, thing.grad if thing.is_leaf else None):
                if tensor is not None:
                    found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return found


def torchrun(folder, world, cases):
    """What `held` says of each case, by rank."""
    words = launcher_words("torchrun", world=world)
    words = [*words[: words.index("-m")], __file__, str(folder), *cases]
    done = subprocess.run(words, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return [json.loads((folder / f"held_{rank}.json").read_text()) for rank in range(world)]


def close(total, planned, *, case, rank):
    """But for padding, ZeRO-3's vectors, and in ZeRO-2 the whole gradient of a parameter on the border of two ranks."""
    border = 0.06 if "zero2" in case else 0.0
    assert 0.99 * planned < total < (1.04 + border) * planned, f"{case} on rank {rank}: {total / planned - 1:+.1%}"


def test_two_ranks_hold_what_plan_says(folder):
    for rank, found in enumerate(torchrun(folder, 2, CASES)):
        for case, (total, _, planned, host) in found.items():
            close(total, planned, case=case, rank=rank)
            assert host == 0


def test_an_offloading_rank_holds_what_plan_says(folder):
    """On the device: the module's weights and gradients, and a little to send gradients from; the rest is offloaded."""
    (found,) = torchrun(folder, 1, OFFLOADED)
    for case, (total, own, planned, host) in found.items():
        close(total, planned, case=case, rank=0)
        assert host == planned if "zero3" in case else total - own == pytest.approx(host, rel=0.1), case


# --- plan --measure ---------------------------------------------------------------------------------------------------


def measured(**peaks):
    return [Measured(file, speed, peak, 5, 4) for file, (speed, peak) in peaks.items()]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (measured(zero0=(100, 4), zero1=(90, 3), zero2=(80, 2), zero3=(50, 1)), "student zero0: nothing is faster"),
        (measured(zero0=(100, 4), zero1=(104, 3)), r"student zero0: zero1 is only 4\.0 % faster"),
        (measured(zero0=(100, 4), zero1=(110, 3), zero2=(112, 3)), r"student zero1: zero2 is only 1\.8 % faster"),
        (measured(zero0=(100, 9.5), zero1=(90, 3)), "student zero1: .*zero0 would not leave room; 3.00 of 10.0 GiB"),
        ([Measured("zero0", why_not="big"), *measured(zero1=(90, 3))], "student zero1: .*zero0 would not leave room"),
        ([Measured("zero0", 90, 3, 1, 4)], r"student zero0: nothing is faster \(of so few steps this is a hint only\)"),
        (measured(zero0=(100, 9.5), zero1=(90, 9.1)), "none leaves room in 9.0 GiB: take a smaller"),
    ],
)
def test_advice(rows, words):
    import re

    assert re.search(words, advice(rows, room=9.0)), advice(rows, room=9.0)


@pytest.mark.parametrize(("batch", "turns", "size"), [(32, 1, 4), (512, 1, 8), (480, 3, 6), (800, 10, 10)])
def test_long_steps_are_cut(folder, batch, turns, size):
    options = ["--train.global_batch_sequences", str(batch), "--discriminator.turns", str(turns)]
    recipe = load_recipe(folder / "tiny.toml", options)
    assert accumulation_steps(shortened(recipe, world=1), world=1) == size


def test_two_ranks_measure_and_leave_the_run_alone(folder):
    words = [*launcher_words("torchrun", world=2), "plan", str(folder / "tiny.toml"), "--measure"]
    words += ["--train.global_batch_sequences", "16"]
    done = subprocess.run(words, env=environment(), cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert lines[0].startswith("run      tiny on 2 ranks") and lines[-1].startswith("take --engines.student zero")
    table = {words[0]: words[1:] for words in map(str.split, lines) if words and words[0] in FILES}
    assert list(table) == list(FILES)
    for speed, peak, steps in table.values():
        assert float(speed.replace(",", "")) > 0 and 0 < float(peak) < 10 and int(steps) >= 1
    assert not (folder / "runs").exists()


def test_measure_keeps_to_its_time(folder, monkeypatch, capsys):
    """The first file still gets its steps; what comes after the time is over is not begun."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that it is taken back
        monkeypatch.delenv(name)
    rows = measuring.measure(load_recipe(folder / "tiny.toml", []), budget_seconds=0.01)
    assert rows[0].steps == 1 and rows[0].micro_batches == 1
    assert [row.why_not for row in rows[1:]] == ["the time was over"] * 3
    assert "not measured: the time was over" in capsys.readouterr().out


def test_world_must_be_the_ranks_it_runs_on(folder):
    words = [sys.executable, "-m", "unibert", "plan", str(folder / "tiny.toml"), "--measure", "--world", "4"]
    done = subprocess.run(words, env=environment(), cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "--measure on 1 rank(s) cannot stand for --world 4" in done.stderr


# --- benchmarks/training.py -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_benchmark_of_the_loop_runs(tmp_path):
    words = [sys.executable, str(ROOT / "benchmarks" / "training.py"), "--quick"]
    done = subprocess.run(
        words, env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = [line.partition(":")[0] for line in done.stdout.splitlines()]
    loop = ["our loop, MLM alone", "counting targets and agreeing", "the meter's sums"]
    saving = ["a save in the background", "a save in the foreground", "resuming", "a checkpoint"]
    files = [f"our loop, {file}" for file in ("zero0", "zero3") for _ in ("speed", "memory")]
    assert said == [*loop, *saving, "with the adversary", *loop, *files]


if __name__ == "__main__":
    own = dist.start(threads=1)
    where = Path(sys.argv[1])
    (where / f"held_{own.rank}.json").write_text(json.dumps({case: held(where, case, own) for case in sys.argv[2:]}))
    dist.stop()
