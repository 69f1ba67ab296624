"""The results file: one JSON line for each (model, task, set, language, seed, way), never measured twice.

A row's key is a hash of all that its numbers depend on. Who measures asks `Results.has(key)` first, so a command that
was stopped goes on where it was, and a file can be continued with other models, tasks, languages and seeds. A line is
appended whole; one that was cut off by a crash is left out when reading, and measured again. No torch.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import os
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
    """

    def __init__(self, path: Path, *, force: bool = False) -> None:
        self.path = path
        self.rows: list[ResultRow] = []
        if path.exists():
            with _alone(path) as file:
                _cut(file)
            self.rows = read_results(path)
        self._by_key = {} if force else {row.key: row for row in self.rows}

    def get(self, key: str) -> ResultRow | None:
        """The row of a key, when it has been measured."""
        return self._by_key.get(key)

    def add(self, row: ResultRow) -> None:
        """Append a row, whole and at once, whoever else writes the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(self.path) as file:
            _cut(file)
            file.write(orjson.dumps(row.model_dump(), option=orjson.OPT_APPEND_NEWLINE))
        self.rows = [*(old for old in self.rows if old.key != row.key), row]
        self._by_key[row.key] = row


@contextmanager
def _alone(path: Path) -> Iterator[BinaryIO]:
    """The file, open for appending, which no other process that asks writes meanwhile."""
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
        file.flush()


def _cut(file: BinaryIO) -> None:
    """Take away what a crash left of a last line, before others follow it."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - (1 << 20))
        file.seek(start)
        place = file.read(end - start).rfind(b"\n")
        if place >= 0:
            end = start + place + 1
            break
        end = start
    file.truncate(end)
    file.seek(0, os.SEEK_END)


def read_results(path: Path) -> list[ResultRow]:
    """The rows of a results file (.gz too), of several of one key the last; a last line that was cut off is left out.

    Raises:
        DataError: no such file, or a damaged line before the last.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines = content.splitlines()
    except (OSError, EOFError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); make one with unibert evaluate MODEL --tasks ..."
        ) from error
    rows: dict[str, ResultRow] = {}
    for number, line in enumerate(lines, 1):
        try:
            row = ResultRow.model_validate(orjson.loads(line))
            rows.pop(row.key, None)
            rows[row.key] = row
        except (ValueError, ValidationError) as error:
            if number < len(lines) and line.strip():
                raise DataError(f"{path}:{number}: not a row of results ({error}); remove the line") from error
    return list(rows.values())


def cell(rows: Iterable[ResultRow]) -> Cell:
    """The rows of one model and place, one a seed, as the statistics want them."""
    several = sorted(rows, key=lambda row: row.seed)
    return Cell(
        several[0].kind,
        tuple(np.array(row.rows, float) for row in several),
        f"{several[0].set}:{several[0].ids}",
    )
