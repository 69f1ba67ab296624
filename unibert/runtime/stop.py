"""SIGTERM, SIGUSR2, Ctrl-C, a STOP file and a time limit become one flag, agreed by all ranks at the end of a step."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)


class StopFlag:
    """Remembers why to stop; asks again each step whether the STOP file is there or the time is over.

    A second Ctrl-C interrupts at once. Signals reach any rank; the trainer takes the maximum over ranks.
    Use it as a context: the signals are given back at its end.

    Args:
        file: the STOP file.
        began: time.monotonic() when the limit began to run; now when absent.
        limit_minutes: minutes after which to stop, none when absent.
    """

    def __init__(self, file: Path, *, began: float | None = None, limit_minutes: float | None = None) -> None:
        self.file = file
        self.reason: str | None = None
        self._limit_minutes = limit_minutes
        self._began = time.monotonic() if began is None else began
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.reason is not None:
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name

    def wanted(self) -> bool:
        """Whether this rank wants to stop."""
        if self.reason is None and self.file.exists():
            self.reason = f"the file {self.file}"
        limit = self._limit_minutes
        if self.reason is None and limit is not None and time.monotonic() - self._began > 60 * limit:
            self.reason = f"train.time_limit_minutes = {limit:g}"
        return self.reason is not None

    def __enter__(self) -> StopFlag:
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
