"""Clean the raw text: one form of Unicode, no markup, only rows that are text in the language's own script.

Each file of raw/ becomes a unit of cleaned/ (units.py). Every dropped row is counted under its reason, with samples in
cleaned/dropped.jsonl. Rows of the held-out parallel part (by key and by text, in every source and language) go no
further than here.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, takewhile
from pathlib import Path
from typing import Any

import regex

from unibert import languages
from unibert.data import corpora, fetch, samples, units
from unibert.data.curation import near
from unibert.data.lines import file_sha256, read_json, read_rows, say, text_key, write_json, write_rows
from unibert.data.sources.base import DENSE_SCRIPTS, MAXIMUM_CHARACTERS, minimum_characters
from unibert.data.work import ALONE, Crew, Done, Task, perform
from unibert.schema import Recipe

HELDOUT = "heldout"
"""Name of the unit with the held-out parallel texts."""
RULES = 2
"""Raised when a rule below changes, so that text cleaned by the old ones is cleaned again."""
MINIMUM_WORDS = 3
MINIMUM_LETTERS = 0.75
"""Least share of letters, marks and spaces; 0.6 in dense scripts, where the same punctuation weighs more."""
MINIMUM_LETTERS_DENSE = 0.6
MINIMUM_OWN_SCRIPT = 0.5
"""Least share of the letters that is in the language's own script."""

_UNSPACED = DENSE_SCRIPTS | {"Thai", "Khmr", "Mymr"}

_SCRIPTS = {
    "Arab": r"\p{Arabic}",
    "Armn": r"\p{Armenian}",
    "Beng": r"\p{Bengali}",
    "Cyrl": r"\p{Cyrillic}",
    "Deva": r"\p{Devanagari}",
    "Ethi": r"\p{Ethiopic}",
    "Geor": r"\p{Georgian}",
    "Grek": r"\p{Greek}",
    "Gujr": r"\p{Gujarati}",
    "Guru": r"\p{Gurmukhi}",
    "Hans": r"\p{Han}",
    "Hant": r"\p{Han}\p{Bopomofo}",
    "Hebr": r"\p{Hebrew}",
    "Jpan": r"\p{Han}\p{Hiragana}\p{Katakana}ー",
    "Khmr": r"\p{Khmer}",
    "Knda": r"\p{Kannada}",
    "Kore": r"\p{Hangul}\p{Han}",
    "Latn": r"\p{Latin}",
    "Mlym": r"\p{Malayalam}",
    "Mymr": r"\p{Myanmar}",
    "Sinh": r"\p{Sinhala}",
    "Taml": r"\p{Tamil}",
    "Telu": r"\p{Telugu}",
    "Thai": r"\p{Thai}",
}
_OTHER_LETTERS = {script: regex.compile(rf"[^{letters}\P{{L}}]") for script, letters in _SCRIPTS.items()}
_LETTERS = regex.compile(r"\p{L}")
_NOT_PROSE = regex.compile(r"[^\p{L}\p{M} ]")

# Zero-width (non-)joiners shape letters in Persian and Indic scripts; every other invisible character goes.
_INVISIBLE = regex.compile(r"[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Cn}--[\u200c\u200d\s]]", regex.V1)
_BEFORE, _AFTER = " *#:;=•·|/-", " *#=•·|/"  # marks of lists and headings
_MARKUP = regex.compile(
    r"[{}<>|\\\[\]]"  # templates, tags, tables, escapes
    r"|\$\w|%[\d$(]*[sdSDnifu@]|%\w+%|&\w+;|__\w+__"  # placeholders and entities
    r"|https?:|www\.|\(\)|\.(?:php|js|json|html|css|ini)\b|''|~~~"  # addresses, code, wiki quotes
)
_BROKEN = regex.compile(r"(?<![\p{L}\p{M}\p{N}\u200c\u200d])\p{M}|\ufffd")


def clean_text(text: str) -> str:
    """NFC; no control, directional, private or unassigned characters; single spaces; no list marks at the ends."""
    text = unicodedata.normalize("NFC", text)
    if not text.isprintable():  # true of the few texts with anything invisible besides the space
        text = _INVISIBLE.sub("", text)
    return " ".join(text.split()).lstrip(_BEFORE).rstrip(_AFTER)


def reason_to_drop(text: str, language: str) -> str | None:
    """Why a cleaned text is not used; None when it is fine.

    `length`: too short or long; `markup`: remains of markup, placeholders or code; `broken`: a replacement character,
    or a combining mark without a letter before it; `words`: too few; `letters`: too few letters among its characters;
    `script`: its letters are mostly of another script than the language's.
    """
    if not minimum_characters(language) <= len(text) <= MAXIMUM_CHARACTERS:
        return "length"
    if _MARKUP.search(text):
        return "markup"
    if _BROKEN.search(text):
        return "broken"
    script = languages.script_of(language)
    if script not in _UNSPACED and text.count(" ") < MINIMUM_WORDS - 1:
        return "words"
    prose = 1 - len(_NOT_PROSE.findall(text)) / len(text)
    if prose < (MINIMUM_LETTERS_DENSE if script in DENSE_SCRIPTS else MINIMUM_LETTERS):
        return "letters"
    others = len(_OTHER_LETTERS[script].findall(text))
    if others and others > (1 - MINIMUM_OWN_SCRIPT) * len(_LETTERS.findall(text)):
        return "script"
    return None


