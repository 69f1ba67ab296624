"""From rows of results to what a report says: scores with intervals, who is best, who is not significantly worse.

A column is a task's set measured in one way ("qa xquad zero-shot"); its languages are those that every model has, so
that means compare. Everything is computed once, here; pages and charts only show it. What is tested:
- against the best of a column (per language and in the mean): the paired bootstrap over examples, Holm over the models;
  who is not significantly worse at 5 % is marked like the best;
- against the reference: relative improvement 100 (score - reference's) / reference's per column and in the mean, with
  the bootstrap's interval and p; paired t and Wilcoxon over (column, language) cells; all with Holm over the models;
- between two groups of models: Welch on their mean relative improvements.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unibert.errors import ConfigError, DataError
from unibert.evaluate.compare.consistency import refuse_mixed, unlike
from unibert.evaluate.results import SCRIPTS
from unibert.evaluate.results_file import ResultRow, cell
from unibert.evaluate.statistics.bootstrap import Cell, Finding, interval, paired_bootstrap, relative_improvement
from unibert.evaluate.statistics.scores import score
from unibert.evaluate.statistics.significance import holm, paired_t, welch, wilcoxon
from unibert.evaluate.tasks import TASKS
from unibert.languages import LANGUAGES

ALPHA = 0.05
AVERAGE = "mean"

Column = tuple[str, str, str]
"""Task, set, way."""


@dataclass(frozen=True)
class Entry:
    """A model's score in a language of a column, or in the mean over them."""

    score: Finding
    """Its interval is over examples."""
    deviation: float
    """Standard deviation over seeds; NaN with one."""
    best: bool
    """The best, or not significantly worse."""
    p: float
    """Of being as good as the best, after Holm; 1 for the best itself."""


@dataclass(frozen=True)
class AgainstReference:
    """A model against the reference."""

    by_column: Mapping[str, Finding]
    """Relative improvement in percent."""
    mean: Finding
    """Mean over columns, by the bootstrap."""
    paired_t: Finding
    """Difference of scores over (column, language) cells."""
    wilcoxon: Finding
    adjusted: Mapping[str, float]
    """p after Holm over the models: bootstrap, paired_t, wilcoxon."""


@dataclass
class Analysis:
    """All that a report shows."""

    models: list[str]
    columns: dict[str, str] = field(default_factory=dict)
    """Column's name -> metric."""
    languages: dict[str, list[str]] = field(default_factory=dict)
    """Column -> languages that all models have."""
    entries: dict[str, dict[str, dict[str, Entry]]] = field(default_factory=dict)
    """Column -> language or AVERAGE -> model -> entry."""
    groups: dict[str, dict[str, dict[str, dict[str, float]]]] = field(default_factory=dict)
    """script or family -> group -> column -> model -> mean."""
    reference: str | None = None
    against: dict[str, AgainstReference] = field(default_factory=dict)
    welch: Finding | None = None
    ours: list[str] = field(default_factory=list)
    unranked: list[str] = field(default_factory=list)
    """Columns in which nobody is better, such as the language probe's."""
    left_out: list[str] = field(default_factory=list)
    """What was measured and cannot be compared, in words."""
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Model -> parameters, seeds, seconds, and what its training had read and how long that took, where known."""
    unlike: list[str] = field(default_factory=list)
    """Settings and numbers of seeds in which models of a column differ, in words."""
    how: dict[str, str] = field(default_factory=dict)
    """Column -> what was trained on, or the prefix of texts, of each model's; empty where there was neither."""


