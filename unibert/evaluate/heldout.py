"""The held-out text as evaluation reads it: parallel messages and single lines, from `<data.folder>/heldout`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unibert.data.lines import read_rows, stable_hash, text_key
from unibert.errors import DataError

ENGLISH = "en"
REMEDY = "remove data.folder's heldout/ and run the data stages again with --force"


@dataclass(frozen=True)
class Message:
    """One held-out message in several languages."""

    key: str
    texts: Mapping[str, str]


@dataclass(frozen=True)
class Heldout:
    """All held-out text of a recipe."""

    messages: Sequence[Message]
    lines: Mapping[str, Sequence[str]]
    """language -> texts."""
    sources: Mapping[str, int]
    """source -> held-out lines that come from it."""
    fingerprint: str
    """SHA-256 of the files."""


def read_heldout(folder: Path, *, languages: Sequence[str]) -> Heldout:
    """Read `<folder>/heldout`: the messages in English and `languages`, and the lines of `languages`.

    Raises:
        DataError: a file is missing, a row is damaged, or no message is in English.
    """
    messages = read_parallel(folder, languages=languages)
    digest = hashlib.sha256(_parallel_path(folder).read_bytes())
    lines: dict[str, list[str]] = {}
    sources: Counter[str] = Counter()
    for code in languages:
        path = folder / "heldout" / "lines" / f"{code}.jsonl"
        rows = list(read_rows(path))
        for number, row in enumerate(rows, start=1):
            if not isinstance(row.get("text"), str):
                raise DataError(f'{path}:{number}: a held-out line needs "text"; {REMEDY}')
        lines[code] = [row["text"] for row in rows]
        sources.update(str(row.get("source", "unknown")) for row in rows)
        digest.update(f"{code}\n".encode() + path.read_bytes())
    return Heldout(messages, lines, dict(sources.most_common()), digest.hexdigest())


def read_parallel(folder: Path, *, languages: Sequence[str]) -> list[Message]:
    """The messages of `<folder>/heldout/parallel.jsonl`, each with its texts in English and in `languages`.

    None of text whose sources have no aligned messages, as Wikipedia.

    Raises:
        DataError: the file is missing, a row is damaged, or no message is in English.
    """
    path = _parallel_path(folder)
    messages = []
    for number, row in enumerate(read_rows(path), start=1):
        key, texts = row.get("key"), row.get("texts")
        if not isinstance(key, str) or not isinstance(texts, dict):
            raise DataError(f'{path}:{number}: a message needs "key" and "texts"; {REMEDY}')
        messages.append(Message(key, {code: texts[code] for code in [ENGLISH, *languages] if texts.get(code)}))
    if messages and not any(ENGLISH in message.texts for message in messages):
        raise DataError(f"{path}: no message in English, and retrieval goes to and from English; {REMEDY}")
    return messages


def _parallel_path(folder: Path) -> Path:
    return folder / "heldout" / "parallel.jsonl"


def split_fraction(text: str) -> float:
    """A number in [0, 1) that only the text decides: equal texts fall on the same side of a split everywhere."""
    return stable_hash(text_key(text)) / 2**64
