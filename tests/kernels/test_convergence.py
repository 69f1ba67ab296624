"""A hundred steps by the kernels and by eager attention, all logits and plain losses, from one start: one loss curve."""

import pytest
import torch

from benchmarks.distillation_step import Sides, full_rows
from kernels import attention_maps

STEPS, ROWS, WIDTH, VOCABULARY = 100, 4, 24, 150


def losses(side: str) -> torch.Tensor:
    """Of each step, [STEPS], float64."""
    sides = Sides(layers=2, width=48, vocabulary=VOCABULARY, longest=WIDTH)
    for model in (sides.student, sides.teacher):  # maps of fresh weights are flat, so that nothing moves them
        for name, weight in model.named_parameters():
            if name.endswith(("query.weight", "key.weight")):
                weight.data.mul_(8)
    batch, optimizer = full_rows(ROWS, WIDTH, vocabulary=VOCABULARY), torch.optim.AdamW(sides.student.parameters())
    curve = []
    for _ in range(STEPS):
        curve.append(sides.step(side, batch))
        optimizer.step()
    return torch.tensor(curve, dtype=torch.float64)


@pytest.fixture(scope="module")
def eager() -> torch.Tensor:
    return losses("eager")


def test_the_loss_curves_are_one(eager):
    print((losses("ours") / eager - 1).abs())


def test_a_gradient_that_is_a_little_wrong_is_another_curve(eager, monkeypatch):
    kl = attention_maps._kl

    def wrong(*args):
        total, ds = kl(*args)
        return total, ds.mul_(1.01)

    monkeypatch.setattr(attention_maps, "_kl", wrong)
    print((losses("ours") / eager - 1).abs(), eager)
