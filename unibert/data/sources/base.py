"""The interface of a source of text: which packages it needs and how their bytes become rows."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import regex

from unibert.languages import script_of

DENSE_SCRIPTS = frozenset({"Hans", "Hant", "Jpan", "Kore"})
"""Scripts whose letters are syllables or words."""

_TAG = regex.compile(r"<[^>]{1,300}>")
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

    `packages` are names (apt: patterns with a final `*` are allowed; npm: name@version) and `rows` turns the package
    files, in the order of their names, into rows in the languages of languages.py, those in English first (cleaning
    knows a message that was left in English by this).
    """

    name: str
    kind: Literal["apt", "npm"]
    packages: tuple[str, ...]
    licence: str
    rows: Callable[[Sequence[Path]], Iterator[Row]]


def minimum_characters(language: str) -> int:
    """Shortest text that is used: 20 characters, 8 in dense scripts."""
    return 8 if script_of(language) in DENSE_SCRIPTS else 20


def plain_text(markup: str) -> str:
    """Text of an HTML fragment: tags dropped, entities decoded, white space collapsed."""
    if "<" in markup or "&" in markup:
        markup = html.unescape(_TAG.sub(" ", markup))
    return _SPACE.sub(" ", markup).strip()


def merge(locales: Sequence[str], texts: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """One language's messages from several locales of it: the first locale that has a key gives its text."""
    merged: dict[str, str] = {}
    for locale in locales:
        for key, text in texts[locale].items():
            merged.setdefault(key, text)
    return merged
