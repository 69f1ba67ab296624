"""Dictionaries of a word and its translation a line, as MUSE has them: plain, .gz or .bz2.

Licence: as the recipe says.
"""

from __future__ import annotations

from collections.abc import Iterator

from unibert.data.sources import files
from unibert.data.sources.base import Aligned, Part, Skips
from unibert.parallel_tables import Muse


def aligned(table: Muse, part: Part, skips: Skips) -> Iterator[Aligned]:
    """The pair of words of every line: separated by a tab, or without one by the only run of spaces."""
    (path,), (source, target) = part.files, part.languages
    for number, line in files.lines(path, skips):
        words = line.strip().split("\t") if "\t" in line.strip() else line.split()
        words = [" ".join(word.split()) for word in words]
        if len(words) == 2 and all(words):
            yield Aligned(f"{part.name}:{number}", {source: words[0], target: words[1]}, table.licence)
        else:
            skips.add("line that is not two words", f"{path}:{number}")
