"""The Quran and ten translations (npm `quran-json`), aligned by sura and verse."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import regex

from unibert.data.sources.base import Row, Source
from unibert.data.sources.packages import members

# quran.json is the Arabic text; quran_xx.json carries it too, beside the translation
_FILE = regex.compile(r"package/dist/quran(?:_(bn|en|es|fr|id|ru|sv|tr|ur|zh))?\.json")
_FOOTNOTE = regex.compile(r"\[\d+\]|\(\d+\)|\d+$|[\[\]]")  # brackets enclose the translators' additions


def rows(packages: Sequence[Path]) -> Iterator[Row]:
    """Every verse in every language; footnote numbers and brackets are taken out."""
    books: dict[str, bytes] = {}
    for package in packages:
        for name, content in members(package, lambda name: _FILE.fullmatch(name) is not None):
            match = _FILE.fullmatch(name)
            assert match is not None
            books[match[1] or "ar"] = content
    for code in sorted(books, key=lambda code: (code != "en", code)):
        field = "text" if code == "ar" else "translation"
        for sura in json.loads(books[code]):
            for verse in sura["verses"]:
                yield Row(f"{sura['id']}:{verse['id']}", code, _FOOTNOTE.sub("", verse[field]).strip())


SOURCE = Source(name="quran", kind="npm", packages=("quran-json@3.1.2",), licence="CC-BY-SA-4.0", rows=rows)
