"""What training text must not have: the held-out texts, and those of the recipe's evaluation sets.

A task is handed the files by path and checksum; what is read of them a process keeps from task to task.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from unibert.data.curation.contamination import Index
from unibert.data.curation.evaluation_texts import data_files, evaluation_texts
from unibert.data.lines import file_sha256, read_json, read_rows, stable_hash, text_key
from unibert.errors import DataError
from unibert.schema import Recipe

Files = tuple[tuple[Path, str], ...]
"""Paths with their checksums."""


@dataclass(frozen=True)
class KeptOut:
    """The texts of a recipe that must stay out of its training text."""

    folder: Path
    """The data folder."""
    ids: int
    """Hash of the ids of rows that are held out."""
    lines: Files
    """Held-out lines, a file for each language that has some."""
    parallel: Files
    """Held-out parallel texts, one file."""
    evaluation: Files
    """Evaluation sets."""

    @classmethod
    def of(cls, recipe: Recipe) -> KeptOut:
        """DataError when the held-out parallel texts or an evaluation set are missing."""
        held = recipe.data.folder / "heldout"
        ids, _ = heldout_texts(recipe.data.folder)
        paths = (held / "lines" / f"{code}.jsonl" for code in recipe.languages)
        return cls(
            recipe.data.folder,
            stable_hash("\n".join(sorted(ids))),
            tuple((path, file_sha256(path)) for path in paths if path.is_file()),
            ((held / "parallel.jsonl", file_sha256(held / "parallel.jsonl")),),
            evaluation_files(recipe),
        )

    def settings(self) -> dict[str, Any]:
        """For the settings of a task that leaves these texts out or looks for them."""
        heldout = [self.ids, *(checksum for _, checksum in (*self.parallel, *self.lines))]
        return {"heldout": heldout, "evaluation_sets": [checksum for _, checksum in self.evaluation]}

    def texts(self) -> list[str]:
        """Everything held out, lines and parallel texts."""
        lines = (row["text"] for path, _ in self.lines for row in read_rows(path))
        return [*parallel_texts(self.folder), *lines]


def parallel_texts(folder: Path) -> list[str]:
    """The held-out parallel texts of a data folder, in all languages."""
    rows = read_rows(folder / "heldout" / "parallel.jsonl")
    return [text for row in rows for text in row["texts"].values()]


def heldout_texts(folder: Path) -> tuple[frozenset[str], frozenset[str]]:
    """(row ids, text keys) of the held-out parallel part, which no training text may share."""
    report = read_json(folder / "heldout" / "parallel_report.json")
    return frozenset(report["ids"]), frozenset(map(text_key, parallel_texts(folder)))


def evaluation_files(recipe: Recipe) -> Files:
    """Every file of the evaluation sets; DataError for one that is missing."""
    found: list[Path] = []
    for path in recipe.data.evaluation_sets:
        if not path.exists():
            raise DataError(f"data.evaluation_sets: {path} does not exist")
        found += data_files(path)
    return tuple((path, file_sha256(path)) for path in found)


@lru_cache(maxsize=1)
def evaluation_index(files: Files) -> Index:
    """The index of evaluation sets."""
    return Index(chain.from_iterable(evaluation_texts(path) for path, _ in files))
