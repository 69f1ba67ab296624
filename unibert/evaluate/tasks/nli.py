"""Natural language inference: XNLI's TSV and JSON Lines, AmericasNLI, or several languages side by side in columns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unibert.errors import DataError
from unibert.evaluate.tasks.base import Example, Measured, Task, identified, pick, require_language, table
from unibert.evaluate.tasks.names import FileName, language

LABELS = ("contradiction", "entailment", "neutral")
_SAME = {"contradictory": "contradiction", "0": "entailment", "1": "neutral", "2": "contradiction"}
"""XNLI's machine-translated training files say contradictory; the hub's files have numbers."""
_NO_LABEL = ("-", "-1")
"""Of SNLI's and MultiNLI's examples on which people did not agree: they are left out, as published results do."""
_PREMISE, _HYPOTHESIS, _LABEL = ("premise", "sentence1"), ("hypothesis", "hypo", "sentence2"), ("gold_label", "label")
_SIDE = re.compile(r"(?:premise|sentence1)_(\w+)")
"""A premise beside those of other languages; XNLI's sentence1_tokenized and sentence1_parse have no language's tag."""


@dataclass(frozen=True)
class Pair(Example):
    """Two texts and their label: a class, or a number."""

    first: str
    second: str
    label: str


class Nli(Task):
    """Accuracy of entailment, neutral and contradiction."""

    name = "nli"
    sets = ("nli", "xnli", "americasnli")
    head = "classes"
    metric = "accuracy"

    def read_file(self, name: FileName) -> Iterator[tuple[str, Pair]]:
        first_of: dict[tuple[str, str], str] = {}
        for line, number, own, row in identified(table(name.path), path=name.path):
            label = "" if name.split == "unlabelled" else _label(row, name.path, line)
            if label in _NO_LABEL:
                continue
            for code, premise, hypothesis in _sides(row, name, line):
                group = first_of.setdefault((code, premise), number)
                place, group = f"{name.split}:{number}", f"{name.split}:{group}"
                yield code, Pair(place, group, premise, hypothesis, label, own_id=own)

    def measure(
        self, examples: Sequence[Pair], predictions: Sequence[str], *, of: str, language: str
    ) -> dict[str, Measured]:
        right = [float(p == example.label) for p, example in zip(predictions, examples, strict=True)]
        return {"accuracy": Measured("mean", np.array(right)[:, None])}

    def labels(self, examples: Sequence[Pair]) -> list[str]:
        return list(LABELS)


def _label(row: Mapping[str, str], path: Path, line: int) -> str:
    raw = pick(row, _LABEL, path=path, line=line).strip()
    label = _SAME.get(raw, raw)
    if label not in (*LABELS, *_NO_LABEL):
        raise DataError(f"{path}:{line}: label {raw!r}; write one of {', '.join(LABELS)}")
    return label


def _sides(row: Mapping[str, str], name: FileName, line: int) -> Iterator[tuple[str, str, str]]:
    """(language, premise, hypothesis) of a row, of each language that it has."""
    for code, ending in _endings(row, name):
        first, second = (
            pick(row, [column + ending for column in side], path=name.path, line=line)
            for side in (_PREMISE, _HYPOTHESIS)
        )
        if not first.strip() or not second.strip():
            raise DataError(f"{name.path}:{line}: a text of the pair is empty; fill it in or remove the line")
        yield code, first, second


def _endings(row: Mapping[str, str], name: FileName) -> list[tuple[str, str]]:
    """(language, what its columns' names end in): languages are side by side only where no premise is without one."""
    tags = [match[1] for column in row if (match := _SIDE.fullmatch(column)) and language(match[1])]
    if tags and not any(column in row for column in _PREMISE):
        return [(language(tag) or tag, f"_{tag}") for tag in tags]
    tag = row.get("language")
    return [((language(tag) or tag) if tag else require_language(name), "")]
