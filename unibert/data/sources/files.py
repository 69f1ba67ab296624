"""Files of a corpus: found by a pattern with `{language}`, opened by what they are, read by lines of bounded length."""

from __future__ import annotations

import bz2
import glob
import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from unibert.data.sources.base import Skips
from unibert.errors import DataError
from unibert.languages import code_of
from unibert.source_tables import LANGUAGE

LONGEST_LINE = 8 * 2**20
"""Bytes of the longest line that is read; what is longer is skipped and counted."""

_GLOB = re.compile(r"\*\*/|\*\*|\*|\?|\[[^]]+\]")
_BOM = b"\xef\xbb\xbf"


def find(pattern: str) -> list[tuple[Path, str | None]]:
    """(file, what stands for `{language}` in its path or None), by name; DataError when there is no file."""
    star = pattern.replace(LANGUAGE, "*")
    found = [star] if Path(star).is_file() else glob.glob(star, recursive=True)
    files = sorted(path for path in map(Path, found) if path.is_file())
    if not files:
        hint = "; it is a folder: add /* and an ending" if Path(pattern).is_dir() else ""
        raise DataError(f"{pattern}: no such file (from {Path.cwd()}){hint}")
    if LANGUAGE not in pattern:
        return [(path, None) for path in files]
    return [(path, tag) for path in files if (tag := _tag(pattern, path)) is not None]


def _tag(pattern: str, path: Path) -> str | None:
    """What stands for `{language}`: of two readings (`zh-hant-1`) the longer if it is a language, else the shorter."""
    tags = []
    for group in ("[^/]+", "[^/]+?"):
        first, *others = str(Path(pattern)).split(LANGUAGE)
        expression = f"{_expression(first)}(?P<language>{group})"
        expression += "(?P=language)".join(map(_expression, others))
        if match := re.fullmatch(expression, str(path)):
            tags.append(match["language"])
    return next((tag for tag in tags if code_of(tag)), tags[-1] if tags else None)


def _expression(part: str) -> str:
    """A regular expression for a piece of a glob pattern."""
    out, at = "", 0
    for match in _GLOB.finditer(part):
        known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
        out += re.escape(part[at : match.start()]) + known.get(match[0], match[0].replace("[!", "[^"))
        at = match.end()
    return out + re.escape(part[at:])


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, decompressed when it begins like gzip or bzip2 (several streams in a row too).

    DataError naming the file when it cannot be read, is damaged or cut off.
    """
    try:
        with path.open("rb") as file:
            head = file.read(3)
        opener = gzip.open if head[:2] == b"\x1f\x8b" else bz2.open if head == b"BZh" else open
        with opener(path, "rb") as stream:
            yield stream  # type: ignore[misc]
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path}: damaged or cut off ({error}); get it again") from error


def refuse_utf16(path: Path, head: bytes) -> None:
    """DataError naming the file when its first bytes are UTF-16's mark."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}: is UTF-16; make it UTF-8 (iconv -f UTF-16 -t UTF-8)")


def lines(path: Path, skips: Skips) -> Iterator[tuple[int, str]]:
    """(number from 1, text without its end) of every line that is valid UTF-8 without NUL and not too long.

    The others are skipped and counted. Memory is bounded by LONGEST_LINE, whatever the file.
    """
    for number, line in all_lines(path, skips):
        if line is not None:
            yield number, line


def all_lines(path: Path, skips: Skips) -> Iterator[tuple[int, str | None]]:
    """As `lines`, with None for the text of those that are skipped."""
    number = 0
    with opened(path) as stream:
        while raw := stream.readline(LONGEST_LINE + 1):
            number += 1
            if number == 1:
                refuse_utf16(path, raw)
                raw = raw.removeprefix(_BOM)
            if len(raw) > LONGEST_LINE:
                skips.add("line too long", f"{path}:{number}")
                while raw and not raw.endswith(b"\n"):
                    raw = stream.readline(2**16)
                yield number, None
            elif b"\0" in raw:
                skips.add("line with NUL bytes", f"{path}:{number}")
                yield number, None
            elif (text := _decoded(raw)) is None:
                skips.add("line that is not UTF-8", f"{path}:{number}")
                yield number, None
            else:
                yield number, text.rstrip("\r\n")


def _decoded(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None
