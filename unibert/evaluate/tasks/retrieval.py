"""Finding translations, untuned: Tatoeba's two aligned files a language, or any two-column table of translations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from unibert.errors import DataError
from unibert.evaluate.tasks.base import ENGLISH, Measured, Task, pick, table, text_of
from unibert.evaluate.tasks.names import FileName
from unibert.evaluate.tasks.names import language as code_for
from unibert.evaluate.tasks.nli import Pair


class Retrieval(Task):
    """Top-1 accuracy into English (or the first side into the second), back, with a margin, and the MRR.

    A prediction is the ranks of both directions, by cosine and by margin: [N] of each. Equal sentences are all
    candidates, as in the published results.
    """

    name = "retrieval"
    sets = ("retrieval", "tatoeba", "parallel")
    head = "none"
    metric = "to_english"

    def read_file(self, name: FileName) -> Iterator[tuple[str, Pair]]:
        if name.path.suffix in (".tsv", ".csv", ".jsonl"):
            yield from _from_table(name)
        elif len(name.languages) == 3 and name.languages[-1] != ENGLISH:
            yield from _from_sides(name)

    def measure(
        self, examples: Sequence[Pair], predictions: Sequence[Sequence[float]], *, of: str, language: str
    ) -> dict[str, Measured]:
        ranks_NR = np.asarray(predictions, float)
        found = {}
        for column, metric in enumerate(("to_english", "from_english", "margin_to_english", "margin_from_english")):
            found[metric] = Measured("mean", (ranks_NR[:, column : column + 1] == 1).astype(float))
        found["mrr"] = Measured("mean", 1 / ranks_NR[:, :1])
        return found


def _from_sides(name: FileName) -> Iterator[tuple[str, Pair]]:
    """`tatoeba.afr-eng.afr` with `tatoeba.afr-eng.eng` beside it, line for line."""
    path, own = name.path, name.languages[-1]
    tags = path.name.split(".")[-2].split("-")
    others = [tag for tag in tags if code_for(tag) != own]
    other = path.with_name(f"{path.name.rpartition('.')[0]}.{others[0]}") if len(others) == 1 else path
    if other == path or not other.is_file():
        raise DataError(f"{path}: its other side is not beside it; name the two files X.aaa-eng.aaa and X.aaa-eng.eng")
    sides = [text_of(side).rstrip("\n").split("\n") for side in (path, other)]
    if len(sides[0]) != len(sides[1]):
        raise DataError(
            f"{path}:{min(map(len, sides)) + 1}: {len(sides[0])} lines, and {other.name} has {len(sides[1])}; line i "
            "of the one must be the translation of line i of the other"
        )
    for line, (first, second) in enumerate(zip(*sides, strict=True), 1):
        yield own, Pair(f"{own}:{line}", f"{own}:{line}", first, second, "")


def _from_table(name: FileName) -> Iterator[tuple[str, Pair]]:
    """A header with two language codes, or with source and target and the languages in the file's name."""
    own = next((code for code in name.languages if code != ENGLISH), ENGLISH)
    for line, row in table(name.path):
        columns = [column for column in row if code_for(column)]
        if len(columns) == 2:
            columns.sort(key=lambda column: code_for(column) == ENGLISH)
            code = code_for(columns[0]) or own
            texts = [row[column] for column in columns]
        else:
            code = own
            texts = [pick(row, [column], path=name.path, line=line) for column in ("source", "target")]
        yield code, Pair(f"{code}:{line}", f"{code}:{line}", texts[0], texts[1], "")
