"""The results file: one JSON line for each (model, task, set, language, seed, way), never measured twice.

A row's key is a hash of all that its numbers depend on. Who measures asks `Results.has(key)` first, so a command that
was stopped goes on where it was, and a file can be continued with other models, tasks, languages and seeds. A line is
appended whole; one that was cut off by a crash is left out when reading, and measured again. A file that is anything
else is left as it is and refused. No torch.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from unibert.errors import DataError
from unibert.evaluate.statistics.bootstrap import Cell

VERSION = 1
"""Goes up when measuring changes, so that rows are made anew."""


class ResultRow(BaseModel):
    """What one model scored in one language of one set, with one seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    purpose: str
    """test, or tuning: a learning rate tried on the source's dev set."""
    model: str
    task: str
    set: str
    split: str
    language: str
    seed: int
    way: str
    """zero-shot, translate-train, code-switch, distil, or untuned, perhaps with "language removed (rank 1)"."""
    source: str
    """What was trained on, and how it was cut: "en", "en (split)"; when untuned the prefix of texts, if any."""
    metric: str
    kind: str
    """How the examples' rows make the metric (statistics.scores.KINDS)."""
    values: dict[str, float]
    """Every metric of the task, `metric` among them."""
    rows: list[list[float]]
    """What each example left, of `metric`."""
    ids: str
    """Fingerprint of the ids of the examples."""
    data: str
    """Fingerprint of the examples, and of the tokenizer where that decides what is asked: rows compare only when it is
    the same."""
    learning_rate: float | None
    parameters: int
    parameters_without_embeddings: int
    seconds: float
    """Of measuring this language; the training's are in its first."""
    weights: str = ""
    """Of Model.weights."""
    settings: dict[str, Any] = {}
    """How it was measured, but for seed and learning rate; empty in rows of before this was kept."""
    trained_tokens: int | None = None
    """What the model had read when it was exported, where it comes from a run folder."""
    trained_hours: float | None = None
    """How long its training steps had taken by then."""

    @property
    def place(self) -> tuple[str, str, str, str]:
        """Task, set, way and language: what is compared between models."""
        return self.task, self.set, self.way, self.language


def key_of(**facts: Any) -> str:
    """A hash of facts that JSON can hold."""
    text = json.dumps({"version": VERSION, **facts}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


class Results:
    """A results file, open for going on.

    Args:
        path: the file.
        force: measure again what is there; the newer row takes the older one's place.

    Raises:
        DataError: it is there and no results file, or compressed, or cannot be written. It is left as it is then.
    """

    def __init__(self, path: Path, *, force: bool = False) -> None:
        if path.suffix == ".gz":
            raise DataError(f"{path}: a compressed results file is read only: gunzip it, or name another file")
        self.path = path
        self.rows: list[ResultRow] = []
        if path.exists():
            with _alone(path) as file:
                file.seek(0)
                content = file.read()
                self.rows = _rows(content, path)
                _end_line(file, content, path)
        self._by_key = {} if force else {row.key: row for row in self.rows}

    def get(self, key: str) -> ResultRow | None:
        """The row of a key, when it has been measured."""
        return self._by_key.get(key)

    def add(self, row: ResultRow) -> None:
        """Append a row, whole and at once, whoever else writes the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(self.path) as file:
            _end_line(file, _tail(file), self.path)
            file.write(orjson.dumps(row.model_dump(), option=orjson.OPT_APPEND_NEWLINE))
        self.rows = [*(old for old in self.rows if old.key != row.key), row]
        self._by_key[row.key] = row


@contextmanager
def _alone(path: Path) -> Iterator[BinaryIO]:
    """The file, open for appending, which no other process that asks writes meanwhile.

    Raises:
        DataError: it cannot be opened.
    """
    try:
        opened = path.open("a+b")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error}); name a file for the results that can") from error
    with opened as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
        file.flush()


def _tail(file: BinaryIO) -> bytes:
    """What the file ends with: its last line at least."""
    end, size = file.seek(0, os.SEEK_END), 1 << 16
    while True:
        start = max(0, end - size)
        file.seek(start)
        content = file.read(end - start)
        if not start or b"\n" in content:
            return content
        size *= 2


def _end_line(file: BinaryIO, content: bytes, path: Path) -> None:
    """End the last line of what a file ends with, or take away what a crash left of it, before others follow.

    Raises:
        DataError: it is neither a row nor the beginning of one.
    """
    last = content[content.rfind(b"\n") + 1 :]
    if not last:
        return
    if _is_begun(last):
        file.truncate(file.seek(0, os.SEEK_END) - len(last))
    else:
        _row(last, f"{path}: last line")
        file.write(b"\n")
    file.seek(0, os.SEEK_END)


def _is_begun(line: bytes) -> bool:
    """Whether a line without its end is the beginning of a row, and no more."""
    begin, own = b'{"key":', line[:20].replace(b" ", b"")
    if not (own.startswith(begin) or begin.startswith(own)):
        return False
    try:
        orjson.loads(line)
    except ValueError:
        return True
    return False


def _row(line: bytes, place: str) -> ResultRow:
    """The row in a line.

    Raises:
        DataError: with the place and the first of what is wrong.
    """
    try:
        return ResultRow.model_validate(orjson.loads(line))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        said = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first["loc"] else first["msg"]
    except ValueError as error:
        said = f"{error}"
    raise DataError(f"{place}: not a row of results ({said}); remove the line, or name a results file")


def _rows(content: bytes, path: Path) -> list[ResultRow]:
    """The rows of a file's content, of several of one key the last; a last one that was cut off is left out.

    Raises:
        DataError: with the line that is no row.
    """
    rows: dict[str, ResultRow] = {}
    lines = content.split(b"\n")
    for number, line in enumerate(lines, 1):
        if line.strip() and not (number == len(lines) and _is_begun(line)):
            row = _row(line, f"{path}:{number}")
            rows.pop(row.key, None)
            rows[row.key] = row
    return list(rows.values())


def read_results(path: Path) -> list[ResultRow]:
    """The rows of a results file (.gz too), of several of one key the last; a last line that was cut off is left out.

    Raises:
        DataError: no such file, or a line that is no row.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); make one with unibert evaluate MODEL --tasks ..."
        ) from error
    return _rows(content, path)


def cell(rows: Iterable[ResultRow]) -> Cell:
    """The rows of one model and place, one a seed, as the statistics want them."""
    several = sorted(rows, key=lambda row: row.seed)
    return Cell(
        several[0].kind,
        tuple(np.array(row.rows, float) for row in several),
        f"{several[0].set}:{several[0].ids}",
    )
