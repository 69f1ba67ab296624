"""Parquet files as a corpus. Licence: as the recipe says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unibert.data.sources import records
from unibert.data.sources.base import Document, Part, Skips
from unibert.errors import DataError
from unibert.source_tables import Parquet

ROWS_AT_ONCE = 256
BUFFER_BYTES = 2**20
"""A column is read through a buffer of this size, so memory follows the largest page, not the row group."""


def documents(table: Parquet, part: Part, skips: Skips) -> Iterator[Document]:
    """The document of every row; DataError when the file is damaged, cut off or lacks a column."""
    (path,) = part.files
    wanted = records.columns(table)
    for number, record in enumerate(_rows(table, path, wanted), start=1):
        if found := records.document(table, part, record, place=f"{part.name}:{number}", skips=skips):
            yield found


def _rows(table: Parquet, path: Path, wanted: list[str]) -> Iterator[dict]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False) as file:
            records.check_columns(table, file.schema_arrow.names, place=str(path))
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=wanted, use_threads=False):
                yield from batch.to_pylist()
                number += len(batch)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: damaged or cut off after row {number} ({error}); get it again") from error
