"""Bibles in SWORD's format (Debian `sword-text-*`), in the public domain, aligned by book, chapter and verse.

The World English Bible is aligned with the Reina-Valera of 1909; the King James Version, a second English text, has
keys of its own. A module has for each testament three files (SWORD project, zText): .bzz, zlib blocks of the text;
.bzs, (offset, size, size when unpacked) of each block; .bzv, (block, offset within it, length) of each verse in 4, 4
and 2 bytes, all little-endian. The entry before a chapter's first verse holds the chapter's OSIS mark.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import regex

from unibert.data.sources.base import Row, Source, inline_text
from unibert.data.sources.packages import members
from unibert.errors import DataError

# package -> (language, what stands before its keys)
_PACKAGES = {"sword-text-web": ("en", ""), "sword-text-kjv": ("en", "kjv:"), "sword-text-sparv": ("es", "")}
_CHAPTER = regex.compile(r'<chapter\b[^>]*\bosisID="([^"]+)"[^>]*\bsID=')
_NOT_VERSE = regex.compile(r"<(note|title|rdg)\b[^>]*(?<!/)>.*?</\1>", regex.DOTALL)
_SPACE_BEFORE_MARK = regex.compile(r"\s+(?=[,.;:!?’”»)])")


def entries(files: Mapping[str, bytes]) -> Iterator[str]:
    """Every entry of one testament, in order; `files` maps bzz, bzs and bzv to their bytes."""
    unpacked, at = b"", -1
    for block, offset, length in struct.iter_unpack("<IIH", files["bzv"]):
        if block != at and length:
            start, size, _ = struct.unpack_from("<III", files["bzs"], 12 * block)
            unpacked, at = zlib.decompress(files["bzz"][start : start + size]), block
        yield unpacked[offset : offset + length].decode() if length else ""


def verses(files: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """(`Gen.1.1`, text) of every verse of one testament, without notes and headings."""
    chapter, number = "", 0
    for entry in entries(files):
        number += 1
        mark = _CHAPTER.search(entry)
        verse = entry if mark is None else entry[: mark.start()]
        if chapter and (text := inline_text(_NOT_VERSE.sub(" ", verse))) and mark is None:
            yield f"{chapter}.{number}", _SPACE_BEFORE_MARK.sub("", text)
        if mark is not None:
            chapter, number = mark[1], 0


def rows(packages: Sequence[Path]) -> Iterator[Row]:
    """Every verse of every text, English first."""
    found = sorted((_PACKAGES[package.name.partition("_")[0]], package) for package in packages)
    for (code, prefix), package in found:
        parts: dict[str, dict[str, bytes]] = {}
        for name, content in members(package, lambda name: name[-4:] in (".bzz", ".bzs", ".bzv")):
            path = PurePosixPath(name)
            parts.setdefault(path.stem, {})[path.suffix[1:]] = content
        try:
            for key, text in (pair for _, files in sorted(parts.items(), reverse=True) for pair in verses(files)):
                yield Row(prefix + key, code, text)
        except (KeyError, ValueError, struct.error, zlib.error) as error:
            raise DataError(f"{package}: not a zText module ({error!r}); delete it and fetch again") from error


SOURCE = Source(name="sword", kind="apt", packages=tuple(_PACKAGES), licence="public domain", rows=rows)
