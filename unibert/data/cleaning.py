"""Clean the raw text: one form of Unicode, no markup, only rows that are text in the language's own script.

raw/<source>.jsonl -> cleaned/<language>.jsonl. Every dropped row is counted under its reason. Rows of the held-out
parallel part (by key and by text, in every source and language) go no further than here.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from unibert import languages
from unibert.data import corpora, fetch
from unibert.data.curation.prose import RULES, reason_to_drop
from unibert.data.curation.unicode import clean_text
from unibert.data.lines import atomic, file_sha256, finished, json_line, read_json, read_rows, say, text_key, write_json
from unibert.schema import Recipe


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
