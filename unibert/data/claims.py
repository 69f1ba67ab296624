"""How the members of a SLURM array share out the tasks of a stage: by claims, files in the stage's folder.

A claim is <task>.claim, made exclusively and touched every few seconds. One that has not been touched for long is of
a member that died, and is taken over. Two members that do the same task all the same write the same bytes, so a claim
saves work and decides nothing. Clocks of the nodes do not matter: ages are by the file system's own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
SECONDS_BETWEEN_TOUCHES = 10.0
SECONDS_UNTIL_STALE = 60.0


class Claims:
    """The claims of one member of an array."""

    def __init__(self, *, member: int, members: int) -> None:
        self.member, self.members = member, members
        self._held: set[Path] = set()
        self._end = threading.Event()

    @classmethod
    @contextmanager
    def from_environment(cls) -> Iterator[Claims | None]:
        """The member that this process is by SLURM's variables; None outside an array."""
        members = int(os.environ.get("SLURM_ARRAY_TASK_COUNT", "1"))
        if members == 1:
            yield None
            return
        first = int(os.environ.get("SLURM_ARRAY_TASK_MIN", "0"))
        step = int(os.environ.get("SLURM_ARRAY_TASK_STEP", "1"))
        claims = cls(member=(int(os.environ["SLURM_ARRAY_TASK_ID"]) - first) // step, members=members)
        touching = threading.Thread(target=claims._touch, name="claims", daemon=True)
        touching.start()
        try:
            yield claims
        finally:
            claims._end.set()
            touching.join()
            for path in list(claims._held):
                claims.release(path)

    def in_my_order(self, tasks: Sequence[T]) -> list[T]:
        """The tasks, beginning at this member's share, so that members seldom meet."""
        start = self.member * len(tasks) // self.members % max(len(tasks), 1)
        return [*tasks[start:], *tasks[:start]]

    def take(self, task: Path) -> bool:
        """Claim a task; False while another member that is alive has it."""
        path = _file(task)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            if not self._is_stale(path):
                return False
        self._held.add(task)
        self._touch_one(path)
        return True

    def release(self, task: Path) -> None:
        """Give a task back, done or not."""
        self._held.discard(task)
        _file(task).unlink(missing_ok=True)

    def _is_stale(self, path: Path) -> bool:
        now = path.with_name(f".{path.name}.{os.getpid()}.now")
        try:
            now.touch()
            return now.stat().st_mtime - path.stat().st_mtime > SECONDS_UNTIL_STALE
        except FileNotFoundError:
            return False  # it was released this moment
        finally:
            now.unlink(missing_ok=True)

    def _touch(self) -> None:
        while not self._end.wait(SECONDS_BETWEEN_TOUCHES):
            for task in list(self._held):
                self._touch_one(_file(task))

    @staticmethod
    def _touch_one(path: Path) -> None:
        with suppress(FileNotFoundError):
            os.utime(path)


def _file(task: Path) -> Path:
    return task.with_name(f"{task.name}.claim")
