"""Predictions as rows of the results file."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from unibert.errors import NumericsError
from unibert.evaluate.finetune.plan import Plan
from unibert.evaluate.finetune.subject import Model
from unibert.evaluate.results_file import ResultRow
from unibert.evaluate.statistics.scores import score
from unibert.evaluate.tasks.base import fingerprint, ids_fingerprint

Place = tuple[str, str, str, Sequence[Any]]
"""Set, split, language, examples."""


def make_row(
    model: Model,
    plan: Plan,
    place: Place,
    predictions: Sequence[Any],
    *,
    key: str,
    purpose: str,
    seed: int,
    way: str,
    rate: float | None,
    sizes: tuple[int, int],
    began: float,
    settings: dict[str, Any],
    asked: str = "",
) -> ResultRow:
    """Predictions as a row of the results file.

    `settings` is how they were made; `asked` what decides, besides the examples, what is asked of each.

    Raises:
        NumericsError: a prediction, or what comes of it, is not finite.
    """
    of, split, language, examples = place
    _require_finite(predictions, model, place, "predictions")
    found = plan.task.measure(examples, predictions, of=of, language=language)
    main = found[plan.task.metric]
    values = {metric: score(measured.kind, measured.rows) for metric, measured in found.items()}
    _require_finite([*values.values(), *main.rows.tolist()], model, place, "scores")
    tokens, hours = model.cost
    return ResultRow(
        key=key,
        purpose=purpose,
        model=model.name,
        task=plan.task.name,
        set=of,
        split=split,
        language=language,
        seed=seed,
        way=way,
        source=plan.source,
        metric=plan.task.metric,
        kind=main.kind,
        values=values,
        rows=np.round(main.rows, 6).tolist(),
        ids=ids_fingerprint(examples),
        data=fingerprint(examples) + asked,
        learning_rate=rate,
        parameters=sizes[0],
        parameters_without_embeddings=sizes[1],
        seconds=round(time.monotonic() - began, 2),
        weights=model.weights,
        settings=settings,
        trained_tokens=tokens,
        trained_hours=hours,
    )


def _require_finite(made: Sequence[Any], model: Model, place: Place, what: str) -> None:
    of, _, language, _ = place
    wrong = sum(not all(map(math.isfinite, _numbers(one))) for one in made)
    if wrong:
        raise NumericsError(
            f"{model.name}: {of} {language}: {wrong} of {len(made)} {what} are not finite: look whether the weights in "
            f"{model.folder} are finite"
        )


def _numbers(value: Any) -> Iterator[float]:
    """All numbers in a prediction: itself, or in lists and mappings; text has none."""
    if isinstance(value, float | int):
        yield value
    elif isinstance(value, Mapping):
        yield from (number for one in value.values() for number in _numbers(one))
    elif isinstance(value, list | tuple):
        yield from (number for one in value for number in _numbers(one))


def words_of(row: ResultRow) -> str:
    """A row as a line of progress."""
    value = row.values[row.metric]
    return f"{row.model}: {row.set} {row.language} ({row.way}, seed {row.seed}): {row.metric} {value:.4f}"
