"""A Hugging Face data set as a corpus, streamed from the hub or a local folder. Licence: as the recipe says.

Wikipedia's (wikimedia/wikipedia, CC-BY-SA-4.0) is the default, one configuration a language.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from unibert.data.sources import records
from unibert.data.sources.base import Document, Part, Skips
from unibert.errors import DataError
from unibert.languages import wikipedia_code
from unibert.source_tables import LANGUAGE, WIKIPEDIA, Datasets


def filled(pattern: str | None, language: str | None) -> str | None:
    """A name with the language's codes in it; None for no pattern, or for a Wikipedia that does not exist."""
    if pattern is None or language is None:
        return pattern
    if WIKIPEDIA in pattern:
        if (code := wikipedia_code(language)) is None:
            return None
        pattern = pattern.replace(WIKIPEDIA, code)
    return pattern.replace(LANGUAGE, language)


def documents(table: Datasets, part: Part, skips: Skips) -> Iterator[Document]:
    """The document of every row, in the data set's order; DataError when it cannot be read or lacks a column."""
    import pyarrow
    from datasets.exceptions import DatasetsError

    config = filled(table.configuration, part.language)
    place = f"{table.dataset}{f' {config}' if config else ''}"
    number = 0
    try:
        for record in _rows(table, part, config):
            number += 1
            if number == 1:
                records.check_columns(table, record, place=place)
            if found := records.document(table, part, record, place=f"{part.name}:{number}", skips=skips):
                yield found
    except (DatasetsError, pyarrow.ArrowException, OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{place}: cannot be read after row {number} ({error})") from error


def _rows(table: Datasets, part: Part, config: str | None) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset

    name, split = filled(table.dataset, part.language), filled(table.split, part.language)
    rows = load_dataset(name, config, split=split, revision=table.revision, streaming=True)  # type: ignore[arg-type]
    yield from islice(rows, table.max_documents)  # type: ignore[arg-type]
