"""observe/logger.py and its files: each step once, in metrics.jsonl and in TensorBoard, whatever killed the run."""

import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from unibert.config import Recipe
from unibert.errors import DataError, MachineError
from unibert.observe.logger import RunLogger
from unibert.observe.metrics_file import MetricsFile, read_metrics

RECIPE = Recipe.model_validate(
    {
        "name": "t",
        "languages": ("en", "de", "ru"),
        "student": {"start": "random"},
        "train": {"steps": 60},
        "log": {"every_steps": 10},
        "objectives": {"masked_lm": {}},
    }
)


def start(folder: Path, *, first_step: int = 0, rank: int = 0, console: Console | None = None) -> RunLogger:
    console = console or Console(file=io.StringIO())
    return RunLogger(folder, recipe=RECIPE, rank=rank, first_step=first_step, job="job", console=console)


def values(number: float) -> dict[str, float]:
    return {"loss/total": number, "optim/lr": 0.1 * number, "memory/peak_gib": number}


def points(folder: Path, tag: str) -> list[tuple[int, float]]:
    reader = EventAccumulator(str(folder / "tb")).Reload()
    return [(point.step, point.value) for point in reader.Scalars(tag)]


def steps(folder: Path) -> list[int]:
    return [row["step"] for row in read_metrics(folder / "metrics.jsonl")]


def test_metrics_has_every_step_and_tensorboard_the_window(tmp_path):
    with start(tmp_path) as log:
        log.log(0, {"eval/masked_accuracy": 0.25})
        for step in range(1, 15):
            log.log(step, values(step))
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(15)) and rows[3]["loss/total"] == 3
    assert abs(rows[-1]["unix_seconds"] - time.time()) < 3600
    assert points(tmp_path, "loss/total") == [(10, 5.5)]  # mean of 1..10
    assert points(tmp_path, "optim/lr") == [(10, pytest.approx(1.0))]  # the last
    assert points(tmp_path, "memory/peak_gib") == [(10, 10.0)]
    assert points(tmp_path, "eval/masked_accuracy") == [(0, 0.25)]


def test_resume_between_two_points_gives_the_points_of_an_uninterrupted_run(tmp_path):
    with start(tmp_path / "whole") as log:
        for step in range(1, 41):
            log.log(step, values(1 / step))
    with start(tmp_path / "halves") as log:
        for step in range(1, 38):
            log.log(step, values(1 / step))
    with start(tmp_path / "halves", first_step=14) as log:
        for step in range(15, 41):
            log.log(step, values(1 / step))
    for tag in values(1):
        assert points(tmp_path / "halves", tag) == points(tmp_path / "whole", tag)
    assert steps(tmp_path / "halves") == list(range(1, 41))


def test_resume_from_the_beginning_takes_everything_back(tmp_path):
    for _ in range(2):
        with start(tmp_path) as log:
            log.log(0, {"eval/masked_accuracy": 0.25})
            for step in range(1, 13):
                log.log(step, values(step))
    assert steps(tmp_path) == list(range(13))
    assert [step for step, _ in points(tmp_path, "loss/total")] == [10]
    assert [step for step, _ in points(tmp_path, "eval/masked_accuracy")] == [0]


ENDLESS = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_observe_logger import start, values
with start(Path(sys.argv[1])) as log:
    for step in range(1, 10**9):
        log.log(step, values(-1.0))