def analyse(
    rows: Iterable[ResultRow], *, reference: str | None = None, ours: Sequence[str] = (), resamples: int = 1000
) -> Analysis:
    """Everything a report says of rows.

    Args:
        rows: of one or more results files.
        reference: the model that improvements are relative to; none without.
        ours: models that Welch's test compares with the others (the reference left out).
        resamples: of each bootstrap.

    Raises:
        ConfigError: a reference, or models of ours, of which there are no results, or nothing to compare ours with.
        DataError: nothing that all models have, one model measured on other examples than another, or a model whose
            rows do not belong together (consistency.py).
    """
    rows = list(rows)
    tests = [row for row in rows if row.purpose == "test"]
    found = Analysis(sorted({row.model for row in tests}), reference=reference, ours=list(ours))
    if not tests:
        raise DataError("no results of any model in these files: measure some with unibert evaluate MODEL --tasks ...")
    _refuse_names(found)
    refuse_mixed(tests)
    cells = _cells(found, tests)
    if not cells:
        raise DataError("there is no task, set and language that all models were measured on: measure what is missing")
    for column, by_language in cells.items():
        found.languages[column] = list(by_language)
        found.entries[column] = {
            language: _entries(
                {m: c if isinstance(c, list) else [c] for m, c in those.items()},
                ranked=column not in found.unranked,
                resamples=resamples,
            )
            for language, those in {
                **by_language,
                AVERAGE: {m: [one[m] for one in by_language.values()] for m in found.models},
            }.items()
        }
    _group(found)
    for model in found.models:
        own = [row for row in tests if row.model == model]
        found.facts[model] = {
            "parameters": own[0].parameters,
            "parameters_without_embeddings": own[0].parameters_without_embeddings,
            "seeds": len({row.seed for row in own}),
            "seconds": round(sum(row.seconds for row in rows_of(rows, model)), 1),
            "tokens": _mean_of_runs(own, "trained_tokens"),
            "hours": _mean_of_runs(own, "trained_hours"),
        }
    if reference:
        _against(found, cells, resamples=resamples)
    return found


def _refuse_names(found: Analysis) -> None:
    """Refuse a reference and models of ours that cannot be compared."""
    for option, names in {"--reference": [found.reference] if found.reference else [], "--ours": found.ours}.items():
        if unknown := [name for name in names if name not in found.models]:
            raise ConfigError(
                f"{option}: no results of {', '.join(unknown)}; name some of those there are: {', '.join(found.models)}"
            )
    others = [name for name in found.models if name != found.reference]
    mine = [name for name in others if name in found.ours]
    if found.ours and found.reference and not 0 < len(mine) < len(others):
        raise ConfigError(
            f"--ours {' '.join(found.ours)}: without the reference {found.reference} there are {', '.join(others)}: "
            "name some of these, and not all"
        )


def _mean_of_runs(rows: Sequence[ResultRow], what: str) -> float | None:
    """The mean over a model's weights (one a training) of what they cost; None where that is not known of one."""
    of_weights = {row.weights: getattr(row, what) for row in rows}
    return None if None in of_weights.values() else float(np.mean(list(of_weights.values())))


def rows_of(rows: Iterable[ResultRow], model: str) -> list[ResultRow]:
    """The rows of a model."""
    return [row for row in rows if row.model == model]


def _cells(found: Analysis, tests: Sequence[ResultRow]) -> dict[str, dict[str, dict[str, Cell]]]:
    """Column -> language -> model -> cell, where all models have one of the same examples."""
    by_place: dict[tuple[Column, str], dict[str, list[ResultRow]]] = {}
    for row in tests:
        place = ((row.task, row.set, row.way), row.language)
        by_place.setdefault(place, {}).setdefault(row.model, []).append(row)
    cells: dict[str, dict[str, dict[str, Cell]]] = {}
    for (column, language), those in sorted(by_place.items()):
        name = " ".join(dict.fromkeys(column))
        missing = [model for model in found.models if model not in those]
        if missing:
            found.left_out.append(f"{name} {language}: not measured of {', '.join(missing)}")
        elif len({row.data for own in those.values() for row in own}) > 1:
            if _is(column, "by_tokenizer"):
                found.left_out.append(
                    f"{name} {language}: models of other tokenizers or lengths are asked for other tokens"
                )
                continue
            raise DataError(f"{name} {language}: models were measured on different examples; measure them on the same")
        else:
            found.columns[name] = next(iter(those.values()))[0].metric
            found.how[name] = "; ".join(sorted({row.source for own in those.values() for row in own}))
            if _is(column, "describes") and name not in found.unranked:
                found.unranked.append(name)
            found.unlike += [line for line in unlike(name, those) if line not in found.unlike]
            cells.setdefault(name, {})[language] = {model: cell(own) for model, own in those.items()}
    for name, by_language in cells.items():
        found.unlike += _unlike_seeds(name, by_language)
    return cells


def _unlike_seeds(name: str, by_language: Mapping[str, Mapping[str, Cell]]) -> list[str]:
    """A line where models, or languages of one, were not measured with as many seeds."""
    models: dict[str, list[str]] = {}
    for model in next(iter(by_language.values())):
        counts = {len(those[model].rows) for those in by_language.values()}
        said = f"{max(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)} by language"
        models.setdefault(said, []).append(model)
    if len(models) == 1 and next(iter(models)).isdigit():
        return []
    said = ", ".join(f"{count} ({', '.join(those)})" for count, those in models.items())
    return [f"{name}: seeds {said}"]


