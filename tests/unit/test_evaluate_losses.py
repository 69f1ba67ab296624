"""evaluate/losses.py and heldout_batches.py: every objective on held-out text, and looking changes nothing."""

import json

import pytest
import torch

from tests import runs
from tests.tiny import make_workspace
from unibert.config import load_recipe
from unibert.data.shards import ShardSet
from unibert.evaluate.heldout import read_heldout
from unibert.evaluate.heldout_batches import heldout_micros, pairable

PAIRS = ["--data.parallel_ratio=0.5", "--objectives.translation_lm={}"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("losses"))


def heldout_of(recipe):
    shards = ShardSet.open(recipe.data.folder / "shards_heldout", languages=recipe.languages)
    return shards, read_heldout(recipe.data.folder, languages=recipe.languages).messages


def test_the_batches_are_of_held_out_text_and_pairs_of_messages(workspace):
    recipe = load_recipe(workspace, PAIRS)
    shards, messages = heldout_of(recipe)
    (batch,) = heldout_micros(recipe, shards, messages, indices=[0])
    english = recipe.languages.index("en")
    assert len(batch.pairs) == recipe.train.micro_batch_sequences // 4
    assert (batch.language[batch.pairs] == english).any(dim=1).all()
    assert batch.joined is not None and batch.joined.documents == len(batch.pairs)
    own = {
        shards.sample(code, i).tobytes()
        for code in range(len(recipe.languages))
        for i in range(10_000)
        if i < shards.samples_per_language[code]
    }
    text = batch.unmasked
    alone = sorted(set(range(batch.documents)) - set(batch.pairs.flatten().tolist()))
    for document in alone:
        ids = text.input_ids[text.document == document].numpy()
        assert ids.astype(shards.sample(0, 0).dtype).tobytes() in own


def test_without_messages_there_are_no_pairs(workspace):
    recipe = load_recipe(workspace, PAIRS)
    shards, _ = heldout_of(recipe)
    (batch,) = heldout_micros(recipe, shards, [], indices=[0])
    assert not len(batch.pairs)


def test_pairs_without_english_have_no_held_out_ones(workspace):
    recipe = load_recipe(workspace)
    _, messages = heldout_of(recipe)
    foreign = tuple(code for code in recipe.languages if code != "en")
    assert pairable(recipe, messages)
    assert pairable(recipe.model_copy(update={"languages": foreign}), messages) == []
    assert pairable(recipe.model_copy(update={"languages": ("en",)}), messages) == []


def test_the_same_batches_whatever_the_run_drops_and_its_seed(workspace):
    recipe = load_recipe(workspace)
    other = load_recipe(workspace, ["--train.seed=7", "--data.drop_tokens=0.5"])
    batches = [heldout_micros(one, *heldout_of(one), indices=[1])[0] for one in (recipe, other)]
    assert torch.equal(batches[0].input_ids, batches[1].input_ids)


@pytest.mark.dist
def test_looking_changes_nothing_and_every_loss_is_there_from_step_0(workspace):
    often, never = (
        runs.metrics(runs_folder(workspace, name, every)) for name, every in (("often", "1"), ("never", "1000"))
    )
    tags = [tag for tag in never[0] if tag.startswith(("loss", "optim"))]
    assert [[row[tag] for tag in tags] for row in often] == [[row[tag] for tag in tags] for row in never]
    first = json.loads((workspace.parent / "runs/often/metrics.jsonl").read_text().splitlines()[0])
    on = load_recipe(workspace).objectives.on()
    assert first["step"] == 0 and {f"loss_heldout/{name}" for name in on} <= first.keys()
    assert often[-1]["loss_heldout/masked_lm"] < first["loss_heldout/masked_lm"]


def runs_folder(workspace, name, every):
    runs.train(workspace, f"--name={name}", f"--log.evaluate_every_steps={every}", "--student.dropout=0.1")
    return workspace.parent / "runs" / name
