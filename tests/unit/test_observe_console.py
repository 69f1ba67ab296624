"""observe/console.py: lines that grep reads, a bar on a terminal."""

import io
import re

import pytest
from rich.console import Console

from unibert.observe.console import RunConsole, clock, line


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "00:00"), (250, "04:10"), (3661, "01:01:01"), (90061, "1d01:01:01")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_line_reads_as_key_value_pairs():
    values = {"loss/total": 3.21, "loss/masked_lm": 2.9, "speed/tokens_per_second": 1500.4, "optim/lr": 3e-4}
    text = line(100, steps=400, values=values, eta_seconds=250)
    assert text == "step=100/400 loss=3.2100 masked_lm=2.9000 tokens/s=1500 lr=3.00e-04 eta=04:10"
    assert all(re.fullmatch(r"[^= ]+=[^= ]+", word) for word in text.split(" "))


def test_a_log_file_gets_the_first_log_evaluation_and_last_steps_unwrapped():
    out = io.StringIO()
    screen = RunConsole(steps=25, first_step=0, every_steps=10, console=Console(file=out, width=20))
    for step in range(1, 26):
        evaluation = {"eval/masked_accuracy": 0.5} if step == 15 else {}
        screen.step(step, {"loss/total": 1.0, "speed/tokens_per_second": 1.0} | evaluation)
    screen.close()
    lines = out.getvalue().splitlines()
    assert [text.split()[0] for text in lines] == [f"step={step}/25" for step in (1, 10, 15, 20, 25)]
    assert "eval_accuracy=0.5000" in lines[2] and lines[-1].endswith("eta=00:00")


def test_a_terminal_gets_a_bar_with_loss_speed_and_time_left():
    out = io.StringIO()
    screen = RunConsole(
        steps=20, first_step=10, every_steps=5, console=Console(file=out, force_terminal=True, width=120)
    )
    for step in range(11, 21):
        screen.step(step, {"loss/total": 1.25, "speed/tokens_per_second": 99.0})
    screen.say("saved [step_20]")
    screen.close()
    text = out.getvalue()
    assert "20/20" in text and "loss=1.2500 tokens/s=99 eta=00:00" in text and "saved [step_20]" in text
    assert "step=15/20" not in text
