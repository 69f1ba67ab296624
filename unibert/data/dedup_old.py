"""Deduplicate each language, hold lines out, cap: cleaned/<language>.jsonl -> clean/ and heldout/lines/.

Duplicates are removed within a language: exact ones by `text_key`, near ones by MinHash. What is held out goes through
the same net, so a near duplicate of a held-out text is never trained on in its language; an equal text in no language.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unibert import languages
from unibert.data.lines import (
    SPLIT_SEED,
    file_sha256,
    finished,
    read_json,
    read_rows,
    say,
    stable_hash,
    text_key,
    write_json,
    write_rows,
)
from unibert.data.sources.base import DENSE_SCRIPTS
from unibert.errors import DataError
from unibert.languages import script_of
from unibert.schema import Recipe

FORMAT = 1
SIMILAR = 0.8
"""Jaccard similarity of character shingles from which two texts are near duplicates."""
BANDS, ROWS_PER_BAND = 6, 4
"""A pair of similarity s is looked at with probability 1 - (1 - s^4)^6: 0.96 at 0.8, 0.32 at 0.5."""
LOOK_AHEAD = 2
"""Near duplicates are looked for among this many times the lines wanted, not among all there are."""
LARGEST_HELDOUT_SHARE = 0.25
"""A language with little text gives at most this share of its lines to the held-out part."""

_LEADERS = 8  # kept texts of one bucket that a new one is compared with

_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, near 2**64 / golden ratio: spreads bits upwards when multiplied by


def near_duplicates(keys: Sequence[str], *, shingle: int = 5) -> np.ndarray:
    """Bool [len(keys)]: True where a text is a near duplicate of an earlier one that is kept.

    MinHash (Broder 1997) with banding over character shingles of the text keys; a pair that shares a bucket is compared
    exactly, |A & B| / |A | B| >= SIMILAR.
    """
    drop = np.zeros(len(keys), dtype=bool)
    if len(keys) < 2:
        return drop
    padded = [key.ljust(shingle, "\0") for key in keys]
    signatures = _signatures(padded, shingle)
    candidates: dict[int, list[int]] = defaultdict(list)  # row -> earlier rows of its buckets
    for band in range(BANDS):
        for bucket in _buckets(signatures[:, band * ROWS_PER_BAND : (band + 1) * ROWS_PER_BAND]):
            for place, row in enumerate(bucket[1:], start=1):
                candidates[row].extend(bucket[max(0, place - _LEADERS) : place])
    shingles: dict[int, set[str]] = {}

    def of(row: int) -> set[str]:
        if row not in shingles:
            text = padded[row]
            shingles[row] = {text[at : at + shingle] for at in range(len(text) - shingle + 1)}
        return shingles[row]

    for row in sorted(candidates):
        mine = of(row)
        for other in dict.fromkeys(candidates[row]):
            if not drop[other] and len(mine & of(other)) >= SIMILAR * len(mine | of(other)):
                drop[row] = True
                break
    return drop


def _signatures(padded: Sequence[str], shingle: int) -> np.ndarray:
    """uint32 [texts, BANDS * ROWS_PER_BAND]: the least of each hash function over a text's shingles."""
    lengths = np.array([len(text) for text in padded])
    points = np.frombuffer("".join(padded).encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    rolled = np.zeros(len(points) - shingle + 1, dtype=np.uint64)
    for offset in range(shingle):
        rolled = rolled * _MIX + points[offset : offset + len(rolled)]
    rolled ^= rolled >> np.uint64(29)
    rolled *= np.uint64(0xBF58476D1CE4E5B9)
    hashed = (rolled >> np.uint64(32)).astype(np.uint32)
    ends = np.cumsum(lengths)
    inside = np.ones(len(hashed), dtype=bool)  # a shingle that runs over the end of its text is none
    for back in range(1, shingle):
        inside[ends[:-1] - back] = False
    hashed = hashed[inside]
    counts = lengths - shingle + 1
    starts = np.cumsum(counts) - counts
    random = np.random.default_rng(SPLIT_SEED)
    count = BANDS * ROWS_PER_BAND
    odd = random.integers(0, 2**31, size=count, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    add = random.integers(0, 2**32, size=count, dtype=np.uint32)
    return np.stack([np.minimum.reduceat(hashed * m + a, starts) for m, a in zip(odd, add, strict=True)], axis=1)


def _buckets(band: np.ndarray) -> list[list[int]]:
    """Groups of two rows or more with equal values, each in ascending order."""
    mixed = np.zeros(len(band), dtype=np.uint64)
    for column in band.T:
        mixed = (mixed ^ column) * _MIX
    order = np.argsort(mixed, kind="stable")
    edges = np.flatnonzero(np.diff(mixed[order], prepend=~mixed[order[:1]], append=~mixed[order[-1:]]))
    return [order[a:b].tolist() for a, b in itertools.pairwise(edges) if b - a > 1]


class Line(NamedTuple):
    """One cleaned row and the key it is compared by."""

    id: str
    text: str
    source: str
    key: str

    def row(self) -> dict[str, str]:
        """What is written of it."""
        return {"id": self.id, "text": self.text, "source": self.source}


def spread(lines: Iterable[Line]) -> list[Line]:
    """Lines in a fixed order in which any beginning is drawn as evenly from the sources as they allow.

    Within a source the order is a seeded hash of the line's id, so it does not depend on the order of the file.
    """
    sources: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        sources[line.source].append(line)
    ranked: list[tuple[int, str, Line]] = []
    for name, found in sources.items():
        found.sort(key=lambda line: (stable_hash(line.id, seed=SPLIT_SEED), line.id))
        ranked += [(rank, name, line) for rank, line in enumerate(found)]
    ranked.sort(key=lambda entry: entry[:2])
    return [line for _, _, line in ranked]


def split(lines: Sequence[Line], *, heldout: int, cap: int) -> tuple[list[Line], list[Line]]:
    """(held out, the rest) of spread lines: every k-th of the first cap + heldout, so both have the same mixture."""
    heldout = min(heldout, int(len(lines) * LARGEST_HELDOUT_SHARE))
    window = min(len(lines), cap + heldout)
    places = {number * window // heldout for number in range(heldout)}
    held = [line for place, line in enumerate(lines) if place in places]
    return held, [line for place, line in enumerate(lines) if place not in places]


def run(recipe: Recipe, *, force: bool = False) -> dict[str, Any]:
    """Write clean/<language>.jsonl, heldout/lines/<language>.jsonl and clean/report.json; returns the report.

    DataError when a stage before is missing, or a language has no text left.
    """
    languages.check(recipe.languages)
    folder = recipe.data.folder
    settings = {
        "format": FORMAT,
        "languages": sorted(recipe.languages),
        "max_lines_per_language": recipe.data.max_lines_per_language,
        "heldout_lines_per_language": recipe.data.heldout_lines_per_language,
        "cleaned": file_sha256(folder / "cleaned" / "report.json"),
    }
    report_path = folder / "clean" / "report.json"
    if not force and (done := finished(report_path, settings)) is not None:
        say(f"dedup: already done, {done['rows']} rows in {report_path.parent}")
        return done
    report_path.unlink(missing_ok=True)
    dropped = read_json(folder / "cleaned" / "report.json")["languages"]
    counts = {code: Counter(dropped[code]) for code in recipe.languages}
    held, kept = _deduplicate(recipe, counts)
    heldout_keys = {line.key for lines in held.values() for line in lines}
    for code in recipe.languages:
        lines = [line for line in kept[code] if line.key not in heldout_keys]
        counts[code]["heldout"] += len(kept[code]) - len(lines)
        _write_language(recipe, code, held=held[code], lines=lines, counts=counts[code])
    report = {"settings": settings, **_summary(counts)}
    write_json(report_path, report)
    say(f"dedup: {report['rows']} rows, {report['characters'] / 1e6:.1f}M characters in {folder / 'clean'}")
    return report


def _deduplicate(
    recipe: Recipe, counts: dict[str, Counter[str]]
) -> tuple[dict[str, list[Line]], dict[str, list[Line]]]:
    """(held-out lines, the others) by language, without exact and near duplicates; counts those dropped."""
    data = recipe.data
    parallel: dict[str, list[str]] = defaultdict(list)
    for message in read_rows(data.folder / "heldout" / "parallel.jsonl"):
        for code, text in message["texts"].items():
            parallel[code].append(text_key(text))
    held: dict[str, list[Line]] = {}
    kept: dict[str, list[Line]] = {}
    for number, code in enumerate(recipe.languages, start=1):
        lines = spread(_unique_lines(data.folder / "cleaned" / f"{code}.jsonl"))
        looked_at = lines[: LOOK_AHEAD * (data.max_lines_per_language + data.heldout_lines_per_language)]
        first = parallel[code]  # first, so that whatever is near a held-out text is what goes
        keys = [*first, *(line.key for line in looked_at)]
        near = near_duplicates(keys, shingle=3 if script_of(code) in DENSE_SCRIPTS else 5)[len(first) :]
        fresh = [line for line, is_near in zip(looked_at, near, strict=True) if not is_near]
        counts[code]["duplicate"] += counts[code]["kept"] - len(lines)
        counts[code]["near_duplicate"] += int(near.sum())
        counts[code]["over_cap"] += len(lines) - len(looked_at)
        held[code], kept[code] = split(fresh, heldout=data.heldout_lines_per_language, cap=data.max_lines_per_language)
        if number % 20 == 0 or number == len(recipe.languages):
            say(f"dedup: {number} of {len(recipe.languages)} languages")
    return held, kept


def _unique_lines(file: Path) -> Iterable[Line]:
    """One line per key: the first in the file."""
    unique: dict[str, Line] = {}
    for row in read_rows(file):
        key = text_key(row["text"])
        if key not in unique:
            unique[key] = Line(row["id"], row["text"], row["source"], key)
    return unique.values()


def _write_language(recipe: Recipe, code: str, *, held: list[Line], lines: list[Line], counts: Counter[str]) -> None:
    """Write one language's two files and bring its counts to their final form."""
    folder, cap = recipe.data.folder, recipe.data.max_lines_per_language
    if not lines:
        raise DataError(f"{code}: no text is left after cleaning and deduplication; take it out of `languages`")
    clean = lines[:cap]
    write_rows(folder / "heldout" / "lines" / f"{code}.jsonl", (line.row() for line in held))
    write_rows(folder / "clean" / f"{code}.jsonl", (line.row() for line in clean))
    counts["over_cap"] += len(lines) - len(clean)
    counts["kept"] = len(clean)
    counts["heldout_lines"] = len(held)
    counts["characters"] = sum(len(line.text) for line in clean)


def _summary(counts: dict[str, Counter[str]]) -> dict[str, Any]:
    """The report: per language rows in, rows out, characters and rows dropped by reason."""
    per_language = {}
    for code, count in sorted(counts.items()):
        dropped = {key: count[key] for key in sorted(count) if key not in ("kept", "heldout_lines", "characters")}
        out = count["kept"] + count["heldout_lines"]
        per_language[code] = {
            "rows_in": out + sum(dropped.values()),
            "rows": count["kept"],
            "heldout_lines": count["heldout_lines"],
            "characters": count["characters"],
            "dropped": {reason: number for reason, number in dropped.items() if number},
        }
    return {
        "rows": sum(entry["rows"] for entry in per_language.values()),
        "characters": sum(entry["characters"] for entry in per_language.values()),
        "languages": per_language,
    }
