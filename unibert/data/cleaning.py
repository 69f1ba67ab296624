"""Clean the raw text: one form of Unicode, no markup, only lines that are text in their language.

Each file of raw/ becomes a unit of cleaned/ (units.py). What each step of curation/ drops is counted under its reason,
with samples in cleaned/dropped.jsonl. Texts of the held-out parallel part and of the recipe's evaluation sets go no
further than here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, groupby, takewhile
from pathlib import Path
from typing import Any

from unibert import languages
from unibert.data import corpora, fetch, samples, units
from unibert.data.curation import near, sections
from unibert.data.curation.contamination import Index
from unibert.data.curation.language import Identifier
from unibert.data.curation.prose import RULES, reason_to_drop
from unibert.data.curation.unicode import clean_text
from unibert.data.kept_out import evaluation_files, evaluation_index, heldout_texts
from unibert.data.lines import file_sha256, read_json, read_rows, say, text_key, write_json, write_rows
from unibert.data.work import ALONE, Crew, Done, Task, perform
from unibert.schema import Recipe

HELDOUT = "heldout"
"""Name of the unit with the held-out parallel texts."""

_IDENTIFIER = Identifier()


def run(recipe: Recipe, *, force: bool = False, crew: Crew = ALONE) -> dict[str, Any]:
    """Clean every raw file into a unit of cleaned/; returns the report. DataError without the stages before."""
    languages.check(recipe.languages)
    folder, target = recipe.data.folder, recipe.data.folder / "cleaned"
    settings = {
        "rules": [RULES, units.FORMAT, near.HASHES, near.ROWS, near.BANDS],
        "languages": sorted(recipe.languages),
        "heldout": file_sha256(folder / "heldout" / "parallel.jsonl"),
        "identify_languages": recipe.data.identify_languages,
        "evaluation_sets": [checksum for _, checksum in evaluation_files(recipe)],
    }
    tasks = list(_tasks(recipe, settings))
    done = perform(_clean, tasks, folder=target, crew=crew, what="clean", force=force)
    counts = {code: Counter(kept=0) for code in recipe.languages}
    for unit in done:
        for code, count in unit["counts"].items():
            counts[code].update(count)
    report = {
        "settings": settings,
        "rows": sum(count["kept"] for count in counts.values()),
        "languages": {code: dict(sorted(count.items())) for code, count in sorted(counts.items())},
        "units": {
            task.name: {"source": unit["source"], "slices": unit["slices"]}
            for task, unit in zip(tasks, done, strict=True)
        },
    }
    write_json(target / "report.json", report)
    write_rows(target / "dropped.jsonl", samples.merge(unit["dropped"] for unit in done))
    dropped = sum(sum(count.values()) for count in counts.values()) - report["rows"]
    say(f"clean: {report['rows']} rows kept, {dropped} dropped")
    return report


def _tasks(recipe: Recipe, settings: dict[str, Any]) -> Iterator[Task]:
    """A task for each raw file, the held-out texts first: of two equal texts the earlier is the one that stays."""
    raw = recipe.data.folder / "raw"
    facts, sets = read_json(raw / "manifest.json")["sources"], evaluation_files(recipe)
    heldout = recipe.data.folder / "heldout" / "parallel.jsonl"
    yield Task(HELDOUT, settings, Cleaning(recipe, HELDOUT, heldout))
    for name, files in fetch.raw_files(recipe).items():
        checksums = {file: facts[name]["files"][str(file.relative_to(raw))]["sha256"] for file in files}
        english = () if corpora.is_part(name) else tuple(checksums.items())
        for file, checksum in checksums.items():
            place = str(file.relative_to(raw))
            about = settings | {"raw": [checksum for _, checksum in english] or [checksum], "file": place}
            yield Task(place.removesuffix(".jsonl"), about, Cleaning(recipe, name, file, english, sets))


@dataclass(frozen=True)
class Cleaning:
    """What one task cleans."""

    recipe: Recipe
    name: str
    """Of the source or part."""
    file: Path
    english: tuple[tuple[Path, str], ...] = ()
    """Files of an aligned source, whose first rows are English, with their checksums."""
    evaluation: tuple[tuple[Path, str], ...] = ()
    """Files of evaluation sets, with their checksums."""

    @property
    def unit(self) -> Path:
        """Folder of the unit."""
        folder = self.recipe.data.folder
        if self.name == HELDOUT:
            return folder / "cleaned" / HELDOUT
        return folder / "cleaned" / str(self.file.relative_to(folder / "raw")).removesuffix(".jsonl")


def _clean(job: Cleaning) -> Done:
    """Clean one raw file."""
    out = _heldout_rows(job) if job.name == HELDOUT else _clean_rows(job)
    result, files = units.write(job.unit, source=job.name.partition("/")[0], kept=out.kept)
    counts = {code: count for code, count in out.counts.items() if count}
    return Done(result | {"counts": counts, "dropped": out.dropped.rows()}, tuple(files))


def _heldout_rows(job: Cleaning) -> _Outcome:
    """The held-out parallel texts as rows, so that whatever is near one of them is found."""
    out = _Outcome(job.recipe.languages)
    for message in read_rows(job.file):
        for code, text in message["texts"].items():
            if code in out.kept:
                out.kept[code].append(units.Line({"id": message["key"], "text": text}, text_key(text)))
    return out


class _Outcome:
    """What became of the rows of a file."""

    def __init__(self, wanted: Sequence[str]) -> None:
        self.kept: dict[str, list[units.Line]] = {code: [] for code in wanted}
        self.counts = {code: Counter[str]() for code in wanted}
        self.dropped = samples.Samples("clean")

    def drop(self, language: str, reason: str, *, id: str, text: str) -> None:
        self.counts[language][reason] += 1
        self.dropped.add(language, reason, id=id, text=text)


def _clean_rows(job: Cleaning) -> _Outcome:
    """Every step on one raw file: whole documents first, then lines, then the lines of a language together."""
    out = _Outcome(job.recipe.languages)
    judge = _Judge(job)
    rows = (row for row in read_rows(job.file) if row["language"] in out.kept)
    for (identity, code), document in groupby(rows, key=lambda row: (row["id"], row["language"])):
        lines = list(document)
        # A line that is a document by itself has no sections.
        reasons = [None] * len(lines)
        if len(lines) > 1 and "line" in lines[0]:
            reasons = sections.judge([row["text"] for row in lines], code)
        for row, reason in zip(lines, reasons, strict=True):
            text = clean_text(row["text"])
            reason = reason or reason_to_drop(text, code)
            key = "" if reason else text_key(text)
            if reason := reason or judge.reason(identity, key, code):
                out.drop(code, reason, id=identity, text=text)
            else:
                own = {"line": row["line"]} if "line" in row else {}
                out.kept[code].append(units.Line({"id": identity, **own, "text": text}, key))
    for code in out.kept:
        judge.judge_together(out, code)
        out.counts[code]["kept"] = len(out.kept[code])
    return out


class _Judge:
    """Says which cleaned lines may not be used, by what else there is: held-out, evaluation and English texts."""

    def __init__(self, job: Cleaning) -> None:
        self.identify = job.recipe.data.identify_languages
        self.heldout_ids, self.heldout_keys = heldout_texts(job.recipe.data.folder)
        self.english = _english_keys(job.english)
        self.index = evaluation_index(job.evaluation) if job.evaluation else None

    def reason(self, identity: str, key: str, language: str) -> str | None:
        """Why a line is dropped, by its key."""
        if identity in self.heldout_ids or key in self.heldout_keys:
            return "heldout"
        if language != "en" and key in self.english:
            return "english"  # a message nobody has translated yet
        return None

    def judge_together(self, out: _Outcome, code: str) -> None:
        """Drop what shows only in many lines at once, or is quicker so: text in another language, evaluation texts."""
        lines = out.kept[code]
        reasons: list[str | None] = [None] * len(lines)
        if self.identify:
            reasons = _IDENTIFIER.reasons([line.row["text"] for line in lines], code)
        if self.index is not None:
            hits = _passages(self.index, lines)
            reasons = ["evaluation" if hit else reason for hit, reason in zip(hits, reasons, strict=True)]
        for line, reason in zip(lines, reasons, strict=True):
            if reason:
                out.drop(code, reason, id=line.row["id"], text=line.row["text"])
        out.kept[code] = [line for line, reason in zip(lines, reasons, strict=True) if not reason]


def _passages(index: Index, lines: Sequence[units.Line]) -> list[bool]:
    """Which lines say what an evaluation text says; all of a document when only its lines together do."""
    hits = index.hits([line.key for line in lines]).tolist()
    places = [list(group) for _, group in groupby(range(len(lines)), key=lambda place: lines[place].row["id"])]
    documents = [group for group in places if len(group) > 1 and not any(hits[place] for place in group)]
    together = index.hits(["".join(lines[place].key for place in group) for group in documents])
    for group, hit in zip(documents, together.tolist(), strict=True):
        for place in group if hit else ():
            hits[place] = True
    return hits


@lru_cache(maxsize=2)
def _english_keys(files: tuple[tuple[Path, str], ...]) -> frozenset[str]:
    """Text keys of an aligned source's English texts, which stand first in its files (checksums are for the cache)."""
    rows = takewhile(lambda row: row["language"] == "en", chain.from_iterable(read_rows(file) for file, _ in files))
    texts = (clean_text(row["text"]) for row in rows)
    return frozenset(text_key(text) for text in texts if reason_to_drop(text, "en") is None)
