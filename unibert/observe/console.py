"""What rank 0 prints: a progress bar on a terminal, one line per log step that grep can read otherwise."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

# What the line calls a tag, and how it writes the number.
SHORT = {
    "loss/total": ("loss", ".4f"),
    "speed/tokens_per_second": ("tokens/s", ".0f"),
    "optim/lr": ("lr", ".2e"),
    "optim/grad_norm/student": ("grad_norm", ".3f"),
    "adversary/accuracy": ("adversary", ".3f"),
    "teacher/agreement_top1": ("agreement", ".3f"),
    "memory/peak_gib": ("memory_gib", ".2f"),
    "eval/masked_cross_entropy": ("eval_cross_entropy", ".4f"),
    "eval/unigram_cross_entropy": ("eval_unigram", ".4f"),
    "eval/masked_accuracy": ("eval_accuracy", ".4f"),
    "eval/retrieval_top1": ("eval_retrieval", ".4f"),
}
WINDOW = 50


def clock(seconds: float) -> str:
    """Seconds as MM:SS, HH:MM:SS or 1d02:03:04."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    start = f"{days}d{hour:02d}:" if days else f"{hour:02d}:" if hour else ""
    return f"{start}{minute:02d}:{second:02d}"


def line(step: int, *, steps: int, values: Mapping[str, float], eta_seconds: float | None) -> str:
    """`step=100/400 loss=3.2100 masked_lm=2.9000 tokens/s=1500 ... eta=04:10`; what has no value is left out."""
    short = {"loss/total": SHORT["loss/total"]}
    short |= {tag: (tag.removeprefix("loss/"), ".4f") for tag in values if tag.startswith("loss/")}
    short |= SHORT
    words = [f"{name}={values[tag]:{form}}" for tag, (name, form) in short.items() if tag in values]
    words += [] if eta_seconds is None else [f"eta={clock(eta_seconds)}"]
    return " ".join([f"step={step}/{steps}", *words])


class RunConsole:
    """The screen of a run of `steps` steps that begins after `first_step`."""

    def __init__(self, *, steps: int, first_step: int, every_steps: int, console: Console | None = None) -> None:
        self.console = console or Console()
        self.steps, self.every_steps = steps, every_steps
        self._ends: deque[float] = deque(maxlen=WINDOW + 1)
        self._last_step, self._first = first_step, True
        self._bar: Progress | None = None
        if self.console.is_terminal:
            columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
            self._bar = Progress(*columns, console=self.console)
            self._task = self._bar.add_task("training", total=steps, completed=first_step, note="")
            self._bar.start()

    def eta_seconds(self, step: int) -> float | None:
        """Time left by the mean of the last steps, with evaluations and checkpoints between them."""
        if len(self._ends) < 2:
            return None
        return (self.steps - step) * (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Show a finished step: the bar at each, a line at log steps, at the first and last, and with an evaluation."""
        if step > self._last_step:
            self._ends.append(time.monotonic())
            self._last_step = step
        eta = self.eta_seconds(step)
        evaluated = any(tag.startswith("eval/") for tag in values)
        due = self._first or evaluated or step % self.every_steps == 0 or step == self.steps
        self._first = False
        if self._bar is not None:
            shown = {tag: values[tag] for tag in ("loss/total", "speed/tokens_per_second") if tag in values}
            note = line(step, steps=self.steps, values=shown, eta_seconds=eta).split(" ", 1)
            self._bar.update(self._task, completed=step, note=note[1] if len(note) > 1 else "")
        if evaluated or (due and self._bar is None):
            self.say(line(step, steps=self.steps, values=values, eta_seconds=eta))

    def say(self, text: str) -> None:
        """Print a line, above the bar where there is one; never wrapped, so that grep finds it whole."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.stop()
