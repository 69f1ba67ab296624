"""Charts of models per language: retrieval, and masked cross-entropy beside the baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from unibert.evaluate import style
from unibert.evaluate.results import ModelResult, Report
from unibert.evaluate.style import BASELINE, MUTED, PAPER, Row


def retrieval_chart(report: Report, path: Path) -> Path:
    """Retrieval into English per language: every model a dot, joined by a line, sorted by the student."""
    models = [model for model in report.models if model.retrieval]
    points = {model.name: model.per_language("to_english") for model in models}
    columns = style.language_columns(report, points[report.main.name], descending=True)
    means = " · ".join(f"{model.name} {model.mean('to_english'):.3f}" for model in models)
    chance = report.main.mean("chance_to_english")
    with style.context():
        figure, axes = style.column_axes(columns, span=(0, 1.0))
        _dots(axes, columns, points, report=report, number="{:.2f}")
        style.title(
            figure,
            "Finding the translation, from every language into English",
            below=f"Top-1 retrieval of held-out messages.  Mean: {means}.  Chance {chance:.4f}.",
        )
        style.legend(figure, _handles(models))
        return style.save(figure, path)


def masked_chart(report: Report, path: Path) -> Path:
    """Held-out masked cross-entropy per language beside the unigram baseline; lower is better."""
    models = [model for model in report.models if model.masked]
    points: dict[str, Mapping[str, float]] = {"unigram baseline": report.baseline.values}
    points |= {model.name: model.per_language("cross_entropy") for model in models}
    columns = style.language_columns(report, points[report.main.name], descending=False)
    everything = [value for values in points.values() for value in values.values()]
    means = " · ".join(f"{model.name} {model.mean('cross_entropy'):.2f}" for model in models)
    with style.context():
        figure, axes = style.column_axes(columns, span=(0, math.ceil(max(everything))))
        _dots(axes, columns, points, report=report, number="{:.1f}")
        style.title(
            figure,
            "Guessing the masked token",
            below=f"Held-out masked cross-entropy in nats, lower is better.  Mean: {means} · "
            f"token frequencies alone {report.baseline.mean():.2f}.",
        )
        style.legend(figure, [_mark("unigram baseline", among=[])] + _handles(models))
        return style.save(figure, path)


def _dots(
    axes: Sequence[Axes],
    columns: Sequence[Sequence[Row]],
    points: Mapping[str, Mapping[str, float]],
    *,
    report: Report,
    number: str,
) -> None:
    """One row per language: a grey line over the range, a mark per model, the main one's number at the right."""
    colours = style.group_colours(report)
    names, main = list(points), report.main.name
    for ax, column in zip(axes, columns, strict=True):
        style.write_rows(ax, column, colours=colours)
        places = [(y, row.code) for y, row in enumerate(column) if row.code is not None]
        for y, code in places:
            values = [points[name][code] for name in names if code in points[name]]
            ax.plot(
                [min(values), max(values)], [y, y], color="#d0d5dd", linewidth=2.2, zorder=1, solid_capstyle="round"
            )
            _beside(ax, y, number.format(points[main][code]), color=MUTED)
        heading = main if len(main) < 10 else ""  # a longer name would run into the next column
        _beside(ax, -1.0, heading, color=style.colour_of(main, among=names), weight="bold")
        for name in names:
            known = [(points[name][code], y) for y, code in places if code in points[name]]
            mark = _mark(name, among=names)
            ax.plot(
                *zip(*known, strict=True),
                linestyle="none",
                marker=mark.get_marker(),
                clip_on=False,
                markersize=mark.get_markersize(),
                markerfacecolor=mark.get_markerfacecolor(),
                markeredgecolor=mark.get_markeredgecolor(),
                markeredgewidth=mark.get_markeredgewidth(),
                zorder=3 if name == main else 2,
            )


def _beside(ax: Axes, y: float, text: str, **how: Any) -> None:
    """Write to the right of an axes."""
    at = ax.get_yaxis_transform()
    ax.annotate(text, (1, y), xycoords=at, xytext=(13, 0), textcoords="offset points", va="center", size=7.8, **how)


def _mark(name: str, *, among: Sequence[str]) -> Line2D:
    if name == "unigram baseline":
        return Line2D(
            [],
            [],
            linestyle="none",
            marker="|",
            markersize=10,
            markeredgecolor=BASELINE,
            markeredgewidth=2.0,
            markerfacecolor=BASELINE,
            label=name,
        )
    colour = style.colour_of(name, among=among)
    hollow = name == style.TEACHER
    return Line2D(
        [],
        [],
        linestyle="none",
        marker=style.MARKERS.get(name, "s"),
        markersize=5.6 if hollow else 6.2,
        markerfacecolor=PAPER if hollow else colour,
        markeredgecolor=colour if hollow else PAPER,
        markeredgewidth=1.3 if hollow else 0.7,
        label=name,
    )


def _handles(models: Sequence[ModelResult]) -> list[Line2D]:
    names = [model.name for model in models]
    return [_mark(name, among=names) for name in names]
