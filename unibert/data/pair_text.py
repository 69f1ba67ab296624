"""Parallel text cleaned and by language pair: <data.folder>/pairs/<source>/<part>/<a>-<b>.tsv.

A line is a 16-digit hash of the pair of texts, and the two texts. Of a text in several languages every language is
paired with English; with each other only where there is no English. Words of dictionaries are only put in one form.
A part is read at once, recorded when it is complete, and not read again while what it comes from is the same.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from unibert.data.alignments import DICTIONARIES, Reading
from unibert.data.cleaning import RULES, clean_text, heldout_texts, reason_to_drop
from unibert.data.lines import file_sha256, finished, read_rows, say, stable_hash, text_key, write_json
from unibert.data.sources.base import Aligned, Skips
from unibert.errors import DataError
from unibert.schema import Recipe

FORMAT = 1
SECONDS_BETWEEN_LINES = 30.0
CHARACTERS_HELD = 1 << 22
"""Lines are written when so many characters of them have come together."""

Pair = tuple[str, str]


def pair_name(pair: Pair) -> str:
    """`de-en`."""
    return "-".join(pair)


def language_pairs(codes: Sequence[str], *, order: Mapping[str, int]) -> list[Pair]:
    """The pairs that a text in these languages gives: with English if it is among them, else each with each."""
    codes = sorted(codes, key=lambda code: order[code])
    return [pair for pair in combinations(codes, 2) if "en" in pair or "en" not in codes]


class Judge:
    """Says of texts whether they can be used: clean, and not held out."""

    def __init__(self, recipe: Recipe) -> None:
        folder = recipe.data.folder
        self.ids, parallel = heldout_texts(folder)
        files = (folder / "heldout" / "lines" / f"{code}.jsonl" for code in recipe.languages)
        lines = (row["text"] for file in files if file.is_file() for row in read_rows(file))
        self.keys = parallel | frozenset(map(text_key, lines))

    def reason(self, text: str, key: str, language: str) -> str | None:
        """Why a cleaned text is not used; None when it is fine."""
        return reason_to_drop(text, language) or ("heldout" if key in self.keys else None)


class _Spool:
    """Lines by language pair, appended to files in a folder, few of them held at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: dict[Pair, list[str]] = defaultdict(list)
        self.held = 0

    def add(self, pair: Pair, texts: tuple[str, str], keys: tuple[str, str]) -> None:
        line = f"{stable_hash(chr(0).join(keys)):016x}\t{texts[0]}\t{texts[1]}\n"
        self.lines[pair].append(line)
        self.held += len(line)
        if self.held > CHARACTERS_HELD:
            self.flush()

    def flush(self) -> None:
        for pair, lines in self.lines.items():
            with (self.folder / f"{pair_name(pair)}.tsv").open("a", encoding="utf-8") as file:
                file.writelines(lines)
        self.lines.clear()
        self.held = 0


def read(reading: Reading, recipe: Recipe, judge: Judge, *, force: bool = False) -> dict[str, Any]:
    """Make a part's folder unless it is there already; returns its stamp.

    The stamp has per language pair the file's checksum, pairs kept, and pairs dropped by reason; and what was skipped.

    Raises:
        DataError: naming the file and the place; or the disk is full.
    """
    folder = recipe.data.folder / "pairs" / reading.key
    settings = reading.settings() | {
        "spool": FORMAT,
        "rules": RULES,
        "heldout": stable_hash("\n".join(sorted(judge.keys | judge.ids))),
    }
    if not force and (done := finished(folder / "stamp.json", settings)) is not None:
        say(f"  {reading.key}: already read, {done['stamp']['kept']} pairs")
        return done["stamp"]
    started = time.monotonic()
    temporary = folder.with_name(f".{folder.name}.tmp")
    try:
        for old in (folder, temporary):
            shutil.rmtree(old, ignore_errors=True)
        temporary.mkdir(parents=True)
        stamp = _spool(reading, recipe, judge, temporary)
        write_json(temporary / "stamp.json", {"settings": settings, "stamp": stamp})
        temporary.rename(folder)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error}); check space and permissions, then run again"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    say(f"  {reading.key}: {stamp['kept']} pairs, skipped {stamp['said']}, {time.monotonic() - started:.0f} s")
    return stamp


def _spool(reading: Reading, recipe: Recipe, judge: Judge, folder: Path) -> dict[str, Any]:
    order = {code: place for place, code in enumerate(recipe.languages)}
    skips, spool = Skips(), _Spool(folder)
    counts: dict[Pair, Counter[str]] = defaultdict(Counter)
    use = _word_pairs if reading.table.kind in DICTIONARIES else _text_pairs
    said, number = time.monotonic(), 0
    for number, aligned in enumerate(reading.aligned(skips), start=1):
        for pair, outcome, texts, keys in use(aligned, judge, order):
            counts[pair][outcome] += 1
            if outcome == "kept":
                spool.add(pair, texts, keys)
        if time.monotonic() - said > SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            say(f"  {reading.key}: {number} texts so far")
    spool.flush()
    pairs = {}
    for pair, found in sorted(counts.items(), key=lambda entry: pair_name(entry[0])):
        file = folder / f"{pair_name(pair)}.tsv"
        dropped = {reason: found[reason] for reason in sorted(found) if reason != "kept"}
        entry = {"languages": list(pair), "kept": found["kept"], "dropped": dropped}
        pairs[pair_name(pair)] = entry | ({"sha256": file_sha256(file)} if found["kept"] else {})
    return {
        "kind": reading.table.kind,
        "licence": getattr(reading.table, "licence", "as the demo's sources"),
        "texts": number,
        "kept": sum(entry["kept"] for entry in pairs.values()),
        "pairs": pairs,
        "skipped": skips.as_json(),
        "said": str(skips),
    }


Outcome = tuple[Pair, str, tuple[str, str], tuple[str, str]]


def _text_pairs(aligned: Aligned, judge: Judge, order: Mapping[str, int]) -> Iterator[Outcome]:
    """(language pair, `kept` or why it is dropped, texts, text keys) of every pair in an aligned text."""
    texts = {code: clean_text(text) for code, text in aligned.texts.items()}
    keys = {code: text_key(text) for code, text in texts.items()}
    is_held = aligned.id in judge.ids
    reasons = {code: judge.reason(text, keys[code], code) for code, text in texts.items()}
    for pair in language_pairs(list(texts), order=order):
        a, b = pair
        outcome = "heldout" if is_held else reasons[a] or reasons[b] or ("same" if keys[a] == keys[b] else "kept")
        yield pair, outcome, (texts[a], texts[b]), (keys[a], keys[b])


def _word_pairs(aligned: Aligned, judge: Judge, order: Mapping[str, int]) -> Iterator[Outcome]:
    """As _text_pairs, of a dictionary: a word may be short, and the same in both languages."""
    words = {code: clean_text(text) for code, text in aligned.texts.items()}
    for pair in language_pairs(list(words), order=order):
        a, b = pair
        yield pair, "kept" if words[a] and words[b] else "empty", (words[a], words[b]), (words[a], words[b])
