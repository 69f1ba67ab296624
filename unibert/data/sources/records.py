"""What corpora made of records (JSON Lines, parquet, Hugging Face data sets) share: a record's fields to a document."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from unibert.data.sources.base import Document, Part, Skips
from unibert.errors import DataError
from unibert.languages import code_of
from unibert.source_tables import Datasets, Jsonl, Parquet

Records = Datasets | Jsonl | Parquet
MOST_CHARACTERS = 8 * 2**20
"""A record with a longer text is skipped and counted."""


def columns(table: Records) -> list[str]:
    """The fields a record must have."""
    wanted = (table.text_column, table.title_column, table.id_column, table.language_column)
    return list(dict.fromkeys(filter(None, wanted)))


def check_columns(table: Records, present: Collection[str], *, place: str) -> None:
    """DataError naming the place and the fields it has, when one of the table's is not among them."""
    named = {key: getattr(table, key) for key in ("text_column", "title_column", "id_column", "language_column")}
    if missing := [f"{key} = {name!r}" for key, name in named.items() if name and name not in present]:
        raise DataError(f"{place}: no field {', '.join(missing)}; it has {', '.join(sorted(present)) or 'none'}")


def document(table: Records, part: Part, record: Mapping[str, Any], *, place: str, skips: Skips) -> Document | None:
    """The document of a record; None, and counted, when it has no text or is in no language that is wanted.

    `place` serves as its id when the table names no column for that.
    """
    text = record.get(table.text_column)
    if not isinstance(text, str) or not text.strip():
        skips.add("record without text", place)
        return None
    if len(text) > MOST_CHARACTERS:
        skips.add("record too long", place)
        return None
    language = part.language
    if language is None:
        tag = record.get(table.language_column)
        language = code_of(tag) if isinstance(tag, str) else None
        if language not in part.languages:
            skips.add("record of unknown language" if language is None else "record of another language", place)
            return None
    own = record.get(table.id_column) if table.id_column else None
    title = record.get(table.title_column) if table.title_column else None
    title = title if isinstance(title, str) else ""
    return Document(language, place if own is None else str(own), title, text, table.licence)
