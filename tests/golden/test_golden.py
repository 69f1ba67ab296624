"""The golden trace: twenty steps of the tiny recipe in fp32, committed.

A change that is not meant to touch the numbers leaves this test alone. One that is shows its curve in the
difference of trace.json, made anew by `python tests/golden/test_golden.py`.
"""

import json
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.runs import metrics, train  # noqa: E402
from tests.tiny import make_workspace  # noqa: E402

GOLDEN = Path(__file__).with_name("trace.json")
TAGS = (
    "loss/total",
    "loss/masked_lm",
    "loss/distill_hidden",
    "loss/distill_logits",
    "loss/language_guess",
    "loss/language_confusion",
    "optim/grad_norm/student",
    "optim/grad_norm/discriminator",
    "optim/lr",
)


def make_trace(folder: Path) -> list[dict[str, float]]:
    recipe = make_workspace(folder)
    train(recipe, "--train.steps", "20", "--save.every_steps", "20", "--save.export=false")
    return [{tag: float(f"{row[tag]:.7g}") for tag in TAGS} for row in metrics(folder / "runs" / "tiny")]


def test_twenty_steps_are_what_they_were(tmp_path):
    found, expected = make_trace(tmp_path), json.loads(GOLDEN.read_text())
    assert len(found) == len(expected) == 20
    for step, (now, then) in enumerate(zip(found, expected, strict=True), start=1):
        # Other processors add in another order; a changed formula shows far above this.
        assert now == pytest.approx(then, rel=2e-4, abs=1e-6), f"step {step}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.write_text(json.dumps(make_trace(Path(folder)), indent=1) + "\n")
