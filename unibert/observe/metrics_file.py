"""metrics.jsonl: one JSON object a line and step, appended whole, cut back to the checkpoint on resume.

A line is written by one `write` to a file opened for appending, so `kill -9` leaves at most one cut last
line; the next start removes it. Numbers that are not finite become null: JSON has no word for them.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unibert.errors import DataError

NAME = "metrics.jsonl"
log = logging.getLogger(__name__)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The steps of a metrics.jsonl, in order; a last line that was cut is left out.

    Each row has `step`, `unix_seconds` and the step's tags.

    Raises:
        DataError: a damaged line that is not the last.
    """
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not line.endswith(b"\n") or not isinstance(row.get("step"), int):
                raise ValueError("not a whole line of metrics")
        except (ValueError, AttributeError) as error:
            if number == len(lines):
                break
            raise DataError(
                f"{path}:{number}: not a line of metrics ({error}); mend or delete that line, the others are kept"
            ) from None
        rows.append(row)
    return rows


class MetricsFile:
    """The open file of a run, cut back to what is true at `first_step`.

    Args:
        path: the file.
        first_step: last finished step of the checkpoint; later lines are removed. 0 begins anew.

    Attributes:
        kept: the rows that stayed.
    """

    def __init__(self, path: Path, *, first_step: int) -> None:
        self.path = path
        rows = read_metrics(path)
        self.kept = [row for row in rows if row["step"] <= first_step] if first_step else []
        if len(self.kept) < len(rows):
            log.info("%s: %d lines after step %d removed", path, len(rows) - len(self.kept), first_step)
        temporary = path.with_name(f"{path.name}.tmp")
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in self.kept)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND)

    def append(self, step: int, values: Mapping[str, float]) -> None:
        """Write one step's line; the system has it when this returns."""
        finite = {tag: value if math.isfinite(value) else None for tag, value in values.items()}
        line = json.dumps({"step": step, "unix_seconds": round(time.time(), 3), **finite}) + "\n"
        rest = line.encode()
        while rest:
            rest = rest[os.write(self._file, rest) :]

    def sync(self) -> None:
        """Wait until the lines are on the disk itself (a machine that dies takes the system's buffers along)."""
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
