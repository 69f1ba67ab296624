"""Whether rows of results belong together: what must be alike in one model's, and what models do not share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unibert.errors import DataError
from unibert.evaluate.results_file import ResultRow

FIX = (
    "a mean over them would mean nothing: keep ways of measuring, and versions of a model, apart by another name "
    "(NAME=PATH) or another results file"
)


def refuse_mixed(tests: Sequence[ResultRow]) -> None:
    """Raise where rows of one model are not repetitions of one measurement.

    Raises:
        DataError: two rows of one task, language and seed; seeds or languages measured with other settings; or a seed
            with rows of two versions of the weights.
    """
    first: dict[tuple[Any, ...], ResultRow] = {}
    for row in tests:
        task, of, way, language = row.place
        once = (row.model, row.seed, *row.place)
        if once in first:
            old = first[once]
            said = _apart(old, row) or f"learning rates {old.learning_rate} and {row.learning_rate}"
            said = said if old.weights == row.weights else f"weights {old.weights} and {row.weights}"
            raise DataError(
                f"{row.model}: {task} {of} {language} ({way}) was measured twice with seed {row.seed}, {said} (keys "
                f"{old.key} and {row.key}): {FIX}, or take one of the two lines out of the file"
            )
        first[once] = row
        alike = first.setdefault((row.model, task, of, way), row)
        if apart := _apart(alike, row):
            raise DataError(f"{row.model}: {task} {of} ({way}) was measured with different settings ({apart}): {FIX}")
        same = first.setdefault((row.model, row.seed), row)
        if row.weights and same.weights and row.weights != same.weights:
            raise DataError(
                f"{row.model}: {same.task} and {task} were measured of different weights "
                f"({same.weights} and {row.weights}): {FIX}"
            )


def unlike(column: str, rows: Mapping[str, Sequence[ResultRow]]) -> list[str]:
    """Settings of a column in which its models differ; the prefix of texts is said elsewhere."""
    known = {model: own[0].settings for model, own in rows.items() if own[0].settings}
    lines = []
    for name in dict.fromkeys(name for settings in known.values() for name in settings if name != "prefix"):
        models: dict[str, list[str]] = {}
        for model, settings in known.items():
            models.setdefault(f"{settings.get(name)}", []).append(model)
        if len(models) > 1:
            said = ", ".join(f"{value} ({', '.join(those)})" for value, those in models.items())
            lines.append(f"{column}: {name} {said}")
    return lines


def _apart(one: ResultRow, other: ResultRow) -> str:
    """In what the settings of two rows differ; those of before settings were kept are not known."""
    pairs = {"trained on, or read with": (one.source, other.source)}
    if one.settings and other.settings:
        pairs |= {name: (one.settings.get(name), other.settings.get(name)) for name in one.settings | other.settings}
    return ", ".join(f"{name} {mine!r} and {theirs!r}" for name, (mine, theirs) in pairs.items() if mine != theirs)
