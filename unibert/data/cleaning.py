"""Clean the raw text: one form of Unicode, no markup, only rows that are text in the language's own script.

raw/<source>.jsonl -> cleaned/<language>.jsonl. Every dropped row is counted under its reason. Rows of the held-out
parallel part (by key and by text, in every source and language) go no further than here.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import regex

from unibert import languages
from unibert.data import corpora, fetch
from unibert.data.lines import atomic, file_sha256, finished, json_line, read_json, read_rows, say, text_key, write_json
from unibert.data.sources.base import DENSE_SCRIPTS, MAXIMUM_CHARACTERS, minimum_characters
from unibert.schema import Recipe

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


class _Judge:
    """Decides row by row; remembers the English texts of aligned sources, which come first in their files."""

    def __init__(self, folder: Path) -> None:
        self.heldout_ids, self.heldout_keys = heldout_texts(folder)
        self.english: set[str] = set()

    def outcome(self, row: dict[str, str], text: str, *, aligned: bool) -> str:
        """`kept`, or the reason why the row is dropped; only an aligned source can have left its English behind."""
        if (reason := reason_to_drop(text, row["language"])) is not None:
            return reason
        key = text_key(text)
        if row["id"] in self.heldout_ids or key in self.heldout_keys:
            return "heldout"
        if not aligned:
            return "kept"
        if row["language"] == "en":
            self.english.add(key)
        elif key in self.english:
            return "english"  # a message nobody has translated yet
        return "kept"


def _clean_files(recipe: Recipe, files: dict[str, Path], target: Path) -> dict[str, Counter[str]]:
    """Write every language's cleaned rows; returns, per language, rows by outcome (`kept` or the reason dropped)."""
    judge = _Judge(recipe.data.folder)
    counts: dict[str, Counter[str]] = {code: Counter(kept=0) for code in recipe.languages}
    with ExitStack() as stack:
        out = {code: stack.enter_context(atomic(target / f"{code}.jsonl")) for code in recipe.languages}
        for name, file in files.items():
            say(f"clean: {name}")
            aligned = not corpora.is_part(name)
            for row in read_rows(file):
                code = row["language"]
                if code not in out and code != "en":
                    continue
                text = clean_text(row["text"])
                outcome = judge.outcome(row, text, aligned=aligned)
                if code in out:
                    counts[code][outcome] += 1
                    if outcome == "kept":
                        out[code].write(json_line({"id": row["id"], "text": text, "source": row["source"]}))
    return counts
