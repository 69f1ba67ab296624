"""Which rows of a language are held out and which are kept, by thresholds on hashes of their documents.

A document is taken or left as a whole, by a hash of its id, so nothing depends on the order of the text. Lines are
drawn as evenly from the sources as they allow: a source gives all it has, or as many as every other that has more.
Memory grows with the numbers of lines asked for, not with the corpus.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unibert.data.duplicates import REASONS, verdicts_of
from unibert.data.lines import SPLIT_SEED, save_array
from unibert.data.units import Unit
from unibert.data.work import Done

LARGEST_HELDOUT_SHARE = 0.25
"""A language with little text gives at most this share of its lines to the held-out part."""
HELD, OVER_CAP, LIKE_HELDOUT = 100, 101, 102
"""Further verdicts beside those of duplicates.py: held out; more than asked for; equal to a held-out text."""
NAMES = {**REASONS, OVER_CAP: "over_cap", LIKE_HELDOUT: "heldout"}
_TO_HOLD, _TO_KEEP = (np.uint64(SPLIT_SEED * 2 + purpose) for purpose in range(2))


@dataclass(frozen=True)
class Bounds:
    """Of one source of one language: documents whose hash is at most so are held out; of the others those are kept."""

    held: int
    kept: int


@dataclass(frozen=True)
class Choosing:
    """One task: languages, what was found of their duplicates, and where the hashes of held-out texts go."""

    units: tuple[Unit, ...]
    verdicts: Mapping[str, tuple[Path, ...]]
    heldout: int
    cap: int
    into: Path


def choose(job: Choosing) -> Done:
    """Set the bounds of some languages; write the keys of what they hold out."""
    result: dict[str, Any] = {}
    keys = [np.zeros(0, dtype=np.uint64)]
    for code, files in job.verdicts.items():
        bounds = set_bounds(job.units, code, files, heldout=job.heldout, cap=job.cap)
        result[code] = {source: [limit.held, limit.kept] for source, limit in bounds.items()}
        for unit, fresh in _fresh(job.units, code, files):
            mine = unit.array("keys")[unit.slices[code].first : unit.slices[code].stop]
            keys.append(mine[fresh & is_held(unit, code, bounds[unit.source])])
    save_array(job.into, np.unique(np.concatenate(keys)))
    return Done({"bounds": result}, (job.into,))


def _fresh(units: Sequence[Unit], code: str, files: Sequence[Path]) -> Iterator[tuple[Unit, np.ndarray]]:
    """(unit, bool [rows] of those that are no duplicates) of every unit that has the language."""
    for unit in units:
        if code in unit.slices:
            yield unit, verdicts_of(unit, code, files) == 0


def set_bounds(units: Sequence[Unit], code: str, files: Sequence[Path], *, heldout: int, cap: int) -> dict[str, Bounds]:
    """The bounds of each source of a language: `heldout` lines are held out and `cap` kept, or what there is."""
    available: dict[str, int] = defaultdict(int)
    for unit, fresh in _fresh(units, code, files):
        available[unit.source] += int(fresh.sum())
    count = min(heldout, int(sum(available.values()) * LARGEST_HELDOUT_SHARE))
    window = _evenly(available, min(sum(available.values()), cap + count))
    to_hold = _proportionally(window, count)
    to_keep = _evenly({source: n - to_hold[source] for source, n in available.items()}, cap)
    lowest = {source: _Lowest(n) for source, n in to_hold.items()}
    for unit, fresh in _fresh(units, code, files):
        lowest[unit.source].add(_ranks(unit, code, _TO_HOLD)[fresh])
    held = {source: found.bound() for source, found in lowest.items()}
    lowest = {source: _Lowest(n) for source, n in to_keep.items()}
    for unit, fresh in _fresh(units, code, files):
        others = fresh & (_ranks(unit, code, _TO_HOLD) > held[unit.source])
        lowest[unit.source].add(_ranks(unit, code, _TO_KEEP)[others])
    return {source: Bounds(held[source], lowest[source].bound()) for source in available}


def is_held(unit: Unit, code: str, bounds: Bounds) -> np.ndarray:
    """Bool [rows]."""
    return _ranks(unit, code, _TO_HOLD) <= np.uint64(bounds.held)


def is_kept(unit: Unit, code: str, bounds: Bounds) -> np.ndarray:
    """Bool [rows], of those that are not held out."""
    return _ranks(unit, code, _TO_KEEP) <= np.uint64(bounds.kept)


def _ranks(unit: Unit, code: str, purpose: np.uint64) -> np.ndarray:
    """uint64 [rows], at least 1: equal in a document, otherwise as good as random, and other ones for each purpose."""
    place = unit.slices[code]
    x = (unit.array("documents")[place.first : place.stop] ^ purpose) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return (x ^ (x >> np.uint64(32))) | np.uint64(1)


class _Lowest:
    """The `count` lowest of the ranks that are added, in memory for a few times as many."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._found = np.zeros(0, dtype=np.uint64)

    def add(self, ranks: np.ndarray) -> None:
        self._found = np.concatenate([self._found, ranks])
        if len(self._found) > self.count + 1:
            self._found = np.partition(self._found, self.count)[: self.count + 1]

    def bound(self) -> int:
        """The rank up to which there are at most `count`, never a part of a document unless it would be all."""
        ranks = np.sort(self._found)
        if not self.count or not len(ranks):
            return 0
        if len(ranks) <= self.count:
            return int(ranks[-1])
        below = ranks[ranks < ranks[self.count]]
        return int(below[-1]) if len(below) else int(ranks[0])


def _evenly(available: Mapping[str, int], total: int) -> dict[str, int]:
    """How many each gives so that the sum is `total`, or all: all it has, or as many as every other that has more."""
    given: dict[str, int] = {}
    left = total
    for number, (source, n) in enumerate(sorted(available.items(), key=lambda item: (item[1], item[0]))):
        given[source] = min(n, left // (len(available) - number))
        left -= given[source]
    return given


def _proportionally(amounts: Mapping[str, int], total: int) -> dict[str, int]:
    """`total` shared out in proportion to the amounts, in whole numbers by largest remainders."""
    whole = sum(amounts.values())
    if not whole:
        return dict.fromkeys(amounts, 0)
    given = {source: total * n // whole for source, n in amounts.items()}
    by_remainder = sorted(amounts, key=lambda source: (-(total * amounts[source] % whole), source))
    for source in by_remainder[: total - sum(given.values())]:
        given[source] += 1
    return given
