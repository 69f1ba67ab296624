"""FreeDict's dictionaries: dictd files, TEI files, or Debian's packages of the former. Licence: GPL, by dictionary.

A dictd index has a line for each headword: word, offset and length of its entry, in base 64 (RFC 2229's appendix has
no more on it). An entry is a headword line, then a line a sense; pronunciation, grammar, notes, examples and references
to other entries are left out.
"""

from __future__ import annotations

import gzip
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from unibert.data.sources import files
from unibert.data.sources.base import Aligned, Part, Skips
from unibert.data.sources.packages import members
from unibert.errors import DataError
from unibert.languages import code_of
from unibert.parallel_tables import Freedict

LONGEST = 60
"""Characters of the longest headword or translation that is taken: what is longer explains rather than translates."""
_DIGITS = {
    digit: value for value, digit in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
}
_LENGTH_BITS = 24
_ISO_639_3 = """
afr af, ara ar, ast ast, aze az, bel be, ben bn, bos bs, bre br, bul bg, cat ca, ces cs, cym cy, dan da, deu de, ell el,
eng en, est et, eus eu, fas fa, fin fi, fra fr, fry fy, gle ga, glg gl, guj gu, heb he, hin hi, hrv hr, hun hu, hye hy,
ind id, isl is, ita it, jpn ja, kan kn, kat ka, kaz kk, kor ko, lat la, lav lv, lit lt, ltz lb, mal ml, mar mr, mkd mk,
mlg mg, msa ms, nds nds, nep ne, nld nl, nno nn, nob nb, nor nb, oci oc, pan pa, pol pl, por pt, ron ro, rus ru,
scn scn, sin si, slk sk, slv sl, spa es, sqi sq, srp sr, swe sv, swh sw, tam ta, tel te, tgl tl, tha th, tur tr, ukr uk,
urd ur, uzb uz, vie vi, yor yo, zho zh
"""
CODES = {pair.split()[0]: pair.split()[1] for pair in _ISO_639_3.split(",")}
_NAME = re.compile(r"(?:.*freedict-)?([a-z]{2,3})-([a-z]{2,3})(?=[._]|$)")
_ASIDE = re.compile(r"/[^/\n]*/|<[^>]*>|\[[^]]*\]|\([^()]*(?:\([^()]*\)[^()]*)*\)")
_NUMBER = re.compile(r"^\d+\.\s*")
_SEPARATOR = re.compile(r"[,;、]\s*")
_TEI = "{http://www.tei-c.org/ns/1.0}"


def languages_of(path: Path) -> tuple[str, str] | None:
    """(language of the entries, of their translations) by a file's name; None when they are not in languages.py."""
    match = _NAME.match(path.name)
    source, target = (CODES.get(tag) or code_of(tag) for tag in match.groups()) if match else (None, None)
    return (source, target) if source and target else None


def aligned(table: Freedict, part: Part, skips: Skips) -> Iterator[Aligned]:
    """Every (headword, translation) of a dictionary; DataError when it is damaged or cut off."""
    (path,), (source, target) = part.files, part.languages
    for number, (headwords, translations) in enumerate(_entries(path), start=1):
        if not headwords or not translations:
            skips.add("entry without a plain translation", f"{path}: entry {number}")
        for index, (word, translation) in enumerate((w, t) for w in headwords for t in translations):
            yield Aligned(f"{part.name}:{number}.{index}", {source: word, target: translation}, table.licence)


def _entries(path: Path) -> Iterator[tuple[list[str], list[str]]]:
    if path.suffix == ".deb":
        found = {Path(name).suffix: content for name, content in members(path, lambda name: "/dictd/" in name)}
        if not {".index", ".dz"} <= found.keys():
            raise DataError(f"{path}: holds no dictionary (.index and .dict.dz)")
        with gzip.open(io.BytesIO(found[".dz"])) as text:
            yield from map(parse_entry, dictd(found[".index"].splitlines(), text, path=path))  # type: ignore[arg-type]
    elif ".tei" in path.suffixes:
        with files.opened(path) as stream:
            yield from tei(stream, path=path)
    else:
        index = path.with_name(path.name.removesuffix(".dz").removesuffix(".dict") + ".index")
        if not index.is_file():
            raise DataError(f"{index}: no such file; the index belongs beside {path}")
        with index.open("rb") as lines, files.opened(path) as text:
            yield from map(parse_entry, dictd(lines, text, path=path))


def dictd(index: Iterable[bytes], text: IO[bytes], *, path: Path) -> Iterator[str]:
    """Every entry of a dictd dictionary once, in the order of the text; `path` is for errors."""
    spans: list[int] = []
    for number, line in enumerate(index, start=1):
        try:
            word, offset, length = line.decode().rstrip("\n").split("\t")[:3]
            if not word.startswith(("00database", "00-database")):
                spans.append(_number(offset) << _LENGTH_BITS | _number(length))
        except (ValueError, KeyError) as error:
            raise DataError(f"{path}: its index is no dictd index (line {number}: {error!r})") from error
    at = 0
    for span in np.unique(np.array(spans, dtype=np.uint64)).tolist():
        offset, length = span >> _LENGTH_BITS, span & ((1 << _LENGTH_BITS) - 1)
        if offset < at:
            continue  # within the entry before
        text.read(offset - at)
        entry = text.read(length)
        if len(entry) != length:
            raise DataError(f"{path}: cut off, byte {offset + length} is in its index")
        at = offset + length
        yield entry.decode("utf-8", errors="replace")


def _number(digits: str) -> int:
    value = 0
    for digit in digits:
        value = value * 64 + _DIGITS[digit]
    return value


def parse_entry(entry: str) -> tuple[list[str], list[str]]:
    """(headwords, translations) of one entry of a dictd dictionary made from FreeDict's TEI."""
    head, _, body = entry.partition("\n")
    translations: list[str] = []
    for line in body.splitlines():
        if not line.startswith(("  ", " see:", "\t")):  # notes, examples and references are indented
            translations += _words(_NUMBER.sub("", line))
    return list(dict.fromkeys(_words(head))), list(dict.fromkeys(translations))


def _words(line: str) -> list[str]:
    words = (" ".join(word.split()) for word in _SEPARATOR.split(_ASIDE.sub(" ", line)))
    return [word for word in words if 0 < len(word) <= LONGEST and not set(word) & set('{}()<>[]"/')]


def tei(stream: IO[bytes], *, path: Path) -> Iterator[tuple[list[str], list[str]]]:
    """(headwords, translations) of every entry of a TEI file, read entry by entry."""
    try:
        parents: list[ET.Element] = []
        for event, element in ET.iterparse(stream, events=("start", "end")):
            if event == "start":
                parents.append(element)
                continue
            parents.pop()
            if element.tag.removeprefix(_TEI) == "entry":
                quotes = (cit.iter() for cit in element.iter() if cit.get("type") in ("trans", "translation"))
                found = [item for items in quotes for item in items if item.tag.removeprefix(_TEI) == "quote"]
                orths = [item for item in element.iter() if item.tag.removeprefix(_TEI) == "orth"]
                heads, translations = (
                    [w for i in part for w in _words("".join(i.itertext()))] for part in (orths, found)
                )
                yield list(dict.fromkeys(heads)), list(dict.fromkeys(translations))
                if parents:
                    parents[-1].clear()
    except ET.ParseError as error:
        raise DataError(f"{path}: not well-formed TEI, or cut off ({error}); get it again") from error