def _is(column: Column, what: str) -> bool:
    """A class variable of a column's task; false for a task that this version does not know."""
    return bool(getattr(TASKS.get(column[0]), what, False))


def _entries(cells: Mapping[str, list[Cell]], *, ranked: bool, resamples: int) -> dict[str, Entry]:
    scores = {model: interval(own, resamples=resamples) for model, own in cells.items()}
    if not ranked:
        return {model: Entry(scores[model], _deviation(own), False, 1.0) for model, own in cells.items()}
    best = max(scores, key=lambda model: scores[model].value)
    others = [model for model in cells if model != best]
    raw = [paired_bootstrap(cells[best], cells[model], resamples=resamples).p for model in others]
    adjusted = {best: 1.0, **dict(zip(others, holm(raw), strict=True))}
    return {
        model: Entry(scores[model], _deviation(own), adjusted[model] >= ALPHA, adjusted[model])
        for model, own in cells.items()
    }


def _deviation(cells: Sequence[Cell]) -> float:
    """Over seeds, of the mean over cells."""
    means = _by_seed(cells)
    return float(np.std(means, ddof=1)) if len(means) > 1 else float("nan")


def _by_seed(cells: Sequence[Cell]) -> list[float]:
    """The mean over cells with each seed that all have."""
    seeds = min(len(one.rows) for one in cells)
    return [float(np.mean([score(one.kind, one.rows[i]) for one in cells])) for i in range(seeds)]


def _group(found: Analysis) -> None:
    for by in ("script", "family"):
        for column, languages in found.languages.items():
            members: dict[str, list[str]] = {}
            for language in languages:
                members.setdefault(group_of(language, by=by), []).append(language)
            for group, codes in members.items():
                found.groups.setdefault(by, {}).setdefault(group, {})[column] = {
                    model: float(np.mean([found.entries[column][code][model].score.value for code in codes]))
                    for model in found.models
                }


def group_of(language: str, *, by: str) -> str:
    """Script or family of a language; "other" for one that is not in the table."""
    facts = LANGUAGES.get(language.partition("+")[0])
    if facts is None:
        return "other"
    return SCRIPTS.get(facts.script, facts.script) if by == "script" else facts.family


def _against(found: Analysis, cells: Mapping[str, Mapping[str, Mapping[str, Cell]]], *, resamples: int) -> None:
    """Every model but the reference against it, and the two groups."""
    assert found.reference is not None
    # Embeddings once more, without their language, are the same task: it would count twice in the mean.
    cells = {name: by for name, by in cells.items() if name not in found.unranked and "language removed" not in name}

    def of(model: str) -> dict[str, list[Cell]]:
        return {column: [those[model] for those in by.values()] for column, by in cells.items()}

    for column in list(cells):
        least = min(_by_seed([those[found.reference] for those in cells[column].values()]))
        if least <= 0:
            found.left_out.append(
                f"{column} against {found.reference}: it scores {100 * least:.1f} in the least of its seeds, to "
                "which nothing relates"
            )
            cells = {other: by for other, by in cells.items() if other != column}
    if not cells:
        return
    base: Any = of(found.reference)
    raw: dict[str, Any] = {}
    flat = [one.value for column in base.values() for one in column]
    for model in found.models:
        if model == found.reference:
            continue
        own = of(model)
        values = [one.value for column in own.values() for one in column]
        raw[model] = (
            {c: relative_improvement({c: own[c]}, {c: base[c]}, resamples=resamples) for c in own},
            relative_improvement(own, base, resamples=resamples),
            paired_t(values, flat),
            wilcoxon(values, flat),
        )
    names = list(raw)
    corrected = [holm([raw[name][i].p for name in names]) for i in (1, 2, 3)]
    for place, name in enumerate(names):
        ps = {test: corrected[i][place] for i, test in enumerate(("bootstrap", "paired_t", "wilcoxon"))}
        found.against[name] = AgainstReference(*raw[name], adjusted=ps)
    if found.ours:
        mine = [found.against[name].mean.value for name in names if name in found.ours]
        rest = [found.against[name].mean.value for name in names if name not in found.ours]
        found.welch = welch(mine, rest)
