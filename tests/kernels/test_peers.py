"""The comparison with a Hugging Face Trainer and TextBrewer: it tells other losses from equal ones, and runs."""

import copy
import importlib.util

import pytest

from benchmarks import peers

STEP = {"masked_lm": 6.2, "distill_logits": 0.1, "distill_attention": 1e-5}


def test_the_check_finds_another_loss_at_any_step():
    same = {name: {"losses": [dict(STEP), dict(STEP)]} for name in ("ours", "trainer")}
    peers.check(same)
    for step, part in ((0, "masked_lm"), (1, "distill_logits"), (1, "distill_attention")):
        other = copy.deepcopy(same)
        other["trainer"]["losses"][step][part] *= 1.001
        with pytest.raises(SystemExit, match=f"step {step + 1}: {part}"):
            peers.check(other)


def test_what_a_contestant_does_not_tell_is_not_compared():
    peers.check({"ours": {"losses": [STEP]}, "textbrewer": {"losses": [STEP | {"distill_logits": None}]}})


@pytest.mark.slow
def test_all_that_are_installed_have_the_same_losses(capsys):
    rows = peers.main(["--quick", "--widths", "32", "--repeats", "2"])
    here = [name for name, (package, _) in peers.PEERS.items() if importlib.util.find_spec(package)]
    assert len(rows) == 2 * len(here)
    assert capsys.readouterr().out.count("is left out") == len(peers.PEERS) - len(here)
    assert all(float(row[5]) > 0 and float(row[6]) > 0 for row in rows)
