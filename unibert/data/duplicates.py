"""Which rows of the cleaned text are duplicates, found range by range of the sorted columns of units.py.

Exact ones: of rows with one key the first stays; a line that many documents of a corpus have is boilerplate, and none
stays. Near ones: a row goes when an earlier one shares a band with it and is near by curation/near.py, whether that
earlier row itself stays or not. So what is dropped does not depend on the order of the work, and every range can be
done by another process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from unibert.data.curation.near import are_near, candidates
from unibert.data.lines import save_array
from unibert.data.units import HAS_LINES, Unit
from unibert.data.work import Done

DUPLICATE, BOILERPLATE, NEAR_DUPLICATE = 1, 2, 3
REASONS = {DUPLICATE: "duplicate", BOILERPLATE: "boilerplate", NEAR_DUPLICATE: "near_duplicate"}
"""Name of each verdict, the strongest first."""
BOILERPLATE_DOCUMENTS = 10
"""A line of so many different documents of several lines is boilerplate."""
PAIRS_AT_ONCE = 1 << 15
VALUES_AT_ONCE = 1 << 18
ROW_BITS = np.uint64(32)
"""A row's number among all: the unit's number, then the row's place in the unit in so many bits."""

ROW_MASK = (np.uint64(1) << ROW_BITS) - np.uint64(1)


