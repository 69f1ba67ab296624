"""No rank hangs in silence: without progress for too long, its stack goes to its log and it ends.

What hangs a run is mostly a collective whose other side never comes: the main thread then waits in C++, where no
Python exception or signal handler reaches it. So another thread looks, and the only way out is os._exit.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
import time
from pathlib import Path

from unibert.errors import MachineError


class Watchdog:
    """While it is entered, this process beats, or ends with MachineError's exit code.

    Every twentieth of the limit (0.05 s to 5 s) a thread looks at the last beat. When that is older than the limit,
    it appends what was being done and the stack of every thread to the log, prints one line, gives the other ranks
    four more looks to do the same (a rank that ends tears down the collective in which they wait), and leaves: a
    stall ends a run within 1.25 limits (five looks later, where 0.05 s is more than a twentieth). If the looking
    thread itself cannot run because the stuck one holds Python's lock (a page of a memory-mapped shard on a dead
    disk), a timer in C writes the stack and leaves with code 1 after two limits.

    The stack also goes to the log when the process crashes, and at once when SIGTERM comes, wherever the process
    waits: a launcher sends it when another rank died. The handler that was there before then runs as always.

    Order: `with StopFlag(...) as flag, Watchdog(...)`. On SIGTERM faulthandler calls the handler that it found when
    it was entered; one that `signal.signal` installs inside takes its place, and then no stack is written. A process
    that is suspended for longer than the limit counts as stalled.

    Args:
        limit_seconds: longest time between two beats.
        log_file: this rank's log, in a folder that exists.
    """

    def __init__(self, limit_seconds: float, *, log_file: Path) -> None:
        self.limit_seconds = limit_seconds
        self.log_file = log_file
        self._look_seconds = min(max(limit_seconds / 20, 0.05), 5.0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watchdog", daemon=True)

    def beat(self, doing: str) -> None:
        """Progress: `doing` is what begins now. Less than a microsecond."""
        self._last = (time.monotonic(), doing)  # one store, so that the thread never sees half of it

    def __enter__(self) -> Watchdog:
        # Unbuffered and open until the end: C code writes to its descriptor.
        self._file = self.log_file.open("ab", buffering=0)
        self._was_enabled = faulthandler.is_enabled()
        faulthandler.enable(self._file)
        faulthandler.register(signal.SIGTERM, self._file, all_threads=True, chain=True)
        self.beat("starting")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        faulthandler.unregister(signal.SIGTERM)
        faulthandler.disable()
        if self._was_enabled:
            faulthandler.enable(2)
        self._file.close()

    def _look(self) -> None:
        while not self._over.is_set():
            since, doing = self._last
            seconds = time.monotonic() - since
            if seconds > self.limit_seconds:
                self._end(doing, seconds)
            faulthandler.dump_traceback_later(2 * self.limit_seconds, exit=True, file=self._file)
            self._over.wait(self._look_seconds)

    def _end(self, doing: str, seconds: float) -> None:
        try:
            heading = f"no progress for {seconds:.1f} s ({doing}); the stack of every thread:"
            self._file.write(f"\n{time.strftime('%Y-%m-%d %H:%M:%S')} {heading}\n".encode())
            faulthandler.dump_traceback(self._file, all_threads=True)
            line = (
                f"unibert: no progress for {seconds:.1f} s ({doing}), the limit being train.stall_minutes = "
                f"{self.limit_seconds / 60:g}; the stack is in {self.log_file}\n"
            )
            os.write(2, line.encode())  # sys.stderr has a lock, which the stuck thread may hold
        finally:  # a full disk or a closed screen keeps nobody from leaving
            time.sleep(4 * self._look_seconds)
            os._exit(MachineError.exit_code)