def heldout_texts(folder: Path) -> tuple[frozenset[str], frozenset[str]]:
    """(row ids, text keys) of the held-out parallel part, which no training text may share."""
    report = read_json(folder / "heldout" / "parallel_report.json")
    texts = (text for row in read_rows(folder / "heldout" / "parallel.jsonl") for text in row["texts"].values())
    return frozenset(report["ids"]), frozenset(map(text_key, texts))


def run(recipe: Recipe, *, force: bool = False, crew: Crew = ALONE) -> dict[str, Any]:
    """Clean every raw file into a unit of cleaned/; returns the report. DataError without the stages before."""
    languages.check(recipe.languages)
    folder, target = recipe.data.folder, recipe.data.folder / "cleaned"
    settings = {
        "rules": [RULES, units.FORMAT, near.HASHES, near.ROWS, near.BANDS],
        "languages": sorted(recipe.languages),
        "heldout": file_sha256(folder / "heldout" / "parallel.jsonl"),
    }
    sources = {**fetch.raw_files(recipe), HELDOUT: [folder / "heldout" / "parallel.jsonl"]}
    tasks = list(_tasks(recipe, sources, settings))
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


def _tasks(recipe: Recipe, sources: dict[str, list[Path]], settings: dict[str, Any]) -> Iterator[Task]:
    """A task for each raw file, the held-out texts first: of two equal texts the earlier is the one that stays."""
    raw = recipe.data.folder / "raw"
    facts = read_json(raw / "manifest.json")["sources"]
    yield Task(HELDOUT, settings, Cleaning(recipe, HELDOUT, sources[HELDOUT][0], ()))
    for name, files in sources.items():
        if name == HELDOUT:
            continue
        checksums = {file: facts[name]["files"][str(file.relative_to(raw))]["sha256"] for file in files}
        english = () if corpora.is_part(name) else tuple(checksums.items())
        for file, checksum in checksums.items():
            place = str(file.relative_to(raw))
            about = settings | {"raw": [checksum for _, checksum in english] or [checksum], "file": place}
            yield Task(place.removesuffix(".jsonl"), about, Cleaning(recipe, name, file, english))


@dataclass(frozen=True)
class Cleaning:
    """What one task cleans."""

    recipe: Recipe
    name: str
    """Of the source or part."""
    file: Path
    english: tuple[tuple[Path, str], ...]
    """Files of an aligned source, whose first rows are English, with their checksums."""


def _clean(job: Cleaning) -> Done:
    """Clean one raw file."""
    recipe, folder = job.recipe, job.recipe.data.folder
    unit = folder / "cleaned" / (HELDOUT if job.name == HELDOUT else _unit_name(job.file, folder / "raw"))
    if job.name == HELDOUT:
        kept, counts, dropped = _heldout_rows(job.file, recipe.languages), {}, samples.Samples("clean")
    else:
        kept, counts, dropped = _clean_rows(job)
    source = job.name.partition("/")[0]
    result, files = units.write(unit, source=source, kept=kept)
    return Done(result | {"counts": counts, "dropped": dropped.rows()}, tuple(files))


def _unit_name(file: Path, raw: Path) -> str:
    return str(file.relative_to(raw)).removesuffix(".jsonl")


def _heldout_rows(file: Path, wanted: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The held-out parallel texts as rows, so that whatever is near one of them is found."""
    kept: dict[str, list[dict[str, Any]]] = {code: [] for code in wanted}
    for message in read_rows(file):
        for code, text in message["texts"].items():
            if code in kept:
                kept[code].append({"id": message["key"], "text": text})
    return kept


def _clean_rows(job: Cleaning) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Counter[str]], samples.Samples]:
    """(kept rows by language, outcomes by language, samples of what was dropped)."""
    wanted = job.recipe.languages
    judge = _Judge(job.recipe.data.folder, english=_english_keys(job.english))
    kept: dict[str, list[dict[str, Any]]] = {code: [] for code in wanted}
    counts = {code: Counter[str]() for code in wanted}
    dropped = samples.Samples("clean")
    for row in read_rows(job.file):
        code = row["language"]
        if code not in kept:
            continue
        text = clean_text(row["text"])
        outcome = judge.outcome(row, text)
        counts[code][outcome] += 1
        if outcome == "kept":
            own = {"line": row["line"]} if "line" in row else {}
            kept[code].append({"id": row["id"], **own, "text": text})
        else:
            dropped.add(code, outcome, id=row["id"], text=text)
    return kept, {code: count for code, count in counts.items() if count}, dropped


@lru_cache(maxsize=2)
def _english_keys(files: tuple[tuple[Path, str], ...]) -> frozenset[str]:
    """Text keys of an aligned source's English texts, which stand first in its files (checksums are for the cache)."""
    rows = takewhile(lambda row: row["language"] == "en", chain.from_iterable(read_rows(file) for file, _ in files))
    texts = (clean_text(row["text"]) for row in rows)
    return frozenset(text_key(text) for text in texts if reason_to_drop(text, "en") is None)


class _Judge:
    """Decides row by row. `english` are the keys of an aligned source's English texts."""

    def __init__(self, folder: Path, *, english: frozenset[str]) -> None:
        self.heldout_ids, self.heldout_keys = heldout_texts(folder)
        self.english = english

    def outcome(self, row: dict[str, str], text: str) -> str:
        """`kept`, or the reason why the row is dropped."""
        if (reason := reason_to_drop(text, row["language"])) is not None:
            return reason
        key = text_key(text)
        if row["id"] in self.heldout_ids or key in self.heldout_keys:
            return "heldout"
        if row["language"] != "en" and key in self.english:
            return "english"  # a message nobody has translated yet
        return "kept"
