"""GNOME's user and administrator guides (Debian `gnome-user-docs`, Mallard pages), aligned by page and block.

A translated page is used only when it has exactly as many blocks as the English one: the block number is the key.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path

import regex

from unibert.data.sources.base import Row, Source
from unibert.data.sources.packages import members
from unibert.languages import by_language

_PAGE = regex.compile(r"usr/share/help/([^/]+)/([^/]+/[^/]+)\.page")
_BLOCKS = frozenset({"p", "title", "desc", "cmd"})
_NOT_TEXT = frozenset({"credit", "revision", "include", "years", "license"})
_SPACE = regex.compile(r"\s+")


def _blocks(element: ET.Element) -> Iterator[str]:
    tag = element.tag.rpartition("}")[2]
    if tag in _NOT_TEXT:
        return
    if tag in _BLOCKS:
        yield _SPACE.sub(" ", "".join(element.itertext())).strip()
        return
    for child in element:
        yield from _blocks(child)


def page_blocks(page: bytes) -> list[str]:
    """Paragraphs, titles and descriptions of one Mallard page, in order; empty when it is not well-formed XML."""
    try:
        return list(_blocks(ET.fromstring(page)))
    except ET.ParseError:
        return []


def rows(packages: Sequence[Path]) -> Iterator[Row]:
    """Every block of every page whose translation has the blocks of the English page."""
    pages: dict[str, dict[str, list[str]]] = {}
    for package in packages:
        for name, content in members(package, lambda name: _PAGE.fullmatch(name) is not None):
            match = _PAGE.fullmatch(name)
            assert match is not None
            pages.setdefault("en" if match[1] == "C" else match[1], {})[match[2]] = page_blocks(content)
    english = pages.get("en", {})
    for code, locales in by_language(pages).items():
        for page, original in sorted(english.items()):
            whole = (pages[x][page] for x in locales if len(pages[x].get(page, ())) == len(original))
            for number, text in enumerate(next(whole, ())):
                yield Row(f"{page}.{number}", code, text)


SOURCE = Source(name="gnome-user-docs", kind="apt", packages=("gnome-user-docs",), licence="CC-BY-SA-3.0", rows=rows)
