"""Parallel text cleaned and by language pair: <data.folder>/pairs/<source>/<part>/<a>-<b>.tsv.

A line is a 16-digit hash of the pair of texts, and the two texts. Of a text in several languages every language is
paired with English; with each other only where there is no English. Words of dictionaries are only put in one form.
A part is a task, and not read again while what it comes from is the same.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, combinations, islice
from pathlib import Path
from typing import Any

import numpy as np

from unibert.data import alignments
from unibert.data.alignments import DICTIONARIES
from unibert.data.curation.prose import RULES, reason_to_drop
from unibert.data.curation.unicode import clean_text
from unibert.data.kept_out import KeptOut, evaluation_index, heldout_texts
from unibert.data.lines import file_sha256, say, stable_hash, text_key
from unibert.data.sources.base import Aligned, Reading, Skips
from unibert.data.work import Done, Task
from unibert.errors import DataError
from unibert.schema import Recipe

FORMAT = 1
SECONDS_BETWEEN_LINES = 30.0
CHARACTERS_HELD = 1 << 22
"""Lines are written when so many characters of them have come together."""
TEXTS_AT_ONCE = 256
"""Aligned texts that are judged together."""

Pair = tuple[str, str]


def pair_name(pair: Pair) -> str:
    """`de-en`."""
    return "-".join(pair)


def language_pairs(codes: Sequence[str], *, order: Mapping[str, int]) -> list[Pair]:
    """The pairs that a text in these languages gives: with English if it is among them, else each with each."""
    codes = sorted(codes, key=lambda code: order[code])
    return [pair for pair in combinations(codes, 2) if "en" in pair or "en" not in codes]


@dataclass(frozen=True)
class PartText:
    """What one task reads: a part, into a folder."""

    reading: Reading
    languages: tuple[str, ...]
    """The recipe's, which order the two of a pair."""
    out: KeptOut
    folder: Path


def task(reading: Reading, recipe: Recipe, out: KeptOut) -> Task:
    """The task of reading a part."""
    settings = reading.settings() | out.settings() | {"spool": FORMAT, "rules": RULES}
    # The part's languages alone, so that one more in the recipe does not read everything again.
    settings["order"] = [code for code in recipe.languages if code in reading.part.languages]
    folder = recipe.data.folder / "pairs" / reading.key
    return Task(reading.key, settings, PartText(reading, recipe.languages, out, folder))


class Judge:
    """Says of texts whether they can be used: clean, neither held out nor of an evaluation set."""

    def __init__(self, out: KeptOut) -> None:
        self.ids, _ = heldout_texts(out.folder)
        self.keys = frozenset(map(text_key, out.texts()))
        self.index = evaluation_index(out.evaluation) if out.evaluation else None

    def reason(self, text: str, key: str, language: str) -> str | None:
        """Why a cleaned text is not used, by itself; None when it is fine."""
        return reason_to_drop(text, language) or ("heldout" if key in self.keys else None)

    def of_evaluation_sets(self, keys: Iterable[str]) -> set[str]:
        """Those of the text keys that say what an evaluation text says."""
        if self.index is None:
            return set()
        different = list(dict.fromkeys(keys))
        return {different[place] for place in np.flatnonzero(self.index.hits(different))}


@lru_cache(maxsize=1)
def judge_of(out: KeptOut) -> Judge:
    """The judge of a process, kept from part to part."""
    return Judge(out)


