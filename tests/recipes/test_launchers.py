"""One run, whichever way it is started: the same losses, every tag, and the folder as documented."""

import json

import pytest

from tests.runs import metrics, trace, train
from tests.tiny import LANGUAGES, make_workspace
from unibert.config import load_recipe
from unibert.observe.tags import applicable, tag_of

STARTS = [("alone", 1), ("deepspeed", 2), ("torchrun", 2), ("mpirun", 2)]
TAGS = ("loss/total", "loss/masked_lm", "loss/language_guess", "loss/language_confusion", "loss/distill_logits")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same recipe by each launcher, each with a run folder of its own."""
    recipe = make_workspace(tmp_path_factory.mktemp("launchers"))
    folders = {}
    for launcher, world in STARTS:
        train(recipe, "--name", launcher, launcher=launcher, world=world)
        folders[launcher] = recipe.parent / "runs" / launcher
    return recipe, folders


@pytest.mark.dist
@pytest.mark.parametrize("launcher", [name for name, _ in STARTS[1:]])
def test_every_launcher_gives_the_same_trace(runs, launcher):
    _, folders = runs
    expected, found = trace(folders["alone"], TAGS), trace(folders[launcher], TAGS)
    assert [row[0] for row in found] == [1, 2, 3, 4, 5, 6]
    for ours, theirs in zip(expected, found, strict=True):
        assert theirs == pytest.approx(ours, rel=1e-6, abs=1e-6), launcher


@pytest.mark.dist
def test_two_launchers_of_two_ranks_agree_in_every_bit(runs):
    _, folders = runs
    assert trace(folders["deepspeed"], TAGS) == trace(folders["torchrun"], TAGS) == trace(folders["mpirun"], TAGS)


@pytest.mark.dist
def test_the_run_folder_is_as_documented(runs):
    _, folders = runs
    run = folders["deepspeed"]
    for name in ("recipe.toml", "plan.json", "environment.json", "metrics.jsonl"):
        assert (run / name).is_file(), name
    assert len(list((run / "logs").glob("*/rank_0000[01].log"))) == 2
    checkpoint = run / "checkpoints" / "step_00000006"
    assert {"student", "discriminator", "rng", "state.json", "COMPLETE"} <= {path.name for path in checkpoint.iterdir()}
    assert {path.name for path in (run / "hf").iterdir()} == {"step_00000000", "step_00000003", "step_00000006"}
    state = json.loads((checkpoint / "state.json").read_text())
    assert (state["step"], state["samples"], state["world"]) == (6, 6 * 32, 2)
    assert load_recipe(run / "recipe.toml").name == "deepspeed"


@pytest.mark.dist
def test_event_files_hold_every_tag_once(runs):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, folders = runs
    run = folders["mpirun"]
    recipe = load_recipe(run / "recipe.toml")
    events = EventAccumulator(str(run / "tb"), size_guidance={"scalars": 0})
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(applicable(recipe))
    for tag in events.Tags()["scalars"]:
        steps = [event.step for event in events.Scalars(tag)]
        assert len(steps) == len(set(steps)), tag
        assert set(steps) <= set(range(0 if tag_of(tag).when.evaluation else 1, 7)), tag


@pytest.mark.dist
def test_learning_is_seen(runs):
    _, folders = runs
    rows = metrics(folders["alone"])
    assert rows[-1]["loss/masked_lm"] < rows[0]["loss/masked_lm"]
    assert rows[-1]["eval/masked_cross_entropy"] < rows[2]["eval/masked_cross_entropy"]
    assert {f"loss_by_language/{code}" for code in LANGUAGES} <= set(rows[0])
