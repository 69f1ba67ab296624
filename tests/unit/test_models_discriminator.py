"""Sentence features of packed rows, and the discriminator's start."""

from types import SimpleNamespace

import torch

from unibert.config import Recipe
from unibert.models.discriminator import build_discriminator, features

# Documents 0, 1 and 2 in two rows of five; the documents' order is not the rows' order.
DOCUMENT = torch.tensor([[1, 1, 0, 0, 0], [2, 2, 2, 2, -1]])
BATCH = SimpleNamespace(document=DOCUMENT, cls_positions=torch.tensor([2, 0, 5]))


def hidden():
    return torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))


def test_features_are_the_first_token_or_the_mean_of_each_document():
    states = hidden()
    states[DOCUMENT < 0] = 1e6  # padding must not be seen
    assert torch.equal(features(states, BATCH, "cls"), torch.stack([states[0, 2], states[0, 0], states[1, 0]]))
    means = torch.stack([states[number == DOCUMENT].mean(0) for number in range(3)])
    torch.testing.assert_close(features(states, BATCH, "mean"), means)
    low = features(states.bfloat16(), BATCH, "mean")
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), means, atol=0.03, rtol=0.03)


def test_the_mean_gives_each_token_its_share_of_the_gradient():
    states = hidden().requires_grad_()
    features(states, BATCH, "mean").sum().backward()
    lengths = torch.tensor([3.0, 2.0, 4.0])
    expected = torch.where(DOCUMENT >= 0, 1 / lengths[DOCUMENT.clamp(min=0)], 0.0)
    torch.testing.assert_close(states.grad, expected[..., None].expand(2, 5, 6))


def recipe(seed):
    tree = {"name": "d", "languages": ["en", "de", "fr"], "discriminator": {"hidden_size": 7, "dropout": 0.5}}
    tree |= {"student": {"start": "random"}, "train": {"seed": seed}}
    return Recipe.model_validate(tree | {"objectives": {"masked_lm": {}, "language_guess": {}}})


def test_it_is_the_recipes_and_the_seeds():
    def weights(seed):
        module = build_discriminator(recipe(seed), feature_size=6)
        return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])

    state = torch.get_rng_state()
    assert torch.equal(weights(1), weights(1)) and not torch.equal(weights(1), weights(2))
    assert torch.equal(state, torch.get_rng_state())
    module = build_discriminator(recipe(1), feature_size=6)
    assert module.training and module.dropout.p == 0.5 and module.inner.out_features == 7
    logits = module(torch.randn(4, 6, dtype=torch.bfloat16))  # a bf16 student before an fp32 discriminator
    assert logits.shape == (4, 3) and logits.dtype == torch.float32
