"""A hundred steps by the kernels, and by eager attention, all logits and plain losses: one loss curve."""

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


def apart(side: torch.Tensor, other: torch.Tensor) -> float:
    """The most that two curves differ by, of a hundred steps, relative to the loss."""
    return float((side / other - 1).abs().max())


# A loss in fp32 is rounded by 6e-8 of itself at most, but its parts are sums whose order differs: 1e-7. The gradients
# are as far apart, and a step moves the weights by them. Where the descent is smooth, such differences add up from step
# to step and do not multiply: at most 1e-7 more with each, 1e-5 after a hundred (4e-7 was seen, as signs differ).
TOLERANCE = STEPS * 1e-7


def test_the_loss_curves_are_one(eager):
    assert eager[-1] < 0.3 * eager[0], "nothing was learned"
    assert apart(losses("ours"), eager) < TOLERANCE


def test_a_gradient_that_is_one_percent_too_large_is_another_curve(eager, monkeypatch):
    kl = attention_maps.COMPARED["kl"]

    def wrong(*args):
        rows, ds = kl(*args)
        return rows, ds.mul_(1.01)

    monkeypatch.setitem(attention_maps.COMPARED, "kl", wrong)
    assert apart(losses("ours"), eager) > 10 * TOLERANCE
