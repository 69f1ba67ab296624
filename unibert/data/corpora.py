"""The recipe's own sources: which parts (files, languages) they have, and every part's raw rows.

A part is written to raw/<source>/<part>-00000.jsonl and so on, a row a paragraph: `id` is the document's, `line` the
paragraph's number in it. Nothing is held but a part's current document.
"""

from __future__ import annotations

import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import regex

from unibert import languages
from unibert.data.lines import document_of, file_facts, say, write_row_files
from unibert.data.sources import files, hugging_face, jsonl, parquet, text, wikipedia_dump
from unibert.data.sources.base import MAXIMUM_CHARACTERS, Document, Part, Reading, Skips
from unibert.errors import DataError
from unibert.schema import Recipe
from unibert.source_tables import Corpus, Datasets, Demo, PlainText, WikipediaDump

FORMAT = 2
"""Raised when what is written changes, so that old raw files are made again."""
SECONDS_BETWEEN_LINES = 30.0
NAMES_SHOWN = 8

READERS: Mapping[str, Callable[[Any, Part, Skips], Iterator[Document]]] = {
    "wikipedia_dump": wikipedia_dump.documents,
    "datasets": hugging_face.documents,
    "parquet": parquet.documents,
    "jsonl": jsonl.documents,
    "text": text.documents,
}

_UNSAFE = regex.compile(r"[^\p{L}\p{N}._-]+")
_SURROGATES = regex.compile(r"\p{Cs}")  # halves of a character, which JSON can hold and UTF-8 cannot
_SENTENCE = regex.compile(r".+?(?:[.!?…][\"'”’»)\]]*\s+|[。！？।॥؟۔።]+[」』”’»)\]]*\s*|$)", regex.DOTALL)


def is_part(name: str) -> bool:
    """Whether a raw file is of a source of the recipe's own (the demo's have no folder)."""
    return "/" in name


def plan(recipe: Recipe) -> tuple[list[Reading], dict[str, str]]:
    """(every part to read, in the recipe's order; why, by source, others are left out). ConfigError, DataError."""
    readings: list[Reading] = []
    left_out: dict[str, str] = {}
    for table in recipe.data.sources:
        if isinstance(table, Demo):
            continue
        if table.language is not None:
            languages.check((table.language,))
        parts, others = (_data_set_parts if isinstance(table, Datasets) else _file_parts)(table, recipe.languages)
        readings += [Reading(table, part, _about(part, recipe)) for part in parts]
        if others:
            shown = ", ".join(sorted(others)[:NAMES_SHOWN]) + (", ..." if len(others) > NAMES_SHOWN else "")
            left_out[table.name] = f"{len(others)} not of the recipe's languages: {shown}"
    return readings, left_out


def _about(part: Part, recipe: Recipe) -> dict[str, Any]:
    wanted = [] if part.language else sorted(part.languages)
    return {"format": FORMAT, "file_mib": recipe.data.file_mib, "language": part.language, "languages": wanted}


def _file_parts(table: Corpus, wanted: tuple[str, ...]) -> tuple[list[Part], list[str]]:
    """(a part for every file in a wanted language, names of the other files)."""
    assert not isinstance(table, Datasets)
    found: dict[str | None, list[Path]] = defaultdict(list)
    others: list[str] = []
    for path, tag in files.find(table.path):
        language = _language(table, path, tag)
        if language is None and not getattr(table, "language_column", ""):
            others.append(f"{path.name} ({tag})")
        elif language is not None and language not in wanted:
            others.append(f"{path.name} ({language})")
        else:
            found[language].append(path)
    if isinstance(table, PlainText) and table.documents == "file":
        whole = [Part(str(code), tuple(paths), code, wanted) for code, paths in found.items()]
        return whole, others
    root = root_of(table.path)
    each = sorted((path, code) for code, paths in found.items() for path in paths)
    return [Part(part_name(path, root), (path,), code, wanted) for path, code in each], others


def _language(table: Corpus, path: Path, tag: str | None) -> str | None:
    """Our code of a file's language; None when the table's records say it, or its tag is none of ours."""
    if table.language is not None:
        return table.language
    if tag is None and isinstance(table, WikipediaDump):
        tag = wikipedia_dump.language_tag(path)
        if tag is None:
            raise DataError(
                f"{path}: the name does not say which Wikipedia this is (dewiki-20240101-...): set `language` in "
                f"[[data.sources]] {table.name}, or put {{language}} into its path"
            )
    return None if tag is None else languages.code_of(tag)


