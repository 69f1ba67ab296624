"""Faults end every rank in bounded time with the documented code, and say what happened where. Nothing is lost."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import ROOT, environment, free_port, metrics
from tests.tiny import make_workspace

OPTIONS = "--save.every_steps=2 --save.export=false --engines.student=zero2".split()
BOUND_SECONDS = 150
POISON = f"nan {32 * 3 + 5}"  # the sixth document of step 4, in the first micro-batch of rank 0


def run(recipe: Path, fault: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Train on two ranks; the bound is on the whole command, which takes some ten seconds to begin."""
    launcher = [str(Path(sys.executable).parent / "deepspeed"), "--num_gpus", "2"]
    launcher += ["--master_port", str(free_port())]
    words = [*launcher, str(ROOT / "tests" / "resume" / "faulty.py"), "train", str(recipe), *OPTIONS, *options]
    return subprocess.run(
        words, env=environment(FAULT=fault), cwd=recipe.parent, capture_output=True, text=True, timeout=BOUND_SECONDS
    )


def rank_logs(recipe: Path) -> list[str]:
    return [path.read_text() for path in sorted((recipe.parent / "runs" / "tiny" / "logs").glob("*/rank_*.log"))]


@pytest.mark.dist
def test_a_poisoned_sample(tmp_path):
    recipe = make_workspace(tmp_path)
    done = run(recipe, POISON)
    assert done.returncode == 4, done.stderr[-3000:]
    folder = tmp_path / "runs" / "tiny"
    for word in ("step 4, samples 96..127", "loss/masked_lm", "samples 96..103 of rank 0", "--train.skip-steps 4:4"):
        assert word in done.stderr, done.stderr[-3000:]
    facts = json.loads((folder / "nonfinite_step_00000004.json").read_text())
    broken = [micro for micro in facts["micro_batches"] if not micro["loss_is_finite"]]
    assert [micro["samples"] for micro in broken] == [list(range(96, 104))]
    assert sorted(s for micro in facts["micro_batches"] for s in micro["samples"]) == list(range(96, 128))
    assert broken[0]["documents"][5].split(":")[0] in ("en", "de", "ru", "ar")
    assert [path.name for path in (folder / "checkpoints").glob("step_*")] == ["step_00000002"]

    again = run(recipe, POISON, "--train.skip-steps", "4:4")
    assert again.returncode == 0, again.stderr[-3000:]
    assert "step 4 is passed over" in again.stdout + again.stderr
    rows = {row["step"]: row for row in metrics(folder)}
    assert list(rows) == [1, 2, 3, 4, 5, 6]
    assert "loss/total" not in rows[4]
    assert rows[6]["progress/samples"] == 32 * 6
    assert rows[6]["loss/total"] < rows[1]["loss/total"]


@pytest.mark.dist
def test_data_that_one_rank_cannot_read_ends_both_with_its_code(tmp_path):
    recipe = make_workspace(tmp_path)
    done = run(recipe, "data 1 3")
    assert done.returncode == 3, done.stderr[-3000:]
    assert done.stderr.count("on rank 1: the shard of this test is gone") == 2  # said by both, waited for by none
    assert [row["step"] for row in metrics(tmp_path / "runs" / "tiny")] == [1, 2]
    assert (tmp_path / "runs" / "tiny" / "checkpoints" / "step_00000002" / "COMPLETE").is_file(), "it was being written"


@pytest.mark.dist
def test_a_rank_that_stalls_ends_both_with_their_stacks(tmp_path):
    recipe = make_workspace(tmp_path)
    done = run(recipe, "stall 1 3", "--train.stall_minutes", "0.15")
    assert done.returncode == 6, done.stderr[-3000:]
    assert "train.stall_minutes" in done.stderr
    waits, sleeps = rank_logs(recipe)
    assert "fall_asleep" in sleeps
    assert "no progress" in waits
    assert "all_reduce" in waits  # where it waited for the other


@pytest.mark.dist
def test_a_rank_that_dies_takes_the_other_with_it_and_its_stack_is_kept(tmp_path):
    recipe = make_workspace(tmp_path)
    done = run(recipe, "die 1 3")
    assert done.returncode not in (0, 75)
    waits = rank_logs(recipe)[0]
    assert "train_step" in waits
    assert "all_reduce" in waits
