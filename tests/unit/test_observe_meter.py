"""observe/meter.py: sums over micro-batches and ranks, one all-reduce, finite check, shares of the clock."""

import json
import math
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from unibert.observe.meter import Meter
from unibert.observe.tags import tag_of

CPU = torch.device("cpu")
LANGUAGES = ("en", "de", "ru")


def meter(**more) -> Meter:
    return Meter(languages=LANGUAGES, device=CPU, **more)


def test_ratios_are_sums_over_sums_not_means_of_means():
    m = meter()
    m.add("loss/masked_lm", torch.tensor(10.0), 2)
    m.add("loss/masked_lm", torch.tensor(3.0, requires_grad=True), torch.tensor(8))
    assert m.reduce().values["loss/masked_lm"] == pytest.approx(1.3)
    assert "loss/masked_lm" not in m.reduce().values  # a new step begins empty


def test_sums_are_kept_in_float64():
    m = meter()
    for _ in range(1000):
        m.add("loss/masked_lm", torch.tensor(0.1), 1)
    m.add("loss/masked_lm", torch.tensor(1e7), 1)
    assert m.reduce().values["loss/masked_lm"] * 1001 == pytest.approx(1e7 + 100 * 1.0000000149, rel=1e-12)


def test_languages_without_a_target_are_absent():
    m = meter()
    m.add("loss/masked_lm", 6.0, 3, by_language=(torch.tensor([4.0, 0.0, 2.0]), torch.tensor([2, 0, 1])))
    m.add("loss/masked_lm", 6.0, 3, by_language=(torch.tensor([2.0, 0.0, 4.0]), torch.tensor([1, 0, 2])))
    values = m.reduce().values
    assert values["loss_by_language/en"] == pytest.approx(2) and values["loss_by_language/ru"] == pytest.approx(2)
    assert "loss_by_language/de" not in values


def test_every_name_it_makes_itself_is_described():
    m = meter(flops_per_token=1e6, peak_flops=1e12)
    with m.teaching():
        pass
    m.count(tokens=1, places=2, samples=1)
    values = m.reduce().values
    assert {tag_of(name).pattern for name in values} >= {
        "speed/mfu_percent",
        "speed/teacher_percent",
        "memory/peak_gib",
    }
    assert 0.01 < values["memory/peak_gib"] < 100


def test_progress_goes_on_from_the_checkpoint():
    m = meter(tokens=1000, samples=10)
    m.count(tokens=60, places=80, samples=4)
    m.count(tokens=20, places=80, samples=1)
    values = m.reduce().values
    assert (values["progress/tokens"], values["progress/samples"]) == (1080, 15) == (m.tokens, m.samples)
    assert values["speed/padding_percent"] == pytest.approx(50)


def test_waiting_and_teaching_are_shares_of_the_step():
    m = meter()
    with m.waiting():
        time.sleep(0.03)
    with m.teaching():
        time.sleep(0.03)
    values = m.reduce().values
    wait, teach = values["speed/data_wait_percent"], values["speed/teacher_percent"]
    assert wait > 0 and teach > 0 and wait + teach <= 100
    assert "speed/teacher_percent" not in m.reduce().values


def test_mfu_is_by_device():
    m = meter(flops_per_token=2e6, peak_flops=1e12)
    m.count(tokens=100, places=100, samples=1)
    values = m.reduce().values
    assert values["speed/mfu_percent"] == pytest.approx(100 * 2e6 * values["speed/tokens_per_second"] / 1e12)


def test_what_is_not_finite_is_named():
    m = meter()
    m.add("loss/masked_lm", torch.tensor(math.nan), 2)
    m.add("loss/distill_hidden", torch.tensor(1.0), 2)
    m.note("optim/grad_norm/student", math.inf)
    reading = m.reduce()
    assert set(reading.nonfinite) == {"loss/masked_lm", "optim/grad_norm/student"} and reading.nonfinite_ranks == (0,)
    m.add("loss/masked_lm", torch.tensor(1.0), 2)
    assert not m.reduce().nonfinite


def _rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    calls = []
    real = dist.all_reduce
    dist.all_reduce = lambda *given, **named: (calls.append(1), real(*given, **named))[1]
    m = meter()
    counts = torch.tensor([1, 0, 1]) if rank else torch.tensor([0, 2, 0])
    # Added in another order on each rank.
    for name in ("loss/a", "loss/b")[:: 1 if rank else -1]:
        total = math.inf if rank and name == "loss/b" else 1.0 + 2 * rank
        m.add(name, total, 1 + rank, by_language=(counts * (1.0 + rank), counts))
    m.count(tokens=10 + rank, places=20, samples=1 + rank)
    time.sleep(0.02)
    reading = m.reduce()
    m.add("loss/a" if rank else "loss/other", 1.0)
    try:
        m.reduce()
        mismatch = "unseen"
    except AssertionError as error:
        mismatch = str(error)
    facts = [reading.values, reading.nonfinite, reading.nonfinite_ranks, len(calls), m.tokens, mismatch]
    Path(folder, f"{rank}.json").write_text(json.dumps(facts))
    dist.destroy_process_group()


@pytest.mark.dist
def test_two_ranks_give_one_reading_by_one_all_reduce(tmp_path):
    mp.spawn(_rank, args=(str(tmp_path),), nprocs=2)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first[:5] == second[:5]
    values, nonfinite, ranks, calls, tokens, _ = first
    assert values["loss/a"] == pytest.approx(4 / 3)
    assert values["loss_by_language/en"] == pytest.approx(2) and values["loss_by_language/de"] == pytest.approx(1)
    assert (nonfinite, ranks, calls, tokens) == (["loss/b"], [1], 2, 21)
    assert values["speed/tokens_per_second"] == pytest.approx(2 * values["speed/tokens_per_second_per_device"])
    assert values["speed/padding_percent"] == pytest.approx(100 * (1 - 21 / 40))
    assert values["progress/samples"] == 3
    assert "another rank added other names" in first[5] and "another rank added other names" in second[5]
