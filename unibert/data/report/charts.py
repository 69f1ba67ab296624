"""Charts of the data report: a row for each language, tall and narrow, so that a phone shows them too."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

INCHES, ROW_INCHES, BELOW_INCHES, LEGEND_INCHES, DPI = 6.4, 0.17, 0.45, 0.24, 120
LEGEND_COLUMNS = 5
WIDTH = 640
"""CSS pixels at which a chart's text is as large as the page's small print."""
INK, MUTED, FAINT = "#1f2430", "#667085", "#e4e7ec"
BEFORE, AFTER = "#e69f00", "#0072b2"
# Okabe and Ito's palette and two greys: told apart under the usual kinds of colour blindness.
PARTS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#98a2b3", "#475467")
KEPT = "#e4e7ec"
MANY_TIMES = 30
"""Where the largest is so many times the smallest, the scale is logarithmic."""


def shares(names: Sequence[str], *, before: Sequence[float], after: Sequence[float]) -> bytes:
    """Share of the tokens as found, and of the training stream, largest first; a PNG."""
    order = _descending(before)
    figure, axes = _rows([names[i] for i in order], legend=2)
    found, given = 100 * np.array(before)[order], 100 * np.array(after)[order]
    places = np.arange(len(order))
    axes.hlines(places, np.minimum(found, given), np.maximum(found, given), color=MUTED, linewidth=1)
    axes.scatter(found, places, s=16, color=BEFORE, zorder=3)
    axes.scatter(given, places, s=16, color=AFTER, zorder=3)
    if found[0] > MANY_TIMES * found[-1]:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    else:
        axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    _legend(axes, {"of the tokens as found": BEFORE, "of the training stream": AFTER}, marker="o")
    return _png(figure)


def bars(names: Sequence[str], values: Sequence[float], *, unit: str) -> bytes:
    """One number for each language, largest first; a PNG."""
    order = _descending(values)
    figure, axes = _rows([names[i] for i in order])
    numbers = np.array(values)[order]
    # A few languages far above the others (words that no space ends) run out of the picture, with their number.
    limit = max(min(float(numbers.max()), 3 * float(np.median(numbers))), 1e-9)
    axes.barh(np.arange(len(order)), np.minimum(numbers, limit), color=AFTER, height=0.66)
    for place, value in enumerate(numbers):
        at, text = min(value, limit), f"{value:.2f}" + (" →" if value > limit else "")
        axes.annotate(text, (at, place), (3, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_xlim(0, 1.12 * limit)
    axes.set_xlabel(unit, fontsize=8, color=MUTED)
    return _png(figure)


def lengths(names: Sequence[str], quantiles: Sequence[Mapping[str, int]]) -> bytes:
    """Lengths of document pieces: 5 to 95 % as a line, the middle half as a bar, the median as a dot; a PNG."""
    order = _descending([at["0.5"] for at in quantiles])
    figure, axes = _rows([names[i] for i in order])
    for place, i in enumerate(order):
        at = quantiles[i]
        axes.hlines(place, at["0.05"], at["0.95"], color=MUTED, linewidth=1)
        axes.hlines(place, at["0.25"], at["0.75"], color=AFTER, linewidth=5)
        axes.plot(at["0.5"], place, "o", color="white", markersize=3, markeredgecolor=INK, markeredgewidth=0.7)
    axes.set_xlim(left=0)
    axes.set_xlabel("tokens of a document piece: 5 to 95 %, the middle half, the median", fontsize=8, color=MUTED)
    return _png(figure)


def parts(names: Sequence[str], counts: Sequence[Mapping[str, int]], *, kept: Sequence[int]) -> bytes:
    """What became of every row of each language, as shares that add up to all of them; a PNG.

    The reasons with most rows have colours of their own, the others share the last one.
    """
    totals: dict[str, int] = {}
    for count in counts:
        for reason, number in count.items():
            totals[reason] = totals.get(reason, 0) + number
    shown = sorted(totals, key=lambda reason: -totals[reason])
    if len(shown) > len(PARTS):
        shown = [*shown[: len(PARTS) - 1], "other"]
    whole = np.array([max(k + sum(count.values()), 1) for k, count in zip(kept, counts, strict=True)])
    order = _descending((-np.array(kept) / whole).tolist())
    colours = {"kept": KEPT, **dict(zip(shown, PARTS, strict=False))}
    figure, axes = _rows([names[i] for i in order], legend=len(colours))
    left = np.zeros(len(order))
    for label, colour in colours.items():
        numbers = [_of(label, counts[i], kept=kept[i], named=shown) for i in order]
        width = 100 * np.array(numbers) / whole[order]
        axes.barh(np.arange(len(order)), width, left=left, color=colour, height=0.8)
        left += width
    axes.set_xlim(0, 100)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    _legend(axes, colours, marker="s")
    return _png(figure)


def _descending(values: Sequence[float]) -> list[int]:
    """Places of the values, largest first."""
    return sorted(range(len(values)), key=lambda i: -values[i])


def _of(label: str, count: Mapping[str, int], *, kept: int, named: Sequence[str]) -> int:
    if label == "kept":
        return kept
    return count.get(label, 0) if label != "other" else sum(n for reason, n in count.items() if reason not in named)


def _rows(names: Sequence[str], *, legend: int = 0) -> tuple[Figure, Axes]:
    """A figure with a row for each name, the first one on top, and room for a legend of so many entries."""
    above = LEGEND_INCHES * (1 + -(-legend // LEGEND_COLUMNS))
    height = above + ROW_INCHES * len(names) + BELOW_INCHES
    figure = Figure(figsize=(INCHES, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.3, BELOW_INCHES / height, 0.67, ROW_INCHES * len(names) / height))
    axes.set_yticks(range(len(names)), names, fontsize=7.5, color=INK)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(length=0, labelsize=7.5, labelcolor=INK)
    axes.tick_params(axis="x", which="both", length=0, labelcolor=MUTED)
    axes.grid(axis="x", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _legend(axes: Axes, colours: Mapping[str, str], *, marker: str) -> None:
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", markersize=6, label=label)
        for label, colour in colours.items()
    ]
    axes.figure.legend(
        handles=handles,
        loc="upper left",
        ncols=LEGEND_COLUMNS,
        frameon=False,
        fontsize=7.5,
        labelcolor=INK,
        columnspacing=1.0,
        handletextpad=0.1,
    )


def _png(figure: Figure) -> bytes:
    target = io.BytesIO()
    figure.savefig(target, format="png", metadata={"Software": None})
    return target.getvalue()
