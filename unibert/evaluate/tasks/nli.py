"""Natural language inference: XNLI's TSV and JSON Lines, AmericasNLI, or several languages side by side in columns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unibert.errors import DataError
from unibert.evaluate.tasks.base import Example, Measured, Task, pick, require_language, table
from unibert.evaluate.tasks.names import FileName, language

LABELS = ("contradiction", "entailment", "neutral")
_SAME = {"contradictory": "contradiction", "0": "entailment", "1": "neutral", "2": "contradiction"}
"""XNLI's machine-translated training files say contradictory; the hub's files have numbers."""
_NO_LABEL = ("-", "-1")
_PREMISE, _HYPOTHESIS, _LABEL = ("premise", "sentence1"), ("hypothesis", "hypo", "sentence2"), ("label", "gold_label")
_SIDE = re.compile(r"(?:premise|sentence1)_(\w+)")


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
        first_of: dict[tuple[str, str], int] = {}
        for line, row in table(name.path):
            label = "" if name.split == "unlabelled" else _label(row, name.path, line)
            if label in _NO_LABEL:
                continue
            for code, premise, hypothesis in _sides(row, name, line):
                group = first_of.setdefault((code, premise), line)
                yield code, Pair(f"{name.split}:{line}", f"{name.split}:{group}", premise, hypothesis, label)

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
    wide = [match for column in row if (match := _SIDE.fullmatch(column))]
    for match in wide:
        tag = match[1]
        second = pick(row, [f"{column}_{tag}" for column in _HYPOTHESIS], path=name.path, line=line)
        yield _checked(language(tag) or tag, row[match[0]], second, path=name.path, line=line)
    if not wide:
        code = (language(row["language"]) or row["language"]) if "language" in row else require_language(name)
        texts = [pick(row, columns, path=name.path, line=line) for columns in (_PREMISE, _HYPOTHESIS)]
        yield _checked(code, *texts, path=name.path, line=line)


def _checked(code: str, first: str, second: str, *, path: Path, line: int) -> tuple[str, str, str]:
    if not first.strip() or not second.strip():
        raise DataError(f"{path}:{line}: a text of the pair is empty; fill it in or remove the line")
    return code, first, second
