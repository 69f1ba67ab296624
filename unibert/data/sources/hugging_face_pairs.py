"""A Hugging Face data set of translations, streamed from the hub or a local folder. Licence: as the recipe says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from unibert.data.sources.base import Aligned, Part, Skips
from unibert.errors import DataError
from unibert.languages import code_of
from unibert.parallel_tables import Pairs


def aligned(table: Pairs, part: Part, skips: Skips) -> Iterator[Aligned]:
    """The texts of every row of a configuration, which is the part's name (`all` where there are none).

    DataError when it cannot be read or lacks a column.
    """
    import pyarrow
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    config = part.name if table.configs else None
    place = f"{table.dataset}{f' {config}' if config else ''}"
    number = 0
    try:
        rows = load_dataset(table.dataset, config, split=table.split, revision=table.revision, streaming=True)
        for row in rows:
            number += 1
            texts = _texts(table, row, place=place, is_first=number == 1)  # type: ignore[arg-type]
            found = {code: text for code, text in texts.items() if code in part.languages}
            if len(found) < 2:
                skips.add("row with fewer than two wanted languages", f"{place} row {number}")
            else:
                yield Aligned(f"{part.name}:{number}", found, table.licence)
    except (DatasetsError, pyarrow.ArrowException, OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{place}: cannot be read after row {number} ({error})") from error


def _texts(table: Pairs, row: Mapping[str, Any], *, place: str, is_first: bool) -> dict[str, str]:
    """A row's texts by our codes; of the first row DataError when a column is missing."""
    wanted = list(table.columns.values()) or [table.translation_column]
    if is_first and (missing := [name for name in wanted if name not in row]):
        raise DataError(f"{place}: no column {', '.join(missing)}; it has {', '.join(row)}")
    if table.columns:
        tagged = {code: row.get(name) for code, name in table.columns.items()}
    else:
        tagged = row.get(table.translation_column)
        if not isinstance(tagged, Mapping):
            if is_first:
                raise DataError(
                    f"{place}: column {table.translation_column} has no text for each language: set `columns`"
                )
            tagged = {}
    texts = {code_of(tag) or "": text for tag, text in tagged.items() if isinstance(text, str) and text.strip()}
    return {code: text for code, text in texts.items() if code}
