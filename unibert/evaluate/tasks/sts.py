"""Semantic textual similarity: STS-B multi (CSV without header), STS17's input and gs files, STS22, any table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from unibert.errors import DataError
from unibert.evaluate.tasks.base import Measured, Task, identified, pick, require_language, table, text_of
from unibert.evaluate.tasks.names import FileName, language
from unibert.evaluate.tasks.nli import Pair

_FIRST, _SECOND = ("sentence1", "sentence_1", "text1"), ("sentence2", "sentence_2", "text2")
_SCORE = ("score", "similarity_score", "label")


class Sts(Task):
    """Spearman and Pearson of a similarity with people's. The label of a pair is the number as it is written."""

    name = "sts"
    sets = ("sts", "stsb", "sts17", "sts22")
    head = "value"
    metric = "spearman"

    def is_side(self, name: FileName) -> bool:
        return ".gs." in name.path.name  # STS17's scores

    def read_file(self, name: FileName) -> Iterator[tuple[str, Pair]]:
        for line, number, own, row in identified(_rows(name), path=name.path):
            code = _language(row, name)
            raw = pick(row, _SCORE, path=name.path, line=line)
            if not _is_number(raw):
                raise DataError(f"{name.path}:{line}: score {raw!r} is no number; write one, such as 3.75")
            texts = [pick(row, columns, path=name.path, line=line) for columns in (_FIRST, _SECOND)]
            place = f"{name.split}:{number}"
            yield code, Pair(place, place, *texts, label=raw, own_id=own)

    def measure(
        self, examples: Sequence[Pair], predictions: Sequence[float], *, of: str, language: str
    ) -> dict[str, Measured]:
        rows = np.stack([np.asarray(predictions, float), [float(example.label) for example in examples]], axis=1)
        return {kind: Measured(kind, rows) for kind in ("spearman", "pearson")}


def _rows(name: FileName) -> Iterator[tuple[int, dict[str, str]]]:
    if ".input." in name.path.name:
        return _sts17(name)
    first = next(iter(table(name.path, columns=())), None) if name.path.suffix == ".jsonl" else None
    has_header = first is not None or not _is_number(text_of(name.path).split("\n", 1)[0].rpartition(_glue(name))[2])
    return table(name.path, columns=() if has_header else ("sentence1", "sentence2", "score"))


def _glue(name: FileName) -> str:
    return "," if name.path.suffix == ".csv" else "\t"


def _sts17(name: FileName) -> Iterator[tuple[int, dict[str, str]]]:
    scores = name.path.with_name(name.path.name.replace(".input.", ".gs."))
    if not scores.is_file():
        raise DataError(f"{name.path}: no {scores.name} beside it, which holds the scores")
    pairs, numbers = table(name.path, columns=("sentence1", "sentence2")), text_of(scores).split("\n")
    for line, row in pairs:
        if line > len(numbers):
            raise DataError(f"{scores}:{line}: no score for this line of {name.path.name}; fetch both files again")
        yield line, {**row, "score": numbers[line - 1].strip()}


def _language(row: dict[str, str], name: FileName) -> str:
    tag = row.get("lang") or row.get("language")
    if tag is None:
        return require_language(name)
    return "+".join(dict.fromkeys(language(part) or part for part in tag.split("-")))


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
