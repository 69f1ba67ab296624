"""LibreOffice's help (Debian `libreoffice-help-*`, HTML pages), aligned by page and paragraph id.

A package is one language; its pages are read one at a time. The Slovak package is Czech, so it is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import regex

from unibert.data.sources.base import Row, Source, inline_text
from unibert.data.sources.packages import members
from unibert.languages import by_language

_PACKAGE = regex.compile(r"libreoffice-help-([a-z]+(?:-[a-z]+)?)_")
_PAGE = regex.compile(r"usr/share/libreoffice/help/[^/]+/text/(.+)\.html")
_PARAGRAPH = regex.compile(r'<(p|h\d)\b[^>]* id="([^"]+)"[^>]*>(.*?)</\1>', regex.DOTALL)
# What is shown for another system or another application than the default one; such a span may hold spans.
_VARIANT = regex.compile(
    r'<span hidden="true"[^>]* class="[^>]*>(?P<in>(?:[^<]++|<span\b[^>]*>(?&in)</span>|<(?!/?span\b))*+)</span>'
)


def paragraphs(page: str) -> Iterator[tuple[str, str]]:
    """(paragraph id, text) of one page of help, in order; the first of an id that stands there twice."""
    seen: set[str] = set()
    for _, key, content in _PARAGRAPH.findall(page):
        if key not in seen and (text := inline_text(_VARIANT.sub("", content))):
            seen.add(key)
            yield key, text


def rows(packages: Sequence[Path]) -> Iterator[Row]:
    """Every paragraph of every page; of a language with two packages the second gives the pages the first lacks."""
    files = {match[1]: package for package in packages if (match := _PACKAGE.match(package.name))}
    for code, tags in by_language(files).items():
        done: set[str] = set()
        for tag in tags:
            for name, content in members(files[tag], lambda name: _PAGE.fullmatch(name) is not None):
                page = _PAGE.fullmatch(name)
                assert page is not None
                if page[1] in done:
                    continue
                done.add(page[1])
                for key, text in paragraphs(content.decode("utf-8", errors="replace")):
                    yield Row(f"{page[1]}#{key}", code, text)


# Of the Dzongkha, Oromo and British English packages nothing would be used.
_UNWANTED = ("common", "sk", "dz", "om", "en-gb")
SOURCE = Source(
    name="libreoffice-help",
    kind="apt",
    packages=("libreoffice-help-*", *(f"!libreoffice-help-{name}" for name in _UNWANTED)),
    licence="MPL-2.0",
    rows=rows,
)
