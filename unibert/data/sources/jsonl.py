"""JSON Lines as a corpus, plain, .gz or .bz2. Licence: as the recipe says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import orjson

from unibert.data.sources import files, records
from unibert.data.sources.base import Document, Part, Skips
from unibert.source_tables import Jsonl


def documents(table: Jsonl, part: Part, skips: Skips) -> Iterator[Document]:
    """The document of every line; DataError when the first object lacks a field, later ones are counted."""
    wanted = records.columns(table)
    (path,) = part.files
    is_first = True
    for number, line in files.lines(path, skips):
        if not line.strip():
            continue
        record = _parsed(line)
        if not isinstance(record, dict):
            skips.add("line that is no JSON object", f"{path}:{number}")
            continue
        if is_first:
            records.check_columns(table, record, place=f"{path}:{number}")
            is_first = False
        if any(name not in record for name in wanted):
            skips.add("line without a field", f"{path}:{number}")
        elif found := records.document(table, part, record, place=f"{part.name}:{number}", skips=skips):
            yield found


def _parsed(line: str) -> Any:
    """The value of a line; None when it is no JSON. What orjson is too strict for (NaN, lone surrogates) json takes."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