@dataclass(frozen=True)
class Range:
    """Rows to compare: those of a language whose sorted values lie in part `part` of `parts` of all values."""

    language: str
    part: int
    parts: int

    def of(self, values: np.ndarray) -> slice:
        """Where in an ascending column of unsigned integers the range lies."""
        most = np.iinfo(values.dtype).max
        edges = [int(most) * number // self.parts for number in (self.part, self.part + 1)]
        first = 0 if self.part == 0 else int(np.searchsorted(values, values.dtype.type(edges[0])))
        last = len(values) if self.part == self.parts - 1 else int(np.searchsorted(values, values.dtype.type(edges[1])))
        return slice(first, last)


@dataclass(frozen=True)
class Comparison:
    """One task: ranges to compare, and the file for its verdicts."""

    units: tuple[Unit, ...]
    ranges: tuple[Range, ...]
    into: Path


def compare(job: Comparison) -> Done:
    """Write the verdicts of a task: uint64 [n, 2] of row number and verdict, ascending, a row once."""
    found = [verdict for each in job.ranges for verdict in _compare_range(job.units, each)]
    verdicts = np.concatenate(found) if found else np.zeros((0, 2), dtype=np.uint64)
    save_array(job.into, _strongest(verdicts))
    return Done({"rows": len(verdicts)}, (job.into,))


def _strongest(verdicts: np.ndarray) -> np.ndarray:
    """One verdict a row, the lowest number of them, in ascending order of rows."""
    verdicts = verdicts[np.lexsort((verdicts[:, 1], verdicts[:, 0]))]
    return verdicts[np.flatnonzero(np.diff(verdicts[:, 0], prepend=~verdicts[:1, 0]))]


def verdicts_of(unit: Unit, language: str, files: Sequence[Path]) -> np.ndarray:
    """uint8 [rows]: the verdict on each row of a language in a unit, 0 where it stays."""
    place = unit.slices[language]
    out = np.full(place.rows, 255, dtype=np.uint8)
    for file in files:
        verdicts = np.load(file, mmap_mode="r")
        start, stop = (_number(unit, np.array([row]))[0] for row in (place.first, place.stop))
        first, last = np.searchsorted(verdicts[:, 0], [start, stop])
        rows = (verdicts[first:last, 0] - start).astype(np.int64)
        out[rows] = np.minimum(out[rows], verdicts[first:last, 1].astype(np.uint8))
    out[out == 255] = 0
    return out


def _number(unit: Unit, rows: np.ndarray) -> np.ndarray:
    """Numbers of a unit's rows among all."""
    return (np.uint64(unit.number) << ROW_BITS) + rows.astype(np.uint64)


def _compare_range(units: Sequence[Unit], each: Range) -> Iterator[np.ndarray]:
    mine = [unit for unit in units if each.language in unit.slices]
    if mine:
        yield from _exact(mine, each)
        yield from _near(mine, each)


def _exact(units: Sequence[Unit], each: Range) -> Iterator[np.ndarray]:
    """Verdicts on rows with equal keys."""
    keys, rows, documents = [], [], []
    for unit in units:
        place = unit.slices[each.language]
        column = unit.array("exact")[place.first : place.stop]
        here = each.of(column)
        local = unit.array("exact_rows")[place.first : place.stop][here]
        keys.append(np.array(column[here]))
        rows.append(_number(unit, local))
        documents.append(unit.array("documents")[local])
    key, row, document = map(np.concatenate, (keys, rows, documents))
    order = np.argsort(key, kind="stable")
    key, row, document = key[order], row[order], document[order]
    begins = np.flatnonzero(np.diff(key, prepend=~key[:1]))
    again = np.ones(len(key), dtype=bool)
    again[begins] = False
    yield _verdicts(row[again], DUPLICATE)
    # Documents stand in order in a group, so a document's first row there is where another one begins.
    new = np.diff(document, prepend=~document[:1]) != 0
    new[begins] = True
    documents_of_group = np.add.reduceat(new & (document & HAS_LINES).astype(bool), begins, dtype=np.int64)
    size = np.diff(begins, append=len(key))
    yield _verdicts(row[np.repeat(documents_of_group >= BOILERPLATE_DOCUMENTS, size)], BOILERPLATE)


def _near(units: Sequence[Unit], each: Range) -> Iterator[np.ndarray]:
    """Verdicts on rows that are like an earlier one, some bands at once."""
    near = np.zeros(0, dtype=np.uint64)
    for bands in _bands_at_once(units, each):
        values, rows = [], []
        for unit, band in product(units, bands):
            place = unit.slices[each.language]
            column = unit.array("bands")[band, place.first : place.stop]
            here = each.of(column)
            values.append(column[here] | np.uint64(band) << np.uint64(32))
            rows.append(_number(unit, unit.array("band_rows")[band, place.first : place.stop][here]))
        value, row = _different(units, *_shared(np.concatenate(values), np.concatenate(rows)))
        earlier, later = row[candidates(value)].T
        new = ~np.isin(later, near)  # most are found in many bands
        near = np.union1d(near, _similar(units, later[new], earlier[new]))
    yield _verdicts(near, NEAR_DUPLICATE)


def _bands_at_once(units: Sequence[Unit], each: Range) -> Iterator[range]:
    """All bands, in steps of as many as have VALUES_AT_ONCE values of the range, about."""
    bands = len(units[0].array("bands"))
    rows = sum(unit.slices[each.language].rows for unit in units) // each.parts
    step = max(1, min(bands, VALUES_AT_ONCE // max(rows, 1)))
    return (range(first, min(first + step, bands)) for first in range(0, bands, step))


def _shared(value: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(values ascending, rows) of those rows that are not alone in their bucket."""
    order = np.argsort(value, kind="stable")
    value, row = value[order], row[order]
    same = value[1:] == value[:-1]
    many = np.zeros(len(value), dtype=bool)
    many[1:] = same
    many[:-1] |= same
    return value[many], row[many]


def _different(units: Sequence[Unit], value: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of rows with one key, which share all their buckets, the first alone: the others are exact duplicates."""
    key = _gather(units, row, "keys")
    order = np.lexsort((row, key, value))
    value, key, row = value[order], key[order], row[order]
    first = np.ones(len(row), dtype=bool)
    first[1:] = (key[1:] != key[:-1]) | (value[1:] != value[:-1])
    value, row = value[first], row[first]
    order = np.lexsort((row, value))
    return value[order], row[order]


def _similar(units: Sequence[Unit], later: np.ndarray, earlier: np.ndarray) -> np.ndarray:
    """The later rows of those pairs that are similar enough."""
    found = []
    for start in range(0, len(later), PAIRS_AT_ONCE):
        pair = slice(start, start + PAIRS_AT_ONCE)
        both = [_gather(units, rows[pair], "minhash") for rows in (later, earlier)]
        found.append(later[pair][are_near(*both)])
    return np.concatenate(found) if found else later[:0]


def _gather(units: Sequence[Unit], rows: np.ndarray, name: str) -> np.ndarray:
    """[n, ...]: the values of one of the arrays for rows of any units."""
    numbers = rows >> ROW_BITS
    sample = units[0].array(name)
    out = np.empty((len(rows), *sample.shape[1:]), dtype=sample.dtype)
    for unit in units:
        mine = np.flatnonzero(numbers == unit.number)
        if mine.size:
            out[mine] = unit.array(name)[(rows[mine] & ROW_MASK).astype(np.int64)]
    return out


def _verdicts(rows: np.ndarray, verdict: int) -> np.ndarray:
    """uint64 [n, 2]."""
    return np.stack([rows, np.full(len(rows), verdict, dtype=np.uint64)], axis=1)
