"""Several teachers, and teachers of other vocabularies: what they say is what their definition says."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from tests.tiny import make_workspace
from unibert.config import load_recipe, to_toml
from unibert.data.batches import Stream
from unibert.data.shards import ShardSet
from unibert.errors import ConfigError
from unibert.models.folders import save_hf
from unibert.models.teacher import load_resident, load_teacher
from unibert.models.teacher.pieces import compare
from unibert.models.wanted import Wanted
from unibert.plan import first_sample, step_of

CPU = torch.device("cpu")
WANTED = Wanted(True, True, frozenset({0, 1}))


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory) -> Path:
    """A workspace with two further teachers, b and c."""
    file = make_workspace(tmp_path_factory.mktemp("several"))
    source = load_recipe(file).teacher.path
    for number, name in enumerate("bc"):
        model = AutoModelForMaskedLM.from_pretrained(source)
        generator = torch.Generator().manual_seed(number)
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
        save_hf(model, file.parent / name)
        AutoTokenizer.from_pretrained(source).save_pretrained(file.parent / name)
    return file


def recipe_of(file, several, *more, words=()):
    """The recipe with [[teacher.more]] of `more`: (name, TOML of other keys)."""
    text = file.read_text().replace("[teacher]", f'[teacher]\nseveral = "{several}"\nweight = 1.0')
    for name, keys in more:
        text += f'\n[[teacher.more]]\npath = "{file.parent / name}"\n{keys}\n'
    new = file.parent / f"{several}.toml"
    new.write_text(text)
    return load_recipe(new, words)


def batch_of(recipe, step=0):
    shards = ShardSet.open(recipe.data.folder / "shards", languages=recipe.languages)
    return Stream(recipe, shards, rank=0, world=1).step(step)[0]


def alone(file, name=None):
    recipe = load_recipe(file, [] if name is None else ["--teacher.path", str(file.parent / name)])
    return load_resident(recipe.teacher, device=CPU)


def test_mixed_is_the_weighted_mean_of_distributions_and_states(recipe_file):
    recipe = recipe_of(recipe_file, "mixed", ("b", "weight = 3.0"))
    batch, teacher = batch_of(recipe), load_teacher(recipe, device=CPU)
    assert teacher.gives.attention == frozenset() and len(teacher.parameters()) > 40
    out, one, two = (t.forward(batch, WANTED) for t in (teacher, alone(recipe_file), alone(recipe_file, "b")))
    for name in ("masked_logits", "token_logits"):
        expected = 0.25 * getattr(one, name).softmax(-1) + 0.75 * getattr(two, name).softmax(-1)
        torch.testing.assert_close(getattr(out, name).softmax(-1), expected)
    torch.testing.assert_close(out.last_hidden, 0.25 * one.last_hidden + 0.75 * two.last_hidden)
    torch.testing.assert_close(out.hidden[1], 0.25 * one.hidden[1] + 0.75 * two.hidden[1])
    assert load_recipe(_written(recipe, recipe_file)) == recipe


def _written(recipe, file):
    path = file.parent / "again.toml"
    path.write_text(to_toml(recipe))
    return path


def test_by_language_each_document_has_its_teacher(recipe_file):
    recipe = recipe_of(recipe_file, "by_language", ("b", 'languages = ["de"]'), ("c", 'languages = ["ru", "ar"]'))
    batch, teacher = batch_of(recipe), load_teacher(recipe, device=CPU)
    out = teacher.forward(batch, WANTED)
    each = [t.forward(batch, WANTED) for t in (alone(recipe_file), alone(recipe_file, "b"), alone(recipe_file, "c"))]
    owners = [{"de": 1, "ru": 2, "ar": 2}.get(recipe.languages[code], 0) for code in batch.language.tolist()]
    assert len(set(owners)) == 3
    flat = batch.document.flatten()
    for place in batch.token_positions.tolist():
        owner = owners[flat[place]]
        assert torch.equal(out.last_hidden.flatten(0, 1)[place], each[owner].last_hidden.flatten(0, 1)[place])
    for number, place in enumerate(batch.target_positions.tolist()):
        assert torch.equal(out.masked_logits[number], each[owners[flat[place]]].masked_logits[number])


def test_one_is_drawn_for_each_step_by_weight(recipe_file):
    recipe = recipe_of(recipe_file, "drawn", ("b", "weight = 3.0"))
    teacher = load_teacher(recipe, device=CPU)
    draws = [teacher.drawn(step) for step in range(1, 4001)]
    assert np.mean(draws) == pytest.approx(0.75, abs=0.03) and draws == [teacher.drawn(s) for s in range(1, 4001)]
    for step in range(6):
        batch = batch_of(recipe, step)
        expected = alone(recipe_file, "b" if draws[step] else None).forward(batch, WANTED)
        assert torch.equal(teacher.forward(batch, WANTED).masked_logits, expected.masked_logits)
    assert len(set(draws[:6])) == 2


def test_the_step_of_a_position(recipe_file):
    recipe = load_recipe(recipe_file)
    rungs = [{"until_step": 2, "global_batch_sequences": 8}, {"until_step": 5, "global_batch_sequences": 16}]
    train = type(recipe.train).model_validate(recipe.train.model_dump() | {"ladder": rungs, "steps": 9})
    recipe = recipe.model_copy(update={"train": train})
    for step in range(1, 12):
        first, after = first_sample(recipe, step), first_sample(recipe, step + 1)
        assert [step_of(recipe, position) for position in (first, after - 1)] == [step, step]


@pytest.mark.parametrize(
    ("several", "more", "text"),
    [
        ("by_language", ("b", ""), "its languages"),
        ("mixed", ("b", 'languages = ["de"]'), "does not read"),
        ("by_language", ("b", 'languages = ["fr"]'), "not among"),
    ],
)
def test_teachers_that_cannot_share_are_refused(recipe_file, several, more, text):
    with pytest.raises(ConfigError, match=text):
        recipe_of(recipe_file, several, more)


def other_vocabulary(file, folder, relation):
    """The teacher under another vocabulary: (folder, its id of each of our pieces)."""
    source = load_recipe(file).teacher.path
    model, tree = AutoModelForMaskedLM.from_pretrained(source), json.loads((source / "tokenizer.json").read_text())
    vocabulary = tree["model"]["vocab"]
    count, order = len(vocabulary), np.arange(len(vocabulary))
    if relation in ("permuted", "superset"):
        order[5:] = 5 + np.random.default_rng(0).permutation(count - 5)
    new = [None] * count
    for ours, theirs in enumerate(order):
        new[theirs] = vocabulary[ours]
    rows = torch.from_numpy(np.argsort(order))
    more = {"padded": 24, "superset": 24}.get(relation, 0)
    if relation == "superset":
        new += [[f"more{i}", -20.0] for i in range(24)]
    if relation == "different":
        new[7], new[9] = ["strange", -9.0], ["odd", -9.0]
    tree["model"]["vocab"] = new
    table, bias = model.bert.embeddings.word_embeddings.weight.data[rows], model.cls.predictions.bias.data[rows]
    model.resize_token_embeddings(count + more, mean_resizing=False)
    model.bert.embeddings.word_embeddings.weight.data[:count] = table
    model.cls.predictions.bias.data[:count] = bias
    save_hf(model, folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(tree))
    return folder, order


@pytest.mark.parametrize("relation", ["equal", "padded", "permuted", "superset"])
def test_a_vocabulary_of_another_order_is_mapped(recipe_file, tmp_path, relation, caplog):
    folder, order = other_vocabulary(recipe_file, tmp_path / relation, relation)
    recipe = load_recipe(recipe_file, ["--teacher.path", str(folder)])
    with caplog.at_level("INFO"):
        teacher = load_teacher(recipe, device=CPU)
    assert f"{relation} vocabulary" in caplog.text
    found = compare(recipe.data.folder / "tokenizer", folder, rows=10_000 if relation == "padded" else len(order))
    assert found.of_teacher.tolist() == order.tolist()
    batch = batch_of(recipe)
    out, exact = teacher.forward(batch, WANTED), alone(recipe_file).forward(batch, WANTED)
    assert teacher.sizes.vocabulary == len(order)
    torch.testing.assert_close(out.last_hidden, exact.last_hidden)
    torch.testing.assert_close(out.masked_logits, exact.masked_logits)


def test_a_vocabulary_without_our_pieces_is_refused(recipe_file, tmp_path):
    folder, _ = other_vocabulary(recipe_file, tmp_path / "different", "different")
    with pytest.raises(ConfigError, match="2 of our pieces are not in it"):
        load_teacher(load_recipe(recipe_file, ["--teacher.path", str(folder)]), device=CPU)
