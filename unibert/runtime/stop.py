"""SIGTERM, SIGUSR2, Ctrl-C and a STOP file become one flag, agreed by all ranks at the end of a step."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)


class StopFlag:
    """Remembers why to stop; asks again each step whether the STOP file is there.

    A second Ctrl-C interrupts at once. Signals reach any rank; the trainer takes the maximum over ranks.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.reason: str | None = None
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.reason is not None:
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name

    def wanted(self) -> bool:
        """Whether this rank wants to stop."""
        if self.reason is None and self.file.exists():
            self.reason = f"the file {self.file}"
        return self.reason is not None

    def restore(self) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
