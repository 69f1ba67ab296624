"""An engine of ZeRO-0 with a stand-in for NVIDIA apex's LAMB, unbroken and resumed; prints how far apart they end.

The stand-in keeps its count of steps as apex does: in its groups, from its first step on.
"""

import json
import sys
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from unibert.runtime import dist, engine_state, optimizers
from unibert.runtime.players import Player
from unibert.schema import Optimizer


class FusedLAMB(torch.optim.Optimizer):
    """Adam's moments and bias correction; the trust ratio does not matter here."""

    def __init__(self, params, **settings) -> None:
        super().__init__(params, {"lr": settings["lr"], "betas": settings["betas"], "eps": settings["eps"]})

    @torch.no_grad()
    def step(self, closure=None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            one, two = group["betas"]
            for weight in group["params"]:
                state = self.state[weight]
                for name in ("exp_avg", "exp_avg_sq"):
                    state.setdefault(name, torch.zeros_like(weight))
                state["exp_avg"].lerp_(weight.grad, 1 - one)
                state["exp_avg_sq"].lerp_(weight.grad.square(), 1 - two)
                mean = state["exp_avg"] / (1 - one ** group["step"])
                square = state["exp_avg_sq"] / (1 - two ** group["step"])
                weight.sub_(group["lr"] * mean / (square.sqrt() + group["eps"]))


def player() -> Player:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    table = Optimizer(name="lamb", trust_ratio_max=0, weight_decay=0.01, learning_rate=1e-2)
    kind, optimizers._device_type = optimizers._device_type, lambda module: "cuda"
    optimizer = optimizers.build(net, table=table, stage=0)
    optimizers._device_type = kind
    assert isinstance(optimizer, FusedLAMB)
    config = {"zero_optimization": {"stage": 0}}
    settings = {"micro_batch": 4, "accumulation": 1, "world": 1, "clip_norm": 1.0, "bf16_is_faster": False}
    return Player("student", module=net, optimizer=optimizer, config=config, **settings)


def go(one: Player, steps: range) -> list[Tensor]:
    for step in steps:
        rows = torch.randn(4, 8, generator=torch.Generator().manual_seed(step))
        one.at_boundary(True)
        one.backward((one.engine(rows) - rows.sum(1, keepdim=True)).square().mean())
        one.move()
    return [weight.detach().clone() for weight in one.module.parameters()]


def main(folder: Path) -> None:
    fake = ModuleType("apex.optimizers")
    fake.FusedLAMB = FusedLAMB  # pyright: ignore[reportAttributeAccessIssue]
    sys.modules |= {"apex": ModuleType("apex"), "apex.optimizers": fake}
    dist.start(threads=1)
    unbroken = go(player(), range(10))
    first = player()
    halfway = go(first, range(5))
    engine_state.snapshot(first.engine, rank=0).write(folder, rank=0)
    second = player()
    engine_state.restore(second.engine, folder)
    resumed = go(second, range(5, 10))
    equal = all(torch.equal(a, b) for a, b in zip(unbroken, resumed, strict=True))
    moved = all(not torch.equal(a, b) for a, b in zip(unbroken, halfway, strict=True))
    print(json.dumps({"equal": equal, "moved": moved}))
    dist.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
