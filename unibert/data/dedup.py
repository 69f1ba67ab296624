"""Remove duplicates in each language, hold lines out, cap: the units of cleaned/ -> clean/ and heldout/lines/.

Three rounds of tasks: compare (duplicates.py), choose what is held out and kept (holdout.py), write. What is held out
goes through the same net, so a near duplicate of a held-out text is never trained on in its language; an equal text in
no language. clean/<language>-00000.jsonl and so on have the lines in the order of the corpus, a document's together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unibert import languages
from unibert.data import samples
from unibert.data.cleaning import HELDOUT
from unibert.data.curation import near
from unibert.data.duplicates import Comparison, Range, compare, verdicts_of
from unibert.data.holdout import HELD, LIKE_HELDOUT, NAMES, OVER_CAP, Bounds, Choosing, choose, is_held, is_kept
from unibert.data.lines import file_sha256, read_json, row_file, say, write_json, write_rows
from unibert.data.units import Unit
from unibert.data.work import ALONE, Crew, Done, Task, forget, perform
from unibert.errors import DataError
from unibert.schema import Recipe

FORMAT = 2
MIB = 2**20
ROWS_AT_ONCE = 1 << 16
"""Rows that one comparison holds, about."""


def run(recipe: Recipe, *, force: bool = False, crew: Crew = ALONE) -> dict[str, Any]:
    """Write clean/<language>-*.jsonl, heldout/lines/<language>.jsonl and clean/report.json; returns the report.

    DataError when a stage before is missing, or a language has no text left.
    """
    languages.check(recipe.languages)
    data = recipe.data
    cleaned = data.folder / "cleaned"
    settings = {
        "format": FORMAT,
        "near": [near.HASHES, near.ROWS, near.BANDS, near.STRICT, near.LENIENT],
        "languages": sorted(recipe.languages),
        "max_lines_per_language": data.max_lines_per_language,
        "heldout_lines_per_language": data.heldout_lines_per_language,
        "cleaned": file_sha256(cleaned / "report.json"),
    }
    cleaning = read_json(cleaned / "report.json")
    all_units = [
        Unit.from_result(n, cleaned / name, entry) for n, (name, entry) in enumerate(cleaning["units"].items())
    ]
    work = _Rounds(recipe, tuple(all_units), settings, crew, force)
    written = work.write(*work.choose(work.compare()))
    counts = {code: Counter(cleaning["languages"][code]) for code in recipe.languages}
    _count(counts, written)
    _write_heldout(data.folder, recipe.languages, written)
    write_rows(data.folder / "clean" / "dropped.jsonl", samples.merge(part["dropped"] for part in written))
    report = {"settings": settings, **_summary(counts), "files": _files(written)}
    _remove_others(data.folder / "clean", report["files"])
    write_json(data.folder / "clean" / "report.json", report)
    say(f"dedup: {report['rows']} rows, {report['characters'] / 1e6:.1f}M characters in {data.folder / 'clean'}")
    return report


@dataclass(frozen=True)
class _Rounds:
    """The three rounds over one corpus."""

    recipe: Recipe
    units: tuple[Unit, ...]
    settings: dict[str, Any]
    crew: Crew
    force: bool

    def compare(self) -> dict[str, tuple[Path, ...]]:
        """The files of verdicts that concern each language."""
        folder = self.recipe.data.folder / "dedup"
        tasks: list[Task] = []
        files: dict[str, list[Path]] = {code: [] for code in self.recipe.languages}
        # What is kept and held out does not matter here, so another cap does not compare anew.
        settings = {key: self.settings[key] for key in ("format", "near", "languages", "cleaned")}
        for ranges in _bundles(self.units, self.recipe.languages):
            name = f"{ranges[0].language}-{ranges[0].part:05d}"
            into = folder / f"{name}.npy"
            job = Comparison(self._with({each.language for each in ranges}), tuple(ranges), into)
            tasks.append(Task(name, settings | {"ranges": [str(each) for each in ranges]}, job))
            for each in ranges:
                files[each.language].append(into)
        perform(compare, tasks, folder=folder, crew=self.crew, what="dedup: comparing", force=self.force)
        return {code: tuple(found) for code, found in files.items()}

    def choose(self, verdicts: Mapping[str, tuple[Path, ...]]) -> tuple[Any, ...]:
        """(verdicts, bounds by language and source, hashes of all held-out texts)."""
        folder, data = self.recipe.data.folder / "dedup" / "chosen", self.recipe.data
        tasks = []
        for code, files in verdicts.items():
            into = folder / f"{code}.npy"
            job = Choosing(
                _without_heldout(self._with({code})),
                {code: files},
                data.heldout_lines_per_language,
                data.max_lines_per_language,
                into,
            )
            tasks.append(Task(code, self.settings, job))
        done = perform(choose, tasks, folder=folder, crew=self.crew, what="dedup: choosing", force=self.force)
        bounds = {code: limits for result in done for code, limits in result["bounds"].items()}
        keys = np.unique(np.concatenate([np.load(task.argument.into) for task in tasks]))
        return verdicts, bounds, keys

    def write(self, verdicts: Mapping[str, tuple[Path, ...]], bounds: Any, keys: np.ndarray) -> list[dict[str, Any]]:
        """What was written of each piece of the text."""
        folder = self.recipe.data.folder / "clean"
        tasks = []
        for code in self.recipe.languages:
            for number, piece in enumerate(_pieces(self.units, code, file_bytes=self.recipe.data.file_mib * MIB)):
                limits = {source: Bounds(*pair) for source, pair in bounds[code].items()}
                job = Writing(folder, code, number, tuple(piece), verdicts[code], limits, keys)
                settings = self.settings | {"units": [unit.number for unit in piece]}
                tasks.append(Task(job.path.stem, settings, job))
        return perform(write, tasks, folder=folder, crew=self.crew, what="dedup: writing", force=self.force)

    def _with(self, codes: set[str]) -> tuple[Unit, ...]:
        return tuple(unit for unit in self.units if codes & unit.slices.keys())


def _without_heldout(units: Sequence[Unit]) -> tuple[Unit, ...]:
    """The units of text: the held-out parallel texts are compared with, never written."""
    return tuple(unit for unit in units if unit.source != HELDOUT)


def _bundles(units: Sequence[Unit], wanted: Sequence[str]) -> Iterator[list[Range]]:
    """The ranges of each comparison: small languages together, a large one in parts."""
    bundle: list[Range] = []
    held = 0
    for code in wanted:
        rows = sum(unit.slices[code].rows for unit in units if code in unit.slices)
        parts = -(-rows // ROWS_AT_ONCE)
        if parts > 1:
            yield from ([Range(code, part, parts)] for part in range(parts))
            continue
        if bundle and held + rows > ROWS_AT_ONCE:
            yield bundle
            bundle, held = [], 0
        bundle.append(Range(code, 0, 1))
        held += rows
    if bundle:
        yield bundle


def _pieces(units: Sequence[Unit], code: str, *, file_bytes: float) -> Iterator[list[Unit]]:
    """Units of a language in order, as many at once as make a file; none of the held-out texts."""
    piece: list[Unit] = []
    size = 0
    for unit in _without_heldout(units):
        if code not in unit.slices:
            continue
        piece.append(unit)
        size += unit.slices[code].length
        if size >= file_bytes:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


@dataclass(frozen=True)
class Writing:
    """One task: a file of clean text."""

    folder: Path
    language: str
    number: int
    units: tuple[Unit, ...]
    verdicts: tuple[Path, ...]
    bounds: Mapping[str, Bounds]
    heldout_keys: np.ndarray

    @property
    def path(self) -> Path:
        """The file."""
        return row_file(self.folder / self.language, self.number)


def write(job: Writing) -> Done:
    """Write one file of clean text, and beside it what is held out of that text."""
    counts: Counter[str] = Counter()
    dropped = samples.Samples("dedup")
    held: list[dict[str, Any]] = []

    def kept() -> Iterator[dict[str, Any]]:
        for unit in job.units:
            for row, verdict in zip(unit.rows(job.language), _verdicts(job, unit).tolist(), strict=True):
                row["source"] = unit.source
                if verdict == 0:
                    counts["kept"] += 1
                    counts["characters"] += len(row["text"])
                    yield row
                elif verdict == HELD:
                    held.append(row)
                else:
                    counts[NAMES[verdict]] += 1
                    dropped.add(job.language, NAMES[verdict], id=row["id"], text=row["text"])

    write_rows(job.path, kept())
    counts["heldout_lines"] = len(held)
    result = {
        "language": job.language,
        "file": job.path.name,
        "counts": counts,
        "dropped": dropped.rows(),
        "held": held,
    }
    return Done(result, (job.path,))


def _verdicts(job: Writing, unit: Unit) -> np.ndarray:
    """uint8 [rows] of the language in a unit: 0 for what is kept."""
    place, bounds = unit.slices[job.language], job.bounds[unit.source]
    verdict = verdicts_of(unit, job.language, job.verdicts)
    fresh = verdict == 0
    held = fresh & is_held(unit, job.language, bounds)
    like = fresh & ~held & np.isin(unit.array("keys")[place.first : place.stop], job.heldout_keys)
    over = fresh & ~held & ~like & ~is_kept(unit, job.language, bounds)
    for rows, meaning in ((held, HELD), (like, LIKE_HELDOUT), (over, OVER_CAP)):
        verdict[rows] = meaning
    return verdict


def _write_heldout(folder: Path, wanted: Sequence[str], written: Sequence[dict[str, Any]]) -> None:
    held: dict[str, list[dict[str, Any]]] = {code: [] for code in wanted}
    for part in written:
        held[part["language"]] += part["held"]
    for code, rows in held.items():
        write_rows(folder / "heldout" / "lines" / f"{code}.jsonl", rows)


def _count(counts: dict[str, Counter[str]], written: Sequence[dict[str, Any]]) -> None:
    """Add up what became of each language's cleaned rows. DataError for languages without any text left."""
    for count in counts.values():
        count["kept"] = 0
    for part in written:
        counts[part["language"]].update(part["counts"])
    if empty := [code for code, count in counts.items() if not count["kept"]]:
        raise DataError(
            f"{', '.join(empty)}: no text is left after cleaning and deduplication; take it out of `languages`"
        )


def _remove_others(folder: Path, files: Mapping[str, Sequence[str]]) -> None:
    """Remove text of an earlier corpus that had more of it."""
    current = {"dropped.jsonl"}.union(*files.values())
    for path in folder.glob("*.jsonl"):
        if path.name not in current:
            path.unlink()
            forget(path.stem, folder=folder)


def _files(written: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    files: dict[str, list[str]] = {}
    for part in written:
        files.setdefault(part["language"], []).append(part["file"])
    return files


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