def _data_set_parts(table: Corpus, wanted: tuple[str, ...]) -> tuple[list[Part], list[str]]:
    """(a part for every language, or one where the records say theirs; languages that the data set cannot have)."""
    assert isinstance(table, Datasets)
    if table.language_column:
        codes: Sequence[str | None] = (None,)
    else:
        codes = wanted if table.language is None else [code for code in wanted if code == table.language]
    parts: list[Part] = []
    for code in codes:
        names = (table.dataset, table.configuration, table.split)
        filled = [hugging_face.filled(name, code) for name in names]
        if all(name is None or value is not None for name, value in zip(names, filled, strict=True)):
            folder = Path(filled[0] or "")
            local = tuple(sorted(path for path in folder.rglob("*") if path.is_file())) if folder.is_dir() else ()
            parts.append(Part(code or "all", local, code, wanted))
    got = {part.language for part in parts}
    return parts, [code for code in codes if code and code not in got]


def root_of(pattern: str) -> Path:
    """The folder above the first part of a pattern that is not literal."""
    literal: list[str] = []
    for piece in Path(pattern).parts:
        if any(mark in piece for mark in "*?[{"):
            break
        literal.append(piece)
    root = Path(*literal)
    return root.parent if root.is_file() else root


def part_name(path: Path, root: Path) -> str:
    """The file's name and a hash of its place below the pattern's folder, so that two files are two parts."""
    place = path.relative_to(root) if path.is_relative_to(root) else path
    return f"{_UNSAFE.sub('_', path.name)[:60]}-{blake2b(str(place).encode(), digest_size=4).hexdigest()}"


def read(reading: Reading, raw: Path) -> dict[str, Any]:
    """Make a part's raw files; returns its stamp. DataError naming the file and the place."""
    started = time.monotonic()
    skips, counts = Skips(), Counter[str]()
    files = write_row_files(
        raw / reading.key, _rows(reading, skips, counts), together=document_of, size=reading.about["file_mib"] * 2**20
    )
    stamp = {
        "kind": reading.table.kind,
        "licence": reading.table.licence,
        "rows": counts.total(),
        "files": file_facts(files, raw),
        "languages": dict(sorted(counts.items())),
        "skipped": skips.as_json(),
    }
    say(f"  {reading.key}: {counts.total()} rows, skipped {skips}, {time.monotonic() - started:.0f} s")
    return stamp


def check_sources(readings: Sequence[Reading], stamps: Mapping[str, dict[str, Any]]) -> None:
    """DataError for a source that has parts but gave no row at all, with what was skipped in it."""
    for name in dict.fromkeys(reading.table.name for reading in readings):
        mine = {reading.key: stamps[reading.key] for reading in readings if reading.table.name == name}
        if not any(stamp["rows"] for stamp in mine.values()):
            skipped = {key: stamp["skipped"] for key, stamp in mine.items() if stamp["skipped"]}
            raise DataError(f"source {name}: no text in {', '.join(list(mine)[:NAMES_SHOWN])}; skipped: {skipped}")


def _rows(reading: Reading, skips: Skips, counts: Counter[str]) -> Iterator[dict[str, Any]]:
    """A row for every paragraph of every document, short ones too: what is a heading is for cleaning to say."""
    name, said = reading.table.name, time.monotonic()
    for document in READERS[reading.table.kind](reading.table, reading.part, skips):
        for number, piece in enumerate(paragraphs(document.text)):
            counts[document.language] += 1
            yield {
                "id": _encodable(f"{name}:{document.language}:{document.id}"),
                "line": number,
                "language": document.language,
                "title": _encodable(document.title),
                "text": piece,
                "source": name,
                "licence": document.licence,
            }
        if time.monotonic() - said > SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            say(f"  {reading.key}: {counts.total()} rows so far")


def _encodable(text: str) -> str:
    """The text with every lone surrogate replaced."""
    return text if text.isprintable() else _SURROGATES.sub("\ufffd", text)


def paragraphs(document: str) -> Iterator[str]:
    """The lines of a document in NFC; one longer than MAXIMUM_CHARACTERS in pieces that end with a sentence or word."""
    for line in document.splitlines():
        line = " ".join(unicodedata.normalize("NFC", _encodable(line)).split())
        if len(line) <= MAXIMUM_CHARACTERS:
            if line:
                yield line
        else:
            yield from _cut(line)


def _cut(line: str) -> Iterator[str]:
    """Pieces of at most MAXIMUM_CHARACTERS: whole sentences, or words where a sentence is longer."""
    piece = ""
    for match in _SENTENCE.finditer(line):
        sentence = match[0]
        if piece and len(piece) + len(sentence) > MAXIMUM_CHARACTERS:
            yield piece.strip()
            piece = ""
        at = 0
        while len(sentence) - at > MAXIMUM_CHARACTERS:
            end = sentence.rfind(" ", at + 1, at + MAXIMUM_CHARACTERS) + 1 or at + MAXIMUM_CHARACTERS
            yield sentence[at:end].strip()
            at = end
        piece += sentence[at:]
    if piece.strip():
        yield piece.strip()
