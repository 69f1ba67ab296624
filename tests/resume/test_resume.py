"""Stopped, killed and damaged runs go on as if nothing had happened."""

import os
import signal
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.runs import finish, metrics, start, trace, train
from tests.tiny import make_workspace

TAGS = ("loss/total", "loss/language_guess", "optim/grad_norm/student", "optim/grad_norm/discriminator")
STEPS = 9


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    path = make_workspace(tmp_path_factory.mktemp("resume"))
    path.write_text(path.read_text().replace("steps = 6", f"steps = {STEPS}"))
    return path


@pytest.fixture(scope="module")
def unbroken(recipe) -> list:
    """The run that nothing happened to; dropout on, so that the random state matters."""
    train(recipe, "--name", "unbroken", "--student.dropout", "0.1", launcher="torchrun", world=2)
    return trace(recipe.parent / "runs" / "unbroken", TAGS)


def begin(recipe, name, *options):
    return start(recipe, "--name", name, "--student.dropout", "0.1", *options, launcher="torchrun", world=2)


def wait_for(condition, process, *, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def lines(run: Path) -> int:
    """Steps done, by the lines of metrics.jsonl after the one of step 0."""
    path = run / "metrics.jsonl"
    return max(0, len(path.read_text().splitlines()) - 1) if path.exists() else 0


@pytest.mark.dist
@pytest.mark.parametrize("after", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_kill_9_of_everything_then_the_same_command(recipe, unbroken, after):
    run = recipe.parent / "runs" / f"killed_{after}"
    process = begin(recipe, run.name)
    wait_for(lambda: lines(run) >= after, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    finish(begin(recipe, run.name))
    assert trace(run, TAGS) == unbroken
    assert [row["step"] for row in metrics(run)] == list(range(1, STEPS + 1))
    events = EventAccumulator(str(run / "tb"), size_guidance={"scalars": 0})
    events.Reload()
    shown = [event.step for event in events.Scalars("loss/total")]
    assert shown == [2, 4, 6, 8, 9], "TensorBoard shows each logged step once"


@pytest.mark.dist
@pytest.mark.parametrize("how", ["SIGTERM", "STOP"])
def test_a_stop_saves_and_leaves_with_75(recipe, unbroken, how):
    run = recipe.parent / "runs" / how
    process = start(recipe, "--name", how, "--student.dropout", "0.1", "--save.every_steps", "100")
    wait_for(lambda: lines(run) >= 2, process)
    if how == "STOP":
        (run / "STOP").touch()
    else:
        os.kill(process.pid, signal.SIGTERM)
    output = finish(process, expect=75)
    assert "all is saved" in output
    done = lines(run)
    assert (run / "checkpoints" / f"step_{done:08d}" / "COMPLETE").is_file()


@pytest.mark.dist
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(recipe, unbroken):
    run = recipe.parent / "runs" / "damaged"
    finish(begin(recipe, run.name, "--train.steps", str(STEPS)))
    newest = run / "checkpoints" / f"step_{STEPS:08d}"
    victim = max((newest / "student").rglob("*.safetensors"), key=lambda path: path.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(bytes(data))
    output = finish(begin(recipe, run.name))
    assert "damaged" in output
    assert "step_00000006" in output
    assert trace(run, TAGS) == unbroken
