"""Deduplicate each language, hold lines out, cap: cleaned/<language>.jsonl -> clean/ and heldout/lines/.

Duplicates are removed within a language: exact ones by `text_key`, near ones by MinHash. What is held out goes through
the same net, so a near duplicate of a held-out text is never trained on in its language; an equal text in no language.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

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
from unibert.errors import DataError
from unibert.languages import script_of
from unibert.schema import Recipe

FORMAT = 1
SIMILAR = 0.8
"""Jaccard similarity of character shingles from which two texts are near duplicates."""
BANDS, ROWS_PER_BAND = 6, 4
"""A pair of similarity s is looked at with probability 1 - (1 - s^4)^6: 0.96 at 0.8, 0.32 at 0.5."""
LARGEST_HELDOUT_SHARE = 0.25
"""A language with little text gives at most this share of its lines to the held-out part."""

_SHORT_SHINGLES = frozenset({"Hans", "Hant", "Jpan", "Kore"})
_LEADERS = 8  # kept texts of one bucket that a new one is compared with

Row = dict[str, str]


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
        rolled = rolled * np.uint64(0x9E3779B97F4A7C15) + points[offset : offset + len(rolled)]
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
    values = np.ascontiguousarray(band).view(np.dtype((np.void, band.dtype.itemsize * band.shape[1]))).ravel()
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")
    parts = np.split(order, np.cumsum(counts)[:-1])
    return [part.tolist() for part in parts if len(part) > 1]


def spread(rows: Iterable[Row]) -> list[Row]:
    """Rows in a fixed order in which any beginning is drawn as evenly from the sources as they allow.

    Within a source the order is a seeded hash of the row's id, so it does not depend on the order of the file.
    """
    sources: dict[str, list[tuple[int, str, Row]]] = defaultdict(list)
    for row in rows:
        sources[row["source"]].append((stable_hash(row["id"], seed=SPLIT_SEED), row["id"], row))
    ranked = []
    for name, hashed in sources.items():
        hashed.sort(key=lambda entry: entry[:2])
        ranked += [(rank, name, row) for rank, (_, _, row) in enumerate(hashed)]
    ranked.sort(key=lambda entry: entry[:2])
    return [row for _, _, row in ranked]


def split(rows: list[Row], *, heldout: int, cap: int) -> tuple[list[Row], list[Row]]:
    """(held out, the rest) of spread rows: every k-th of the first cap + heldout, so both have the same mixture."""
    heldout = min(heldout, int(len(rows) * LARGEST_HELDOUT_SHARE))
    window = min(len(rows), cap + heldout)
    places = {number * window // heldout for number in range(heldout)}
    held = [row for place, row in enumerate(rows) if place in places]
    return held, [row for place, row in enumerate(rows) if place not in places]


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
    if not force and (report := finished(report_path, settings)) is not None:
        say(f"dedup: already done, {report['rows']} rows in {report_path.parent}")
        return report
    report_path.unlink(missing_ok=True)
    dropped = read_json(folder / "cleaned" / "report.json")["languages"]
    counts = {code: Counter(dropped[code]) for code in recipe.languages}
    held, kept = _deduplicate(recipe, counts)
    heldout_keys = {text_key(row["text"]) for rows in held.values() for row in rows}
    for code in recipe.languages:
        rows = [row for row in kept[code] if text_key(row["text"]) not in heldout_keys]
        counts[code]["heldout"] += len(kept[code]) - len(rows)
        _write_language(recipe, code, held=held[code], rows=rows, counts=counts[code])
    report = {"settings": settings} | _summary(counts)
    write_json(report_path, report)
    say(f"dedup: {report['rows']} rows, {report['characters'] / 1e6:.1f}M characters in {folder / 'clean'}")
    return report


def _deduplicate(recipe: Recipe, counts: dict[str, Counter[str]]) -> tuple[dict[str, list[Row]], dict[str, list[Row]]]:
    """(held-out lines, the others) by language, without exact and near duplicates; counts those dropped."""
    data = recipe.data
    parallel: dict[str, list[str]] = defaultdict(list)
    for message in read_rows(data.folder / "heldout" / "parallel.jsonl"):
        for code, text in message["texts"].items():
            parallel[code].append(text_key(text))
    held: dict[str, list[Row]] = {}
    kept: dict[str, list[Row]] = {}
    for number, code in enumerate(recipe.languages, start=1):
        unique = {text_key(row["text"]): row for row in reversed(list(_rows(data.folder, code)))}
        first = parallel[code]  # first, so that whatever is near a held-out text is what goes
        keys = [*first, *reversed(unique)]
        near = near_duplicates(keys, shingle=3 if script_of(code) in _SHORT_SHINGLES else 5)[len(first) :]
        rows = [row for row, is_near in zip(reversed(unique.values()), near, strict=True) if not is_near]
        counts[code]["duplicate"] += counts[code]["kept"] - len(unique)
        counts[code]["near_duplicate"] += int(near.sum())
        held[code], kept[code] = split(
            spread(rows), heldout=data.heldout_lines_per_language, cap=data.max_lines_per_language
        )
        if number % 20 == 0 or number == len(recipe.languages):
            say(f"dedup: {number} of {len(recipe.languages)} languages")
    return held, kept


def _rows(folder: Path, code: str) -> Iterable[Row]:
    return read_rows(folder / "cleaned" / f"{code}.jsonl")


def _write_language(recipe: Recipe, code: str, *, held: list[Row], rows: list[Row], counts: Counter[str]) -> None:
    """Write one language's two files and bring its counts to their final form."""
    folder, cap = recipe.data.folder, recipe.data.max_lines_per_language
    if not rows:
        raise DataError(f"{code}: no text is left after cleaning and deduplication; take it out of `languages`")
    write_rows(folder / "heldout" / "lines" / f"{code}.jsonl", held)
    write_rows(folder / "clean" / f"{code}.jsonl", rows[:cap])
    counts["kept"] = len(rows[:cap])
    counts["over_cap"] = len(rows) - counts["kept"]
    counts["heldout_lines"] = len(held)
    counts["characters"] = sum(len(row["text"]) for row in rows[:cap])


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
