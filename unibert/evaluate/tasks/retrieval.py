"""Finding translations, untuned: Tatoeba's two aligned files a language, or any two-column table of translations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from unibert.errors import DataError
from unibert.evaluate.tasks.base import ENGLISH, Measured, Task, table, text_of
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

    def is_side(self, name: FileName) -> bool:
        return not _is_table(name) and (len(name.languages) != 3 or name.languages[-1] == ENGLISH)

    def read_file(self, name: FileName) -> Iterator[tuple[str, Pair]]:
        yield from _from_table(name) if _is_table(name) else _from_sides(name)

    def measure(
        self, examples: Sequence[Pair], predictions: Sequence[Sequence[float]], *, of: str, language: str
    ) -> dict[str, Measured]:
        ranks_NR = np.asarray(predictions, float)
        found = {}
        for column, metric in enumerate(("to_english", "from_english", "margin_to_english", "margin_from_english")):
            found[metric] = Measured("mean", (ranks_NR[:, column : column + 1] == 1).astype(float))
        found["mrr"] = Measured("mean", 1 / ranks_NR[:, :1])
        return found


def _is_table(name: FileName) -> bool:
    return name.path.suffix in (".tsv", ".csv", ".jsonl")


def _from_sides(name: FileName) -> Iterator[tuple[str, Pair]]:
    """`tatoeba.afr-eng.afr` with `tatoeba.afr-eng.eng` beside it, line for line."""
    path, own = name.path, name.languages[-1]
    tags = path.name.split(".")[-2].split("-")
    others = [tag for tag in tags if code_for(tag) != own]
    other = path.with_name(f"{path.name.rpartition('.')[0]}.{others[0]}") if len(others) == 1 else path
    if other == path or not other.is_file():
        raise DataError(f"{path}: its other side is not beside it; name the two files X.aaa-eng.aaa and X.aaa-eng.eng")
    sides = [text.split("\n") if (text := text_of(side).rstrip("\n")) else [] for side in (path, other)]
    if len(sides[0]) != len(sides[1]):
        raise DataError(
            f"{path}:{min(map(len, sides)) + 1}: {len(sides[0])} lines, and {other.name} has {len(sides[1])}; line i "
            "of the one must be the translation of line i of the other"
        )
    for line, (first, second) in enumerate(zip(*sides, strict=True), 1):
        for side, text in ((path, first), (other, second)):
            if not text.strip():
                raise DataError(f"{side}:{line}: an empty line; remove line {line} of {path.name} and {other.name}")
        yield own, Pair(f"{own}:{line}", f"{own}:{line}", first, second, "")


def _from_table(name: FileName) -> Iterator[tuple[str, Pair]]:
    """A header with two language codes, or with source and target and the languages in the file's name.

    A column `id` of numbers is no Indonesian.
    """
    own = next((code for code in name.languages if code != ENGLISH), ENGLISH)
    rows = list(table(name.path))
    numbers = {
        column for column in ("id",) if all(row.get(column, "").strip().lstrip("-").isdigit() for _, row in rows)
    }
    for line, row in rows:
        columns = [column for column in row if code_for(column) and column not in numbers]
        if len(columns) == 2:
            columns.sort(key=lambda column: code_for(column) == ENGLISH)
            code = code_for(columns[0]) or own
            texts = [row[column] for column in columns]
        elif "source" in row and "target" in row:
            code, texts = own, [row["source"], row["target"]]
        else:
            raise DataError(
                f"{name.path}:{line}: no two columns of texts, there are {', '.join(row)}; call them by the codes of "
                "their languages, as en and de, or source and target"
            )
        if not all(text.strip() for text in texts):
            raise DataError(f"{name.path}:{line}: a text of the pair is empty; fill it in or remove the line")
        yield code, Pair(f"{code}:{line}", f"{code}:{line}", texts[0], texts[1], "")