"""


def test_kill_9_at_any_moment_then_resume_has_each_step_once(tmp_path):
    code = ENDLESS.format(here=str(Path(__file__).parent))
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[2])
    file = tmp_path / "metrics.jsonl"
    try:
        deadline = time.monotonic() + 120
        while (not file.exists() or file.stat().st_size < 20_000) and child.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert child.returncode == -signal.SIGKILL
    # The worst that a kill can leave besides: a cut line, and a cut record in the event file.
    with file.open("ab") as metrics:
        metrics.write(b'{"step": 99999, "loss/to')
    events = next((tmp_path / "tb").glob("events*"))
    os.truncate(events, events.stat().st_size - 7)
    with start(tmp_path, first_step=25) as log:
        for step in range(26, 61):
            log.log(step, values(2.0))
    assert steps(tmp_path) == list(range(1, 61))
    assert all(line.endswith("}") for line in file.read_text().splitlines())
    # Step 30's window was steps 26 to 30, and steps 21 to 25 from before the kill.
    assert points(tmp_path, "loss/total") == [(10, -1), (20, -1), (30, 0.5), (40, 2), (50, 2), (60, 2)]


def test_a_tag_that_is_not_described_and_a_step_logged_twice_are_refused(tmp_path):
    with start(tmp_path) as log:
        with pytest.raises(AssertionError, match="loss/x/y"):
            log.log(1, {"loss/x/y": 1.0})
        log.log(1, values(1))
        with pytest.raises(AssertionError, match="step 1 is logged after step 1"):
            log.log(1, values(1))
    assert steps(tmp_path) == [1]


def test_only_rank_0_writes_numbers_and_every_rank_has_its_log(tmp_path):
    for rank in (0, 3):
        with start(tmp_path / str(rank), rank=rank) as log:
            log.log(1, values(1))
            log.say(f"hello of {rank}")
            logging.getLogger("unibert.somewhere").warning("from anywhere in the package")
    assert (tmp_path / "0/metrics.jsonl").exists()
    assert [path.name for path in (tmp_path / "3").iterdir()] == ["logs"]
    text = (tmp_path / "3/logs/job/rank_00003.log").read_text()
    assert "hello of 3" in text and "rank=3 WARNING unibert.somewhere: from anywhere" in text
    assert "hello" not in (tmp_path / "0/logs/job/rank_00000.log").read_text().replace("hello of 0", "")


def test_the_error_that_ended_the_run_is_in_the_ranks_log(tmp_path):
    with pytest.raises(ZeroDivisionError), start(tmp_path, rank=1) as log:
        log.log(5, values(1))
        1 / 0  # noqa: B018
    text = (tmp_path / "logs/job/rank_00001.log").read_text()
    assert "left after step 5" in text and "ZeroDivisionError" in text
    assert not logging.getLogger("unibert").handlers


def test_numbers_that_are_not_finite_stay_json(tmp_path):
    with start(tmp_path) as log:
        log.log(1, {"loss/total": float("nan"), "optim/lr": 0.5})
    row = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert row["loss/total"] is None and row["optim/lr"] == 0.5


def test_a_damaged_line_in_the_middle_is_named_and_nothing_is_changed(tmp_path):
    file = tmp_path / "metrics.jsonl"
    before = b'{"step": 1}\nrubbish\n{"step": 3}\n'
    file.write_bytes(before)
    with pytest.raises(DataError, match=r"metrics\.jsonl:2: "):
        MetricsFile(file, first_step=3)
    assert file.read_bytes() == before


def test_a_full_disk_is_said_and_the_lines_before_it_stay(tmp_path):
    with start(tmp_path) as log:
        log.log(1, values(1))
        full, good = os.open("/dev/full", os.O_WRONLY), log._metrics._file
        log._metrics._file = full
        with pytest.raises(MachineError, match="No space left"):
            log.log(2, values(2))
        log._metrics._file = good
        os.close(full)
    assert steps(tmp_path) == [1]


def test_layout_is_written_once_and_projector_needs_no_tensorflow(tmp_path):
    languages, texts = ["en", "de"], ["one\ttwo\nthree", "drei"]
    for first_step in (0, 20):
        with start(tmp_path, first_step=first_step) as log:
            log.log(first_step + 10, values(1))
            log.log(first_step + 20, values(1))
            log.projector(20, embeddings_NH=torch.eye(2), languages=languages, texts=texts)
    reader = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert len(reader.Tensors("custom_scalars__config__")) == 1
    config = (tmp_path / "tb/projector_config.pbtxt").read_text()
    assert config.count("metadata_path") == 1 and "00020/sentences/metadata.tsv" in config
    rows = [line.split("\t") for line in (tmp_path / "tb/00020/sentences/metadata.tsv").read_text().splitlines()]
    assert rows[0][0] == "language" and rows[1] == ["en", "English", "Latn", "0", "one two three"] and len(rows) == 3
    assert "tensorflow" not in sys.modules