class _Spool:
    """Lines by language pair, appended to files in a folder, few of them held at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: dict[Pair, list[str]] = defaultdict(list)
        self.held = 0
        self.begun: dict[Pair, Path] = {}

    def add(self, pair: Pair, texts: tuple[str, str], keys: tuple[str, str]) -> None:
        line = f"{stable_hash(chr(0).join(keys)):016x}\t{texts[0]}\t{texts[1]}\n"
        self.lines[pair].append(line)
        self.held += len(line)
        if self.held > CHARACTERS_HELD:
            self._flush()

    def _flush(self) -> None:
        for pair, lines in self.lines.items():
            mode = "a" if pair in self.begun else "w"
            path = self.begun.setdefault(pair, self.folder / f".{pair_name(pair)}.tsv.{os.getpid()}.tmp")
            with path.open(mode, encoding="utf-8") as file:
                file.writelines(lines)
        self.lines.clear()
        self.held = 0

    def finish(self) -> dict[str, Path]:
        """Give the files their names, and remove those of an earlier reading; the files by name of their pair."""
        self._flush()
        files = {}
        for pair, temporary in self.begun.items():
            files[pair_name(pair)] = path = self.folder / f"{pair_name(pair)}.tsv"
            os.replace(temporary, path)
        for path in set(self.folder.glob("*.tsv")) - set(files.values()):
            path.unlink()
        return files

    def remove(self) -> None:
        """Leave nothing that has no name yet."""
        for temporary in self.begun.values():
            temporary.unlink(missing_ok=True)


def read(job: PartText) -> Done:
    """Make a part's files.

    The result has per language pair the file's checksum, pairs kept, and pairs dropped by reason; and what was skipped.

    Raises:
        DataError: naming the file and the place; or the disk is full.
    """
    started, spool, skips = time.monotonic(), _Spool(job.folder), Skips()
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        number, counts = _spool(job, spool, skips)
        files = spool.finish()
    except OSError as error:
        raise DataError(
            f"{job.folder}: cannot be written ({error}); check space and permissions, then run again"
        ) from error
    finally:
        spool.remove()
    pairs = {pair_name(pair): _entry(pair, found, files) for pair, found in sorted(counts.items())}
    table = job.reading.table
    stamp = {
        "kind": table.kind,
        "licence": getattr(table, "licence", "as the demo's sources"),
        "texts": number,
        "pairs": pairs,
        "skipped": skips.as_json(),
    }
    kept = sum(entry["kept"] for entry in pairs.values())
    say(f"  {job.reading.key}: {kept} pairs, skipped {skips}, {time.monotonic() - started:.0f} s")
    return Done(stamp, tuple(files.values()))


def _spool(job: PartText, spool: _Spool, skips: Skips) -> tuple[int, dict[Pair, Counter[str]]]:
    """(texts read, what became of each language pair's)."""
    order = {code: place for place, code in enumerate(job.languages)}
    judge = judge_of(job.out)
    counts: dict[Pair, Counter[str]] = defaultdict(Counter)
    use = _word_pairs if job.reading.table.kind in DICTIONARIES else _text_pairs
    said, number = time.monotonic(), 0
    found = alignments.read(job.reading, skips)
    for batch in iter(lambda: list(islice(found, TEXTS_AT_ONCE)), []):
        number += len(batch)
        for pair, outcome, texts, keys in use(batch, judge, order):
            counts[pair][outcome] += 1
            if outcome == "kept":
                spool.add(pair, texts, keys)
        if time.monotonic() - said > SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            say(f"  {job.reading.key}: {number} texts so far")
    return number, counts


def _entry(pair: Pair, found: Counter[str], files: Mapping[str, Path]) -> dict[str, Any]:
    dropped = {reason: found[reason] for reason in sorted(found) if reason != "kept"}
    entry = {"languages": list(pair), "kept": found["kept"], "dropped": dropped}
    return entry | ({"sha256": file_sha256(files[pair_name(pair)])} if found["kept"] else {})


Outcome = tuple[Pair, str, tuple[str, str], tuple[str, str]]


def _text_pairs(batch: Sequence[Aligned], judge: Judge, order: Mapping[str, int]) -> Iterator[Outcome]:
    """(language pair, `kept` or why it is dropped, texts, text keys) of every pair in aligned texts."""
    cleaned = [{code: clean_text(text) for code, text in aligned.texts.items()} for aligned in batch]
    keyed = [{code: text_key(text) for code, text in texts.items()} for texts in cleaned]
    tests = judge.of_evaluation_sets(chain.from_iterable(keys.values() for keys in keyed))
    for aligned, texts, keys in zip(batch, cleaned, keyed, strict=True):
        is_held = aligned.id in judge.ids
        reasons = {code: judge.reason(text, keys[code], code) for code, text in texts.items()}
        reasons = {code: reason or ("evaluation" if keys[code] in tests else None) for code, reason in reasons.items()}
        for pair in language_pairs(list(texts), order=order):
            a, b = pair
            outcome = "heldout" if is_held else reasons[a] or reasons[b] or ("same" if keys[a] == keys[b] else "kept")
            yield pair, outcome, (texts[a], texts[b]), (keys[a], keys[b])


def _word_pairs(batch: Sequence[Aligned], _: Judge, order: Mapping[str, int]) -> Iterator[Outcome]:
    """As _text_pairs, of a dictionary: a word may be short, and the same in both languages."""
    for aligned in batch:
        words = {code: clean_text(text) for code, text in aligned.texts.items()}
        for pair in language_pairs(list(words), order=order):
            a, b = pair
            yield pair, "kept" if words[a] and words[b] else "empty", (words[a], words[b]), (words[a], words[b])
