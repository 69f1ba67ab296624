"""WordPress's interface (Debian `wordpress-l10n`, compiled gettext catalogues), aligned by the English message."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import regex

from unibert.data.sources.base import Row, Source, merge, plain_text
from unibert.data.sources.packages import members
from unibert.errors import DataError
from unibert.languages import by_language

_PARTS = regex.compile(r"^(?:admin-network|admin|continents-cities)-")
# Burmese and Sinhala there are typed as they look, the vowel before its consonant: not text by Unicode's rules.
_BROKEN = frozenset({"my_MM", "si_LK"})
_MAGIC = 0x950412DE


def read_mo(content: bytes, *, name: str) -> dict[str, str]:
    """Message -> translation of a GNU .mo file (gettext manual, "MO Files"); plural forms and the header left out.

    Layout: magic, revision, count, offset of the originals' table, offset of the translations' table; each table has
    (length, offset) pairs of 32 bits.
    """
    order = "<" if content[:4] == struct.pack("<I", _MAGIC) else ">"
    try:
        magic, _, count, originals, translations = struct.unpack_from(f"{order}5I", content)
        if magic != _MAGIC:
            raise ValueError("wrong magic number")
        table = {}
        for index in range(count):
            pair = []
            for start in (originals, translations):
                length, offset = struct.unpack_from(f"{order}2I", content, start + 8 * index)
                pair.append(content[offset : offset + length].decode())
            if pair[0] and "\0" not in pair[0]:
                table[pair[0].rpartition("\4")[2]] = pair[1]  # what precedes \4 is the context
        return table
    except (struct.error, ValueError) as error:
        raise DataError(f"{name}: not a gettext catalogue ({error})") from error


def rows(packages: Sequence[Path]) -> Iterator[Row]:
    """Every translated message; the English text of a key is the message itself."""
    texts: dict[str, dict[str, str]] = {}
    for package in packages:
        for name, content in members(package, lambda name: name.endswith(".mo")):
            locale = _PARTS.sub("", PurePosixPath(name).stem)
            if locale in _BROKEN:
                continue
            texts.setdefault(locale, {}).update(read_mo(content, name=name))
    texts["en"] = {message: message for table in texts.values() for message in table}
    for code, locales in by_language(texts).items():
        for message, text in sorted(merge(locales, texts).items()):
            key = hashlib.blake2b(message.encode(), digest_size=6).hexdigest()
            yield Row(key, code, plain_text(text))


SOURCE = Source(name="wordpress", kind="apt", packages=("wordpress-l10n",), licence="GPL-2+", rows=rows)
