"""The closed-form head: it is the linear map it should be, and better than frequencies."""

import pytest
import torch
from torch.nn import functional
from transformers import BertConfig, BertForMaskedLM

from tests.tiny import make_workspace
from unibert.config import load_recipe
from unibert.data.shards import ShardSet
from unibert.models.encoder import Encoder, load_encoder
from unibert.models.head_start import discriminant, fit_head, read_targets, set_linear
from unibert.models.heads import start_head
from unibert.models.vocabulary import log_frequencies


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    recipe = load_recipe(make_workspace(tmp_path_factory.mktemp("head")))
    return recipe, ShardSet.open(recipe.data.folder / "shards", languages=recipe.languages)


def test_the_fitted_head_beats_frequencies_on_text_it_has_not_seen(workspace):
    recipe, shards = workspace
    encoder, _ = load_encoder(recipe.teacher.path)
    start_head(encoder.hf, bias_V=log_frequencies(recipe, shards=shards))
    body = {name: value.clone() for name, value in encoder.hf.bert.state_dict().items()}
    fit = fit_head(encoder, recipe, shards=shards)
    assert fit.targets > 500 and fit.fitted < fit.by_frequency
    assert all(torch.equal(value, body[name]) for name, value in encoder.hf.bert.state_dict().items())
    # the head as a network, on the held-out shards: what the fit promised holds
    held = ShardSet.open(recipe.data.folder / "shards_heldout", languages=recipe.languages)
    hidden_NH, target_N = read_targets(encoder, recipe, shards=held)
    with torch.no_grad():
        loss = functional.cross_entropy(encoder.hf.cls(hidden_NH), target_N)
        alone = functional.cross_entropy(encoder.hf.cls.predictions.bias.expand(len(target_N), -1), target_N)
    assert loss < alone


def test_the_hidden_states_are_those_at_the_masked_places(workspace):
    recipe, shards = workspace
    encoder, _ = load_encoder(recipe.teacher.path)
    hidden_NH, target_N = read_targets(encoder, recipe, shards=shards)
    assert hidden_NH.dtype == torch.float32 and hidden_NH.shape == (len(target_N), encoder.hidden_size)
    again, _ = read_targets(encoder, recipe, shards=shards)
    assert torch.equal(hidden_NH, again)


def test_dense_gelu_norm_act_as_the_linear_map():
    torch.manual_seed(0)
    size, count = 64, 2000
    hf = BertForMaskedLM(
        BertConfig(vocab_size=20, hidden_size=size, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64)
    )
    mean_H, scale_H = 5 * torch.randn(size), 0.1 + torch.rand(size)
    z_NH, map_HH = torch.randn(count, size), torch.randn(size, size)
    set_linear(hf.cls.predictions.transform, map_HH, mean_H=mean_H, scale_H=scale_H, z_NH=z_NH)
    wanted_NH = z_NH @ map_HH
    wanted_NH = wanted_NH - wanted_NH.mean(1, keepdim=True)  # what LayerNorm takes away
    with torch.no_grad():
        given_NH = hf.cls.predictions.transform(mean_H + scale_H * z_NH)
    alike_N = functional.cosine_similarity(given_NH, wanted_NH)
    assert alike_N.mean() > 0.97 and alike_N.min() > 0.8
    assert 0.9 < (given_NH.std() / wanted_NH.std()) < 1.05


def test_the_discriminant_finds_the_classes():
    """Three classes whose states differ along one direction each: the class of most points is the largest logit."""
    torch.manual_seed(0)
    rows_VH = torch.randn(3, 16)
    target_N = torch.randint(0, 3, (600,))
    z_NH = 0.7 * torch.randn(600, 16) + 2 * functional.one_hot(target_N, 16)
    z_NH = (z_NH - z_NH.mean(0)) / z_NH.std(0)
    map_HH = discriminant(z_NH, rows_VH[target_N])
    assert ((z_NH @ map_HH @ rows_VH.T).argmax(1) == target_N).float().mean() > 0.9


def test_an_encoder_in_training_is_left_in_training(workspace):
    recipe, shards = workspace
    encoder: Encoder = load_encoder(recipe.teacher.path)[0].train()
    read_targets(encoder, recipe, shards=shards)
    assert encoder.training and next(encoder.parameters()).dtype == torch.float32
