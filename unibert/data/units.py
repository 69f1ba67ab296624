"""Cleaned text in units: a folder for each raw file, with its text by language and what duplicates are found by.

  text.jsonl       rows id, line (of documents of several lines), text; a language's rows stand together
  keys.npy         uint64 [n]: hash of each row's text key, equal for equal texts
  documents.npy    uint64 [n]: hash of each row's id, equal within a document; its last bit says whether the document
                   is one of several lines
  exact.npy        uint64 [n]: the keys of each language in ascending order; exact_rows.npy uint32 [n]: their rows
  bands.npy        uint32 [B, n]: each band's values of each language in ascending order; band_rows.npy uint32 [B, n]
  minhash.npy      uint16 [n, K]: the packed signatures, for the estimate of similarity

The sorted columns are what makes duplicates findable in bounded memory: any range of values of any unit is one read.
Arrays are mapped and read a slice at a time. No torch here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unibert.data.curation.near import bands, packed, shingle_of, signatures
from unibert.data.lines import atomic, json_line, read_rows, save_array, stable_hash
from unibert.errors import DataError

FORMAT = 1
"""Raised when what is written changes."""
HAS_LINES = np.uint64(1)
"""The bit of `documents`."""
ARRAYS = ("keys", "documents", "exact", "exact_rows", "bands", "band_rows", "minhash")


@dataclass(frozen=True)
class Slice:
    """Where a language's rows stand in a unit."""

    offset: int
    """First byte in text.jsonl."""
    length: int
    """Bytes."""
    first: int
    """First row."""
    rows: int

    @property
    def stop(self) -> int:
        """The row after the last."""
        return self.first + self.rows


@dataclass(frozen=True)
class Unit:
    """A unit open for reading; `number` is its place in the order of all."""

    number: int
    folder: Path
    source: str
    slices: Mapping[str, Slice]

    @classmethod
    def from_result(cls, number: int, folder: Path, result: Mapping[str, Any]) -> Unit:
        """From what `write` returned."""
        return cls(number, folder, result["source"], {code: Slice(*s) for code, s in result["slices"].items()})

    def rows(self, language: str) -> Iterator[dict[str, Any]]:
        """A language's rows, in order."""
        place = self.slices[language]
        return read_rows(self.folder / "text.jsonl", start=place.offset, length=place.length)

    def array(self, name: str) -> np.ndarray:
        """One of ARRAYS, mapped; copy what you keep."""
        path = f"{self.folder}/{name}.npy"
        try:
            return _mapped(path, os.stat(path).st_mtime_ns)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path}: missing or damaged ({error}); run: unibert data clean RECIPE --force") from None


@lru_cache(maxsize=256)
def _mapped(path: str, changed: int) -> np.ndarray:
    """A mapped array; some stay open, fewer than a process may have files, as opening costs more than reading."""
    return np.load(path, mmap_mode="r")


class Line(NamedTuple):
    """A line that is kept: its row (id, perhaps line, text), and its text key."""

    row: dict[str, Any]
    key: str


def write(folder: Path, *, source: str, kept: Mapping[str, Sequence[Line]]) -> tuple[dict[str, Any], list[Path]]:
    """Write a unit; returns what `Unit.from_result` needs, and the files.

    Args:
        folder: of the unit.
        source: where the text is from.
        kept: lines of each language.
    """
    slices: dict[str, list[int]] = {}
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ARRAYS}
    offset = first = 0
    with atomic(folder / "text.jsonl", binary=True) as file:
        for code, lines in kept.items():
            if not lines:
                continue
            block = b"".join(json_line(line.row) for line in lines)
            file.write(block)
            length = len(block)
            slices[code] = [offset, length, first, len(lines)]
            for name, values in _columns(code, lines, first=first).items():
                columns[name].append(values)
            offset, first = offset + length, first + len(lines)
    files = [folder / "text.jsonl"]
    for name, parts in columns.items():
        files.append(folder / f"{name}.npy")
        axis = 1 if name.startswith("band") else 0
        save_array(files[-1], np.concatenate(parts, axis=axis) if parts else np.zeros(0))
    return {"source": source, "slices": slices}, files


def _columns(code: str, lines: Sequence[Line], *, first: int) -> dict[str, np.ndarray]:
    """The arrays of one language's rows."""
    keys = [line.key for line in lines]
    hashes = np.fromiter(map(stable_hash, keys), dtype=np.uint64, count=len(keys))
    signature = signatures(keys, shingle=shingle_of(code))
    values = (bands(signature) >> np.uint64(32)).astype(np.uint32)
    exact, order = np.argsort(hashes, kind="stable"), np.argsort(values, axis=1, kind="stable")
    return {
        "keys": hashes,
        "documents": np.fromiter((_document(line.row) for line in lines), dtype=np.uint64, count=len(lines)),
        "exact": hashes[exact],
        "exact_rows": (exact + first).astype(np.uint32),
        "bands": np.take_along_axis(values, order, axis=1),
        "band_rows": (order + first).astype(np.uint32),
        "minhash": packed(signature),
    }


def _document(row: dict[str, Any]) -> int:
    return stable_hash(row["id"]) & ~1 | ("line" in row)
