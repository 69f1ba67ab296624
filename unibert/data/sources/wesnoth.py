"""The texts of the game Battle for Wesnoth (Debian `wesnoth-1.16-data`, gettext catalogues), aligned by message."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import regex

from unibert.data.sources.base import Row, Source, merge, plain_text
from unibert.data.sources.packages import members
from unibert.data.sources.wordpress import read_mo
from unibert.languages import by_language, code_of

_FILE = regex.compile(r"usr/share/games/wesnoth/[^/]+/locale/([^/]+)/LC_MESSAGES/([^/]+)\.mo")
_CONTEXT = regex.compile(r"^[^\^]*\^")


def _is_catalogue(name: str) -> bool:
    match = _FILE.fullmatch(name)
    return match is not None and code_of(match[1]) is not None


def rows(packages: Sequence[Path]) -> Iterator[Row]:
    """Every translated message; the English text of a key is the message itself, without its context (`context^`)."""
    texts: dict[str, dict[str, str]] = {}
    for package in packages:
        for name, content in members(package, _is_catalogue):
            match = _FILE.fullmatch(name)
            assert match is not None
            table = texts.setdefault(match[1], {})
            for message, text in read_mo(content, name=name).items():
                table[sys.intern(message)] = text
    texts["en"] = {message: _CONTEXT.sub("", message) for table in texts.values() for message in table}
    for code, locales in by_language(texts).items():
        for message, text in sorted(merge(locales, texts).items()):
            key = hashlib.blake2b(message.encode(), digest_size=6).hexdigest()
            yield Row(key, code, plain_text(text))


SOURCE = Source(name="wesnoth", kind="apt", packages=("wesnoth-1.16-data",), licence="GPL-2+", rows=rows)
