"""A gradient that overflows fp16 at every loss scale ends the run instead of being skipped for ever."""

import subprocess
import sys

import pytest

from tests.runs import ROOT, environment, trains_in

SCRIPT = """
import sys, torch
from unibert.errors import NumericsError
from unibert.runtime import dist, optimizers
from unibert.runtime.players import Player
from unibert.schema import Optimizer
dist.start(threads=1)
module = torch.nn.Linear(4, 4)
config = {"zero_optimization": {"stage": int(sys.argv[1])}, "fp16": {"enabled": True, "initial_scale_power": 1, "hysteresis": 1}}
player = Player("student", module=module, optimizer=optimizers.build(module, table=Optimizer()), config=config,
                micro_batch=1, accumulation=1, world=1, clip_norm=1.0, bf16_is_faster=False)
for step in range(9):
    player.at_boundary(True)
    player.backward(player.engine(torch.ones(1, 4, dtype=torch.half)).sum() * (1e9 if step else 1.0))
    try:
        player.move()
    except NumericsError as error:
        assert "least loss scale" in str(error)
        print("ended at", step, "after", player.skipped)
        break
    assert (player.grad_norm is None) == bool(step)
"""


@pytest.mark.dist
@pytest.mark.skipif(not trains_in("fp16"), reason="this CPU does not train in fp16")
@pytest.mark.parametrize("stage", ["0", "1", "3"])
def test_an_overflow_at_the_least_scale_is_an_error(stage):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, stage], env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "ended at" in done.stdout
