"""Tasks for tests of data/work.py, importable by every process; a script too, which does them and prints the results.

python tests/unit/small_tasks.py FOLDER TASKS KIND WORKERS
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from unibert.data import claims
from unibert.data.lines import atomic
from unibert.data.work import ALONE, Crew, Done, Task, crew, perform
from unibert.errors import DataError

HERE = Path(__file__)


def tasks(folder: Path, count: int, **settings: Any) -> list[Task]:
    """Tasks 0 to count - 1."""
    return [Task(f"t{number}", {"of": number, **settings}, (folder, number)) for number in range(count)]


def do(kind: Any, folder: Path, count: int, *, crew: Crew = ALONE, force: bool = False, **settings: Any) -> list[Any]:
    """All results."""
    todo = tasks(folder, count, **settings)
    return perform(kind, todo, folder=folder / "out", crew=crew, what="test", force=force)


def executed(folder: Path) -> list[int]:
    """The numbers of the tasks that were begun, in that order."""
    path = folder / "log"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def note(folder: Path, number: int) -> None:
    """Begin a task: one line, appended at once whoever else does."""
    out = os.open(folder / "log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(out, f"{number}\n".encode())
    os.close(out)


def plain(argument: tuple[Path, int]) -> Done:
    """Write one file."""
    folder, number = argument
    note(folder, number)
    path = folder / "out" / f"{number}.txt"
    with atomic(path) as file:
        file.write(f"{number}\n" * 100)
    return Done({"number": number, "pair": (number, {number: "ü"})}, (path,))


def slow(argument: tuple[Path, int]) -> Done:
    """The same in a while."""
    time.sleep(0.1)
    return plain(argument)


def failing(argument: tuple[Path, int]) -> Done:
    """Task 3 fails until the file `mended` is there."""
    folder, number = argument
    if number == 3 and not (folder / "mended").exists():
        note(folder, number)
        raise DataError("task 3: this cannot be read")
    return plain(argument)


def killing(argument: tuple[Path, int]) -> Done:
    """Task 3 is killed in the middle of its file until the file `mended` is there."""
    folder, number = argument
    if number == 3 and not (folder / "mended").exists():
        note(folder, number)
        with atomic(folder / "out" / "3.txt") as file:
            file.write("half of")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    return plain(argument)


def endless(argument: tuple[Path, int]) -> Done:
    """Says who it is and never ends."""
    folder, number = argument
    (folder / f"{number}.pid").write_text(str(os.getpid()))
    time.sleep(600)
    return Done({})


def main() -> None:
    folder, count, kind, workers = sys.argv[1:]
    claims.SECONDS_BETWEEN_TOUCHES = 0.2
    claims.SECONDS_UNTIL_STALE = float(os.environ.get("STALE", claims.SECONDS_UNTIL_STALE))
    with crew(int(workers)) as those:
        print(json.dumps(do(globals()[kind], Path(folder), int(count), crew=those or ALONE)))


if __name__ == "__main__":
    main()
