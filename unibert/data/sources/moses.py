"""Files aligned by line, as Moses and OPUS have them, plain, .gz or .bz2. Licence: as the recipe says."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from unibert.data.sources import files
from unibert.data.sources.base import Aligned, Part, Skips
from unibert.errors import DataError
from unibert.languages import code_of
from unibert.parallel_tables import Moses
from unibert.source_tables import LANGUAGE


def sets(table: Moses) -> dict[str, dict[str, Path]]:
    """Files by language tag, by the set's name: the file's name with `{language}` in it."""
    name = Path(table.path).name if LANGUAGE in Path(table.path).name else table.path
    found: dict[str, dict[str, Path]] = {}
    for path, tag in files.find(table.path):
        assert tag is not None  # the table's check
        before, after = (name.split(LANGUAGE)[-2][-1:], name.split(LANGUAGE)[-1][:1])
        head, _, tail = str(path).rpartition(f"{before}{tag}{after}")
        found.setdefault(f"{head}{before}{LANGUAGE}{after}{tail}", {})[tag] = path
    return found


def aligned(table: Moses, part: Part, skips: Skips) -> Iterator[Aligned]:
    """The texts of every line number; `part.files` are in the order of `part.languages`.

    DataError when the files have different numbers of lines. Where a line cannot be used in one file, the others'
    are still aligned.
    """
    readers = [files.all_lines(path, skips) for path in part.files]
    number = 0
    for number, lines in enumerate(zip_longest(*readers), start=1):
        if None in lines:
            short = [str(path) for path, line in zip(part.files, lines, strict=True) if line is None]
            raise DataError(f"{', '.join(short)}: ends after line {number - 1}, the files aligned with it do not")
        texts = {
            code: text
            for code, (_, line) in zip(part.languages, lines, strict=True)
            if line is not None and (text := line.strip())
        }
        if len(texts) < 2:
            skips.add("line with fewer than two texts", f"{part.files[0]}:{number}")
        else:
            yield Aligned(f"{part.name}:{number}", texts, table.licence)


def languages_of(tagged: dict[str, Path], wanted: tuple[str, ...]) -> dict[str, Path]:
    """A set's files by our code, those in wanted languages, in the order of `wanted`."""
    by_code = {code: path for tag, path in sorted(tagged.items()) if (code := code_of(tag))}
    return {code: by_code[code] for code in wanted if code in by_code}
