"""The teacher is frozen, in eval mode, and its answers are constants."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import make_workspace
from unibert.config import load_recipe
from unibert.data.batches import Stream
from unibert.data.shards import ShardSet
from unibert.errors import DataError
from unibert.models.student import build_student
from unibert.models.teacher import ResidentTeacher, load_teacher, teacher_sizes
from unibert.models.wanted import Wanted

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def batch(recipe_file):
    recipe = load_recipe(recipe_file)
    shards = ShardSet.open(recipe.data.folder / "shards", languages=recipe.languages)
    steps = Stream(recipe, shards, rank=0, world=1).steps(0)
    first = next(steps)[0]
    steps.close()
    return first


def test_it_answers_as_a_constant_and_without_dropout(recipe_file, batch):
    recipe = load_recipe(recipe_file, ["--student.dropout", "0.5", "--student.attention_dropout", "0.5"])
    student = build_student(recipe)  # in train mode, with dropout, and it would change from call to call
    teacher = ResidentTeacher(student)
    first, second = (teacher.forward(batch, Wanted(masked_logits=True)) for _ in range(2))
    assert torch.equal(first.last_hidden, second.last_hidden) and torch.equal(first.masked_logits, second.masked_logits)
    assert not first.last_hidden.requires_grad and not any(p.requires_grad for p in teacher.encoder.parameters())
    # plain tensors, which autograd may keep: not of inference mode
    weight = torch.ones_like(first.last_hidden, requires_grad=True)
    (weight * first.last_hidden).sum().backward()
    assert torch.equal(weight.grad, first.last_hidden)


def test_it_says_what_it_can_give(recipe_file, batch, tmp_path):
    recipe = load_recipe(recipe_file)
    teacher = load_teacher(recipe, device=CPU)
    layers = teacher.encoder.num_layers
    assert teacher.gives == Wanted(True, True, frozenset(range(layers)), frozenset(range(1, layers + 1)))
    assert teacher_sizes(recipe) == teacher.encoder.sizes
    out = teacher.forward(batch, teacher.gives)
    assert out.last_hidden.shape == (*batch.input_ids.shape, 32) and out.last_hidden.dtype == torch.float32
    assert out.masked_logits.shape == (batch.targets, teacher.encoder.vocabulary_size)
    assert set(out.hidden) == set(range(layers)) and set(out.attention) == set(range(1, layers + 1))
    torch.testing.assert_close(out.token_logits[0], teacher.encoder.logits(out.last_hidden[0, :1])[0])
    assert teacher.forward(batch, Wanted()).masked_logits is None
    factored = teacher.forward(batch, Wanted(masked_logits=True, token_logits=True, factored=True))
    assert factored.masked_logits is None and factored.token_logits is None
    torch.testing.assert_close(factored.decoder(factored.masked_inputs), out.masked_logits)
    torch.testing.assert_close(factored.decoder(factored.token_inputs), out.token_logits)
    teacher.encoder.hf.bert.save_pretrained(tmp_path / "body")
    headless = load_teacher(load_recipe(recipe_file, ["--teacher.path", str(tmp_path / "body")]), device=CPU)
    assert headless.gives == replace(teacher.gives, masked_logits=False, token_logits=False)
    assert headless.forward(batch, Wanted()).masked_logits is None


def test_it_computes_in_the_precision_asked_for(recipe_file, batch):
    exact = load_teacher(load_recipe(recipe_file, ["--teacher.dtype", "fp32"]), device=CPU).forward(batch, Wanted())
    low = load_teacher(load_recipe(recipe_file, ["--teacher.dtype", "bf16"]), device=CPU).forward(batch, Wanted())
    assert low.last_hidden.dtype == torch.bfloat16
    real = (batch.document >= 0).numpy()
    error = (low.last_hidden.float() - exact.last_hidden).numpy()[real]
    assert 0 < np.abs(error).mean() < 0.03


def test_a_missing_teacher_names_its_place(recipe_file, tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        load_teacher(load_recipe(recipe_file, ["--teacher.path", str(tmp_path / "nowhere")]), device=CPU)
