"""SIGTERM, SIGUSR1, SIGUSR2, Ctrl-C, a STOP file and a time limit become one flag, agreed by all ranks after a step."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import FrameType

ASKING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
SIGNALS = (*ASKING, signal.SIGINT)
FILE_VARIABLE = "UNIBERT_STOP_FILE"
"""Names a second STOP file: the batch script's own, of this start of the job alone."""
_came_early: list[str] = []


def remember_signals() -> None:
    """From now on a signal that asks to stop is kept for the first StopFlag, instead of ending the process.

    For the seconds that imports and start-up take: a rank that dies of a pre-emption's SIGTERM there looks like one
    that failed. Call it in the main thread, before torch is imported.
    """
    for number in ASKING:
        signal.signal(number, lambda number, _frame: _came_early.append(signal.Signals(number).name))


class StopFlag:
    """Remembers why to stop; asks again each step whether a STOP file is there or the time is over.

    A second Ctrl-C interrupts at once. Signals reach any rank; the trainer takes the maximum over ranks.
    Use it as a context: the signals are given back at its end.

    Args:
        file: the STOP file of the run; what UNIBERT_STOP_FILE names is looked for besides.
        began: time.monotonic() when the limit began to run; now when absent.
        limit_minutes: minutes after which to stop, none when absent.
    """

    def __init__(self, file: Path, *, began: float | None = None, limit_minutes: float | None = None) -> None:
        more = os.environ.get(FILE_VARIABLE)
        self.files = [file, Path(more)] if more else [file]
        self.reason: str | None = None
        self._limit_minutes = limit_minutes
        self._began = time.monotonic() if began is None else began
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        if _came_early:
            self.reason = _came_early.pop()
            _came_early.clear()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.reason is not None:
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name

    def wanted(self) -> bool:
        """Whether this rank wants to stop."""
        if self.reason is None and (file := next(filter(Path.exists, self.files), None)):
            self.reason = f"the file {file}"
        limit = self._limit_minutes
        if self.reason is None and limit is not None and time.monotonic() - self._began > 60 * limit:
            self.reason = f"train.time_limit_minutes = {limit:g}"
        return self.reason is not None

    def __enter__(self) -> StopFlag:
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
