"""The interfaces of a source of text: packages whose bytes become aligned rows, and corpora that yield documents."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import regex

from unibert.languages import script_of

DENSE_SCRIPTS = frozenset({"Hans", "Hant", "Jpan", "Kore"})
"""Scripts whose letters are syllables or words."""

MAXIMUM_CHARACTERS = 2000
"""Longest text of a row."""

_TAG = regex.compile(r"<[^>]{1,300}>")
_LINE_BREAK = regex.compile(r"<(?:br|lb)\b[^>]*>")
_SPACE = regex.compile(r"\s+")


@dataclass(frozen=True)
class Row:
    """One message, paragraph or verse. `key` is the same in every language of the source when it is the same text."""

    key: str
    language: str
    text: str


@dataclass(frozen=True)
class Source:
    """One source.

    `packages` are names (apt: patterns with a final `*`, and `!name` for what such a pattern must not take; npm:
    name@version; pypi: name==version; apt_lists: tags of the languages of apt's descriptions) and `rows` turns the
    files, in the order of their names, into rows in the languages of languages.py, those in English first (cleaning
    knows a message that was left in English by this).
    """

    name: str
    kind: Literal["apt", "apt_lists", "npm", "pypi"]
    packages: tuple[str, ...]
    licence: str
    rows: Callable[[Sequence[Path]], Iterator[Row]]


class Document(NamedTuple):
    """One document of a corpus. `id` is its own within source and language; paragraphs are lines of `text`."""

    language: str
    id: str
    title: str
    text: str
    licence: str


@dataclass(frozen=True)
class Aligned:
    """Texts that say the same, by language; `id` is its own within the source."""

    id: str
    texts: Mapping[str, str]
    licence: str


@dataclass(frozen=True)
class Part:
    """What of a corpus is read, and read again, at once: a file as a rule.

    `languages` are those that are wanted; `language` is that of the whole part, None where each record says its own.
    """

    name: str
    files: tuple[Path, ...]
    language: str | None
    languages: tuple[str, ...]


@dataclass(frozen=True)
class Reading:
    """One part of one source, and by what it is known again."""

    table: Any
    """The source's, of source_tables.py or parallel_tables.py."""
    part: Part
    about: Mapping[str, Any]
    """What else its text depends on."""

    @property
    def key(self) -> str:
        """Name in manifests and reports, and of what is made of it."""
        return f"{self.table.name}/{self.part.name}"

    def settings(self) -> dict[str, Any]:
        """What the text depends on; a file is taken to be the same while its size and time are."""
        stats = [(path, path.stat()) for path in self.part.files]
        return {
            **self.about,
            "table": self.table.model_dump(mode="json", exclude_none=True),
            "files": [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats],
        }


class Skips:
    """Counts what was left out of a part by reason, and remembers where each reason came up first."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def add(self, reason: str, place: str) -> None:
        """Count one; `place` is `file:line`, a title or an id."""
        self.counts[reason] += 1
        self.first.setdefault(reason, place)

    def as_json(self) -> dict[str, dict[str, int | str]]:
        """For the part's stamp."""
        return {reason: {"count": self.counts[reason], "first": self.first[reason]} for reason in sorted(self.counts)}

    def __str__(self) -> str:
        found = sorted(self.counts.items())
        return "; ".join(f"{count} {reason} (first at {self.first[reason]})" for reason, count in found) or "nothing"


def minimum_characters(language: str) -> int:
    """Shortest text that is used: 20 characters, 8 in dense scripts."""
    return 8 if script_of(language) in DENSE_SCRIPTS else 20


def plain_text(markup: str) -> str:
    """Text of an HTML fragment: tags dropped, entities decoded, white space collapsed."""
    if "<" in markup or "&" in markup:
        markup = html.unescape(_TAG.sub(" ", markup))
    return _SPACE.sub(" ", markup).strip()


def inline_text(markup: str) -> str:
    """Text of an HTML or XML fragment whose tags stand within words and sentences: as plain_text, with no space left.

    A line break becomes a space.
    """
    if "<" in markup or "&" in markup:
        markup = html.unescape(_TAG.sub("", _LINE_BREAK.sub(" ", markup)))
    return _SPACE.sub(" ", markup).strip()


def merge(locales: Sequence[str], texts: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """One language's messages from several locales of it: the first locale that has a key gives its text."""
    merged: dict[str, str] = {}
    for locale in locales:
        for key, text in texts[locale].items():
            merged.setdefault(key, text)
    return merged
