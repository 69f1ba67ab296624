"""Tables of tab-separated text, a language a column, plain, .gz or .bz2. Licence: as the recipe says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from unibert.data.sources import files
from unibert.data.sources.base import Aligned, Part, Skips
from unibert.errors import DataError
from unibert.languages import code_of
from unibert.parallel_tables import Tsv


def aligned(table: Tsv, part: Part, skips: Skips) -> Iterator[Aligned]:
    """The texts of every line; one without all the columns, or with fewer than two texts, is skipped and counted."""
    (path,) = part.files
    rows = files.lines(path, skips)
    names = next(rows, (1, ""))[1].split("\t") if table.has_header else None
    places = _places(table, names, path, part.languages)
    for number, line in rows:
        cells = line.split("\t")
        if len(cells) <= max(places.values()):
            skips.add("line with too few columns", f"{path}:{number}")
            continue
        texts = {code: text for code, place in places.items() if (text := cells[place].strip())}
        if len(texts) < 2:
            skips.add("line with fewer than two texts", f"{path}:{number}")
        else:
            yield Aligned(f"{part.name}:{number}", texts, table.licence)


def _places(table: Tsv, names: Sequence[str] | None, path: Path, wanted: Sequence[str]) -> Mapping[str, int]:
    """Column, from 0, of each language that is wanted; DataError when there are not two, or a name is not there."""
    columns = dict(table.columns)
    if not columns:
        for name in names or ():
            if code := code_of(name.strip()):
                columns.setdefault(code, name)
    places = {}
    for code, column in columns.items():
        if code not in wanted:
            continue
        if isinstance(column, str) and column not in (names or ()):
            raise DataError(
                f"{path}: no column {column!r} for {code}; its first line has {', '.join(names or ())[:300]}"
            )
        places[code] = column - 1 if isinstance(column, int) else (names or ()).index(column)
    if len(places) < 2:
        raise DataError(f"{path}: fewer than two of its columns are in the recipe's languages: {', '.join(columns)}")
    return places
