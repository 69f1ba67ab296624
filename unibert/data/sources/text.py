"""Plain text as a corpus: a document a line, between blank lines, or a file. Licence: as the recipe says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unibert.data.sources import files
from unibert.data.sources.base import Document, Part, Skips
from unibert.languages import script_of
from unibert.source_tables import PlainText

MOST_CHARACTERS = 4 * 2**20
"""A document that grows longer is cut here and goes on as another, so that memory stays bounded."""

_WITHOUT_SPACES = frozenset({"Hans", "Hant", "Jpan"})


def documents(table: PlainText, part: Part, skips: Skips) -> Iterator[Document]:
    """Every document of the part's files, called by its file's name and the number of its first line."""
    language = part.language
    assert language is not None  # the table's check
    between = "" if script_of(language) in _WITHOUT_SPACES else " "
    joint = {"line": "", "paragraph": between, "file": "\n"}[table.documents]
    for path in part.files:
        place = part.name if len(part.files) == 1 else f"{part.name}/{path.name}"
        for number, block in _blocks(path, table.documents, skips):
            yield Document(language, f"{place}:{number}", "", joint.join(block), table.licence)


def _blocks(path: Path, unit: str, skips: Skips) -> Iterator[tuple[int, list[str]]]:
    """(number of the first line, lines) of every document."""
    block: list[str] = []
    first = length = 0
    for number, line in files.lines(path, skips):
        line = line.strip()
        if block and ((not line and unit == "paragraph") or length > MOST_CHARACTERS or unit == "line"):
            yield first, block
            block, length = [], 0
        if line:
            first = first if block else number
            block.append(line)
            length += len(line)
    if block:
        yield first, block
