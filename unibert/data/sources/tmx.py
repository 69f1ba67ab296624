"""Translation memories (TMX 1.1 to 1.4, GALA/LISA OSCAR), read as a stream. Licence: as the recipe says.

Codes of the other program's format (bpt, ept, it, ph, ut, and what stands in sub) are left out of the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.parsers import expat

from unibert.data.sources import files
from unibert.data.sources.base import Aligned, Part, Skips
from unibert.errors import DataError
from unibert.languages import code_of
from unibert.parallel_tables import Tmx

CHUNK = 1 << 16
MOST_CHARACTERS = 1 << 20
"""A segment that grows longer is not kept, and its unit is skipped and counted."""
_NOT_TEXT = frozenset({"bpt", "ept", "it", "ph", "ut", "sub"})


class _Units:
    """What the parser has read of the current unit, and the units that are complete."""

    def __init__(self, place: Path, wanted: tuple[str, ...], skips: Skips) -> None:
        self.place, self.wanted, self.skips = place, wanted, skips
        self.done: list[tuple[str, dict[str, list[str]]]] = []
        self.unit: dict[str, list[str]] = {}
        self.count = self.hidden = self.length = 0
        self.language: str | None = None
        self.segment: list[str] | None = None
        self.is_too_long = False
        parser = self.parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self.start
        parser.EndElementHandler = self.end
        parser.CharacterDataHandler = self.text

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        if tag == "tu":
            self.unit, self.is_too_long = {}, False
            self.count += 1
        elif tag == "tuv":
            self.language = code_of((attributes.get("xml:lang") or attributes.get("lang") or "").strip())
        elif tag == "seg" and self.language in self.wanted:
            self.segment, self.length, self.hidden = [], 0, 0
        elif tag in _NOT_TEXT:
            self.hidden += 1

    def text(self, data: str) -> None:
        if self.segment is None or self.hidden:
            return
        self.length += len(data)
        if self.length > MOST_CHARACTERS:
            self.segment, self.is_too_long = None, True
        else:
            self.segment.append(data)

    def end(self, tag: str) -> None:
        if tag in _NOT_TEXT:
            self.hidden -= 1
        elif tag == "seg" and self.segment is not None and self.language is not None:
            if text := " ".join("".join(self.segment).split()):
                self.unit.setdefault(self.language, []).append(text)
            self.segment = None
        elif tag == "tu":
            place = f"{self.place}:{self.parser.CurrentLineNumber}"
            if self.is_too_long:
                self.skips.add("unit too long", place)
            elif len(self.unit) < 2:
                self.skips.add("unit with fewer than two wanted languages", place)
            else:
                self.done.append((str(self.count), self.unit))


def aligned(table: Tmx, part: Part, skips: Skips) -> Iterator[Aligned]:
    """The texts of every unit; where a language has several variants, the others' are repeated beside each of them.

    DataError with the line when the file is not well-formed, cut off or damaged.
    """
    (path,) = part.files
    units = _Units(path, part.languages, skips)
    try:
        with files.opened(path) as stream:
            while chunk := stream.read(CHUNK):
                units.parser.Parse(chunk, False)
                yield from _taken(units, part, table)
            units.parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise DataError(f"{path}:{error.lineno}: not well-formed TMX, or cut off ({error}); get it again") from error
    yield from _taken(units, part, table)


def _taken(units: _Units, part: Part, table: Tmx) -> Iterator[Aligned]:
    for number, unit in units.done:
        for variant in range(max(map(len, unit.values()))):
            texts = {code: found[min(variant, len(found) - 1)] for code, found in unit.items()}
            yield Aligned(f"{part.name}:{number}.{variant}", texts, table.licence)
    units.done.clear()
