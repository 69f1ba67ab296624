"""Stopped, killed and damaged runs go on as if nothing had happened."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
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
    assert (run / "checkpoints" / f"abandoned_{newest.name}").is_dir() and (newest / "COMPLETE").is_file()


@pytest.mark.dist
def test_going_back_puts_aside_what_was_later_and_a_lost_export_is_written(recipe, tmp_path):
    """The best of keep_best is one that was measured, though the looks at held-out text come at other steps."""
    options = ("--save.keep_last", "1", "--save.keep_best", "true", "--log.evaluate_every_steps", "4")
    options = ("--name", "back", "--train.steps", "6", *options)
    train(recipe, *options)
    run = recipe.parent / "runs" / "back"
    best, newest = (run / "checkpoints" / f"step_0000000{step}" for step in (3, 6))
    scores = {row["step"]: row["eval/masked_cross_entropy"] for row in metrics(run) if row["step"] in (3, 4, 6)}
    assert scores[6] < scores[3], "it learns, so the newest is the best, and alone"
    assert [json.loads((newest / "state.json").read_text())["score"], best.exists()] == [scores[6], False]

    shutil.rmtree(run / "hf" / newest.name)
    said = train(recipe, *options)
    assert (run / "hf" / newest.name / "model.safetensors").is_file(), "the export that a kill came before"
    assert "put aside" not in said

    before = trace(run, TAGS)
    shutil.rmtree(newest)
    train(recipe, *options, "--save.keep_last", "2", "--save.export", "false")
    train(recipe, *options, "--resume", str(best))
    assert trace(run, TAGS) == before
    there = sorted(path.name for folder in ("checkpoints", "hf") for path in (run / folder).iterdir() if path.is_dir())
    assert there.count("abandoned_step_00000006") == 2 and "step_00000006" in there


@pytest.mark.dist
def test_another_student_or_teacher_is_refused_and_changes_nothing(tmp_path):
    """Other layers; other answers of equal weights, by the configuration that the student copies; other lessons."""
    recipe, teacher = make_workspace(tmp_path), tmp_path / "teacher"
    train(recipe, "--train.steps", "3")
    run, longer = tmp_path / "runs" / "tiny", ("--train.steps", "5")
    before = {file: file.read_bytes() for file in (run / "recipe.toml", run / "metrics.jsonl", *teacher.iterdir())}
    train(recipe, *longer, "--student.teacher_layers=[0,1]", expect=5)
    config, weights = teacher / "config.json", teacher / "model.safetensors"
    config.write_text(config.read_text().replace('"hidden_act": "gelu"', '"hidden_act": "relu"'))
    assert '"hidden_act": "relu"' in train(recipe, *longer, expect=5)
    config.write_bytes(before[config])
    save_file({name: weight * 1.01 for name, weight in load_file(weights).items()}, weights, {"format": "pt"})
    assert "another teacher" in train(recipe, *longer, expect=5)
    weights.write_bytes(before[weights])
    assert {file: file.read_bytes() for file in before} == before
    train(recipe, *longer)


@pytest.mark.dist
def test_in_bf16_with_fp32_accumulation_everything_learns(tmp_path):
    """A head's bias too, whose gradient is there before DeepSpeed's own backward begins."""
    recipe, engine = make_workspace(tmp_path), tmp_path / "engine.json"
    tree = {"zero_optimization": {"stage": 1}, "bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}
    engine.write_text(json.dumps(tree))
    train(recipe, "--engines.student", str(engine), "--train.steps", "3", launcher="torchrun", world=2)
    first, last = (
        load_file(tmp_path / "runs" / "tiny" / "hf" / f"step_0000000{step}" / "model.safetensors") for step in (0, 3)
    )
    still = [name for name, weight in first.items() if torch.equal(weight, last[name])]
    assert not still
