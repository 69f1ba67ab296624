import itertools
import math
import signal
import time

import pytest

from tests.unit.small_data import recipe
from unibert.config import load_recipe
from unibert.errors import ConfigError, MachineError
from unibert.objective_tables import Line, Ramp
from unibert.runtime import dist, schedules, stop
from unibert.runtime.dist import Ranks, ranks_from_environment
from unibert.runtime.stop import StopFlag


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, Ranks(0, 1, 0, 1, "alone")),
        (
            {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"},
            Ranks(3, 4, 1, 2, "torch or deepspeed"),
        ),
        (
            {
                "OMPI_COMM_WORLD_RANK": "1",
                "OMPI_COMM_WORLD_SIZE": "2",
                "OMPI_COMM_WORLD_LOCAL_RANK": "1",
                "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
            },
            Ranks(1, 2, 1, 2, "OpenMPI"),
        ),
        (
            {
                "SLURM_PROCID": "5",
                "SLURM_NTASKS": "8",
                "SLURM_LOCALID": "1",
                "SLURM_STEP_ID": "0",
                "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
            },
            Ranks(5, 8, 1, 4, "SLURM"),
        ),
        # The shell of a batch job is no rank: only what srun starts has a step.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, Ranks(0, 1, 0, 1, "alone")),
    ],
)
def test_ranks_come_from_the_launcher(env, expected):
    assert ranks_from_environment(env) == expected


def test_half_of_a_launcher_or_a_rank_outside_is_refused():
    with pytest.raises(MachineError, match="without WORLD_SIZE"):
        ranks_from_environment({"RANK": "0"})
    with pytest.raises(MachineError, match="outside"):
        ranks_from_environment({"RANK": "2", "WORLD_SIZE": "2"})


def rates_of(folder, *, ladder=(), **optimizer):
    table = {"learning_rate": 2.0, "warmup_fraction": 0.1, "final_fraction": 0.25} | optimizer
    small = recipe(folder, languages=("en",), train={"steps": 100, "ladder": ladder}, optimizer=table)
    return [schedules.learning_rate(step, recipe=small) for step in range(1, 101)]


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine"])
def test_rate_rises_to_the_peak_and_ends_at_the_final_fraction(tmp_path, shape):
    rates = rates_of(tmp_path, schedule=shape)
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == pytest.approx(2.0)
    assert rates[-1] == pytest.approx(2.0 if shape == "constant" else 0.5)
    assert all(a >= b for a, b in itertools.pairwise(rates[9:]))
    if shape != "constant":  # half way after the warm-up: linear and cosine meet
        assert rates[54] == pytest.approx(0.5 + 1.5 * 0.5)


def test_the_rate_follows_the_root_of_the_batch(tmp_path):
    ladder = [{"until_step": 5, "global_batch_sequences": 4}, {"until_step": 40, "global_batch_sequences": 8}]
    plain, climbing = rates_of(tmp_path), rates_of(tmp_path, ladder=ladder)
    factors = [small / full for small, full in zip(climbing, plain, strict=True)]
    assert factors == pytest.approx([0.5] * 5 + [math.sqrt(0.5)] * 35 + [1.0] * 60)


def test_a_line_falls_to_its_end_and_stays():
    weight = Line(start=10, end=0, until=0.5)
    values = [schedules.weight(weight, step=step, steps=11) for step in (1, 2, 5, 6, 7, 11)]
    assert values == pytest.approx([10, 8, 2, 0, 0, 0])
    assert schedules.weight(Line(start=1, end=3), step=11, steps=11) == 3


def test_the_ramp_is_dann_s():
    values = [schedules.weight(Ramp(max=0.3, steepness=10), step=step, steps=11) for step in (1, 6, 11)]
    assert values == pytest.approx([0.0, 0.3 * (2 / (1 + math.exp(-5)) - 1), 0.3 * (2 / (1 + math.exp(-10)) - 1)])
    assert schedules.weight(0.7, step=3, steps=11) == 0.7


def test_signals_and_the_file_become_one_flag(tmp_path):
    before = signal.getsignal(signal.SIGUSR2)
    with StopFlag(tmp_path / "STOP") as flag:
        assert not flag.wanted()
        (tmp_path / "STOP").touch()
        assert flag.wanted()
        assert "STOP" in (flag.reason or "")
        signal.raise_signal(signal.SIGUSR2)
        assert flag.reason == "SIGUSR2"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGUSR2) is before


def test_a_signal_of_the_start_and_a_second_file_count_too(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIBERT_STOP_FILE", str(tmp_path / "job" / "stop"))
    before = {number: signal.getsignal(number) for number in stop.ASKING}
    try:
        stop.remember_signals()
        signal.raise_signal(signal.SIGTERM)
        with StopFlag(tmp_path / "STOP") as flag:
            assert flag.wanted()
            assert flag.reason == "SIGTERM"
        with StopFlag(tmp_path / "STOP") as flag:
            assert not flag.wanted(), "it was for the first one"
            (tmp_path / "job").mkdir()
            (tmp_path / "job" / "stop").touch()
            assert flag.wanted()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_time_limit_counts_from_where_it_is_told(tmp_path):
    now = time.monotonic()
    for began, over in ((now - 61, True), (now - 30, False)):
        with StopFlag(tmp_path / "STOP", began=began, limit_minutes=1.0) as flag:
            assert flag.wanted() is over
            assert ("time_limit_minutes = 1" in str(flag.reason)) is over


def test_ranks_that_differ_are_refused_by_name(monkeypatch):
    same = {"recipe": "a1", "shards": "b2"}
    monkeypatch.setattr(dist, "everyone_says", lambda facts: [facts, facts, facts])
    dist.refuse_differences(same)
    monkeypatch.setattr(dist, "everyone_says", lambda facts: [facts, facts, facts | {"shards": "c3"}])
    with pytest.raises(MachineError, match="rank 2 has another shards than rank 0"):
        dist.refuse_differences(same)


@pytest.mark.parametrize("text", ["7:3", "x", "3:", "-1"])
def test_steps_to_skip_that_cannot_be_are_refused(text):
    with pytest.raises(ConfigError, match="skip_steps"):
        load_recipe("demo", [f"--train.skip-steps={text}"])
