"""The demo's rows as aligned text: those of one source with the same key are the same message, paragraph or verse."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from unibert.data.lines import read_rows, stable_hash
from unibert.data.sources.base import Aligned, Part, Skips
from unibert.parallel_tables import DemoPairs

BYTES_AT_ONCE = 1 << 26
"""A source is read once for every so many of its bytes, each time for other keys, so that memory is bounded."""


def aligned(table: DemoPairs, part: Part, skips: Skips) -> Iterator[Aligned]:
    """The texts of every key that has more than one in the languages wanted.

    Where English is wanted, a key without it is skipped and counted: there are few, and each would be paired in each
    language with every other.
    """
    wanted = frozenset(part.languages)
    rounds = 1 + sum(path.stat().st_size for path in part.files) // BYTES_AT_ONCE
    for number in range(rounds):
        groups: dict[str, dict[str, str]] = {}
        licence = ""
        for row in chain.from_iterable(map(read_rows, part.files)):
            if row["language"] in wanted and (rounds == 1 or stable_hash(row["id"]) % rounds == number):
                groups.setdefault(row["id"], {}).setdefault(row["language"], row["text"])
                licence = row["licence"]
        for key, texts in groups.items():
            if len(texts) < 2:
                skips.add("key in one language alone", f"{part.name}: {key}")
            elif "en" in wanted and "en" not in texts:
                skips.add("key without English", f"{part.name}: {key}")
            else:
                yield Aligned(key, texts, licence)
