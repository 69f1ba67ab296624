"""Whether rows of results belong together: what must be alike in one model's, and what models do not share.

What was measured again, of other examples (another --limit, a file that changed, one language more to tell apart) or
on a machine of another precision, takes the place of what was measured before (`newest`). All else is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unibert.errors import DataError
from unibert.evaluate.results_file import ResultRow

FIX = (
    "a mean over them would mean nothing: keep ways of measuring, and versions of a model, apart by another name "
    "(NAME=PATH) or another results file"
)
AGAIN = "give the newer command once more, to its end, or measure all again with --force"


def newest(rows: Sequence[ResultRow]) -> tuple[list[ResultRow], list[str]]:
    """Rows without those that were measured again, and in words what these were.

    Args:
        rows: of one results file, in its order: the later ones are newer.
    """
    gone: set[str] = set()
    last: dict[tuple[Any, ...], ResultRow] = {}
    replaced: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        if row.purpose != "test":
            continue
        once = (row.model, row.seed, *row.place)
        old, last[once] = last.get(once), row
        if old is not None and _measured_again(old, row):
            gone.add(old.key)
            column = (row.model, *dict.fromkeys((row.task, row.set)), f"({row.way})")
            replaced.setdefault(column, []).append(_apart(old, row) or _examples_apart(old, row))
    said = []
    for (model, *column), why in replaced.items():
        what = "1 older row is" if len(why) == 1 else f"{len(why)} older rows are"
        reasons = "; ".join(dict.fromkeys(filter(None, why))) or "other languages, or text of them, beside"
        said.append(f"{model}: {' '.join(column)}: {what} replaced by newer ones ({reasons})")
    return [row for row in rows if row.key not in gone], said


def _measured_again(old: ResultRow, new: ResultRow) -> bool:
    """Whether the newer row is the older one's measurement, of the same model, with other examples or precision."""
    if (old.weights, old.source) != (new.weights, new.source) or bool(old.settings) != bool(new.settings):
        return False
    names = {name for name in old.settings | new.settings if old.settings.get(name) != new.settings.get(name)}
    if "limit" in names:
        names.discard("training data")  # it limits these too
    return names <= {"limit", "precision"} and (bool(names) or old.learning_rate == new.learning_rate)


def refuse_mixed(tests: Sequence[ResultRow]) -> None:
    """Raise where rows of one model are not repetitions of one measurement.

    Raises:
        DataError: two rows of one task, language and seed; seeds or languages measured with other settings; seeds
            measured on other examples; or a seed with rows of two versions of the weights.
    """
    first: dict[tuple[Any, ...], ResultRow] = {}
    for row in tests:
        task, of, way, language = row.place
        once = (row.model, row.seed, *row.place)
        if once in first:
            old = first[once]
            said = _apart(old, row) or _examples_apart(old, row)
            said = said or f"learning rates {old.learning_rate} and {row.learning_rate}"
            said = said if old.weights == row.weights else f"weights {old.weights} and {row.weights}"
            raise DataError(
                f"{row.model}: {task} {of} {language} ({way}) was measured twice with seed {row.seed}, {said} (keys "
                f"{old.key} and {row.key}): {FIX}, or take one of the two lines out of the file"
            )
        first[once] = row
        alike = first.setdefault((row.model, task, of, way), row)
        if apart := _apart(alike, row):
            raise DataError(f"{row.model}: {task} {of} ({way}) was measured with different settings ({apart}): {FIX}")
        if apart := _limits_apart(alike, row):
            raise DataError(f"{row.model}: {task} {of} ({way}): {alike.language} and {language} have {apart}: {AGAIN}")
        if apart := _examples_apart(first.setdefault((row.model, *row.place), row), row):
            raise DataError(f"{row.model}: {task} {of} {language} ({way}): seeds were measured on {apart}: {AGAIN}")
        # A mean of equal numbers: it is not the last bit that tells.
        chances = [round(one.values.get("chance", 0.0), 9) for one in (alike, row)]
        if chances[0] != chances[1]:
            raise DataError(
                f"{row.model}: {task} {of} ({way}): {alike.language} and {language} were told apart among other "
                f"languages, by a chance of {chances[0]} and {chances[1]}: {AGAIN}"
            )
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
        names = dict.fromkeys([*one.settings, *other.settings])
        if one.place != other.place and not ("limit" in one.settings and "limit" in other.settings):
            names.pop("limit", None)  # untuned it is said only where a language has more examples: see _limits_apart
        pairs |= {name: (one.settings.get(name), other.settings.get(name)) for name in names}
    return ", ".join(f"{name} {mine!r} and {theirs!r}" for name, (mine, theirs) in pairs.items() if mine != theirs)


def _limits_apart(one: ResultRow, other: ResultRow) -> str:
    """Whether one language was measured under a limit, and another of more examples without."""
    for limited, whole in ((one, other), (other, one)):
        limit = limited.settings.get("limit")
        if limit is not None and "limit" not in whole.settings and len(whole.rows) > limit:
            return f"{len(one.rows)} and {len(other.rows)} examples, one of them by --limit {limit}"
    return ""


def _examples_apart(one: ResultRow, other: ResultRow) -> str:
    """In what the examples of two rows differ."""
    if one.data == other.data:
        return ""
    sizes = len(one.rows), len(other.rows)
    many = f"{sizes[0]} and {sizes[1]}" if sizes[0] != sizes[1] else f"{sizes[0]} each"
    return f"different examples, {many}: another --limit, or a file that changed"
