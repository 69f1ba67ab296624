"""Clean the raw text: one form of Unicode, no markup, only rows that are text in the language's own script.

raw/<source>.jsonl -> cleaned/<language>.jsonl. Every dropped row is counted under its reason. Rows of the held-out
parallel part (by key and by text, in every source and language) go no further than here.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import regex

from unibert import languages
from unibert.data import fetch
from unibert.data.lines import atomic, file_sha256, finished, read_json, read_rows, say, text_key, write_json
from unibert.schema import Recipe

RULES = 1
"""Raised when a rule below changes, so that text cleaned by the old ones is cleaned again."""
MAXIMUM_CHARACTERS = 2000
MINIMUM_CHARACTERS = 20
MINIMUM_CHARACTERS_DENSE = 8
MINIMUM_WORDS = 3
MINIMUM_LETTERS = 0.75
"""Least share of letters, marks and spaces; 0.6 in dense scripts, where the same punctuation weighs more."""
MINIMUM_LETTERS_DENSE = 0.6
MINIMUM_OWN_SCRIPT = 0.5
"""Least share of the letters that is in the language's own script."""

_DENSE = frozenset({"Hans", "Hant", "Jpan", "Kore"})
_UNSPACED = _DENSE | {"Thai", "Khmr", "Mymr"}

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
_OTHER_LETTERS = {script: regex.compile(rf"[\p{{L}}--[{letters}]]", regex.V1) for script, letters in _SCRIPTS.items()}
_LETTERS = regex.compile(r"\p{L}")
_NOT_PROSE = regex.compile(r"[^\p{L}\p{M} ]")

# Zero-width (non-)joiners shape letters in Persian and Indic scripts; every other invisible character goes.
_INVISIBLE = regex.compile(r"[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Cn}--[\u200c\u200d\s]]", regex.V1)
_SPACES = regex.compile(r"\s+")
_EDGES = regex.compile(r"^[\s*#:;=•·|/-]+|[\s*#=•·|/]+$")
_MARKUP = regex.compile(
    r"[{}<>|\\\[\]]"  # templates, tags, tables, escapes
    r"|\$\w|%[\d$(]*[sdSDnifu@]|%\w+%|&\w+;|__\w+__"  # placeholders and entities
    r"|https?:|www\.|\w\(\)|\w\.(?:php|js|json|html|css|ini)\b|'''?|~~~"  # addresses, code, wiki quotes
)


def clean_text(text: str) -> str:
    """NFC; no control, directional, private or unassigned characters; single spaces; no list marks at the ends."""
    text = _SPACES.sub(" ", _INVISIBLE.sub("", unicodedata.normalize("NFC", text)))
    return _EDGES.sub("", text)


def reason_to_drop(text: str, language: str) -> str | None:
    """Why a cleaned text is not used: `length`, `markup`, `words`, `letters` or `script`; None when it is fine."""
    script = languages.script_of(language)
    dense = script in _DENSE
    if not (MINIMUM_CHARACTERS_DENSE if dense else MINIMUM_CHARACTERS) <= len(text) <= MAXIMUM_CHARACTERS:
        return "length"
    if _MARKUP.search(text):
        return "markup"
    if script not in _UNSPACED and text.count(" ") < MINIMUM_WORDS - 1:
        return "words"
    prose = 1 - len(_NOT_PROSE.findall(text)) / len(text)
    if prose < (MINIMUM_LETTERS_DENSE if dense else MINIMUM_LETTERS):
        return "letters"
    letters = len(_LETTERS.findall(text))
    if letters - len(_OTHER_LETTERS[script].findall(text)) < MINIMUM_OWN_SCRIPT * letters or not letters:
        return "script"
    return None


def english_keys(files: dict[str, Path]) -> frozenset[str]:
    """text_key of every English raw text: an equal text in another language is a message left untranslated."""
    rows = (row for file in files.values() for row in read_rows(file))
    return frozenset(text_key(clean_text(row["text"])) for row in rows if row["language"] == "en")


def heldout_texts(folder: Path) -> tuple[frozenset[str], frozenset[str]]:
    """(row ids, text keys) of the held-out parallel part, which no training text may share."""
    report = read_json(folder / "heldout" / "parallel_report.json")
    texts = (text for row in read_rows(folder / "heldout" / "parallel.jsonl") for text in row["texts"].values())
    return frozenset(report["ids"]), frozenset(map(text_key, texts))


def run(recipe: Recipe, *, force: bool = False) -> dict[str, Any]:
    """Clean every raw file into cleaned/<language>.jsonl; returns the report. DataError without the stages before."""
    languages.check(recipe.languages)
    folder = recipe.data.folder
    target = folder / "cleaned"
    files = fetch.raw_files(recipe)
    settings = {
        "rules": RULES,
        "languages": sorted(recipe.languages),
        "raw": file_sha256(folder / "raw" / "manifest.json"),
        "heldout": file_sha256(folder / "heldout" / "parallel.jsonl"),
    }
    if not force and (report := finished(target / "report.json", settings)) is not None:
        say(f"clean: already done, {report['rows']} rows in {target}")
        return report
    (target / "report.json").unlink(missing_ok=True)
    counts = _clean_files(recipe, files, target)
    report = {
        "settings": settings,
        "rows": sum(count["kept"] for count in counts.values()),
        "languages": {code: dict(sorted(count.items())) for code, count in sorted(counts.items())},
    }
    write_json(target / "report.json", report)
    dropped = sum(sum(count.values()) for count in counts.values()) - report["rows"]
    say(f"clean: {report['rows']} rows kept, {dropped} dropped")
    return report


def _clean_files(recipe: Recipe, files: dict[str, Path], target: Path) -> dict[str, Counter[str]]:
    """Write every language's cleaned rows; returns, per language, rows by outcome (`kept` or the reason dropped)."""
    heldout_ids, heldout_keys = heldout_texts(recipe.data.folder)
    english = english_keys(files)
    counts: dict[str, Counter[str]] = {code: Counter(kept=0) for code in recipe.languages}
    with ExitStack() as stack:
        out = {code: stack.enter_context(atomic(target / f"{code}.jsonl")) for code in recipe.languages}
        for name, file in files.items():
            say(f"clean: {name}")
            for row in read_rows(file):
                code = row["language"]
                if code not in out:
                    continue
                text = clean_text(row["text"])
                reason = reason_to_drop(text, code)
                if reason is None:
                    key = text_key(text)
                    if row["id"] in heldout_ids or key in heldout_keys:
                        reason = "heldout"
                    elif code != "en" and key in english:
                        reason = "english"
                counts[code][reason or "kept"] += 1
                if reason is None:
                    kept = {"id": row["id"], "text": text, "source": row["source"]}
                    out[code].write(json.dumps(kept, ensure_ascii=False) + "\n")
    return counts
