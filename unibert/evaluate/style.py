"""How charts look: one clean style, colours that colour-blind readers can tell apart, and languages in columns."""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from unibert.evaluate.results import BEFORE, STUDENT, TEACHER, Report

INK, MUTED, FAINT, PAPER = "#1f2430", "#667085", "#e4e7ec", "#ffffff"
BASELINE = "#475467"
# Okabe and Ito's palette: distinct under the usual kinds of colour blindness.
ROLES = {TEACHER: INK, STUDENT: "#0072b2", BEFORE: "#e69f00"}
OTHERS = ("#009e73", "#cc79a7", "#d55e00", "#56b4e9")
# Paul Tol's muted palette, for the headings of groups.
GROUPS = ("#332288", "#117733", "#aa4499", "#44aa99", "#882255", "#999933", "#cc6677", "#88ccee")
MARKERS = {TEACHER: "D", STUDENT: "o", BEFORE: "o"}

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "text.color": INK,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
}


@dataclass(frozen=True)
class Row:
    """One line of a chart with languages in columns: a group's heading, or a language."""

    text: str
    group: str
    code: str | None = None


def context() -> AbstractContextManager[None]:
    """Within it, charts have this style; outside, matplotlib's settings are as they were."""
    return plt.rc_context(STYLE)


def colour_of(name: str, *, among: Sequence[str]) -> str:
    """The colour of a model: its role's, or one of the others in the order of `among`."""
    if name in ROLES:
        return ROLES[name]
    others = [model for model in among if model not in ROLES]
    return OTHERS[others.index(name) % len(OTHERS)]


def group_colours(report: Report) -> dict[str, str]:
    """The colour of each script's heading, and of the heading of those with few languages."""
    return {group: GROUPS[i % len(GROUPS)] for i, group in enumerate(script_groups(report))}


def script_groups(report: Report) -> dict[str, list[str]]:
    """Languages by script, the largest first; scripts with one or two languages together at the end."""
    groups = report.groups("script")
    large = {script: codes for script, codes in groups.items() if len(codes) > 2}
    small = [code for script, codes in groups.items() if script not in large for code in codes]
    return {**large, **({"Other scripts": small} if small else {})}


def language_columns(report: Report, values: Mapping[str, float], *, descending: bool) -> list[list[Row]]:
    """Languages that have a value, by script and then by value, in one to three columns of equal height."""
    rows: list[Row] = []
    for group, codes in script_groups(report).items():
        shown = sorted((c for c in codes if c in values), key=lambda c: values[c], reverse=descending)
        if shown:
            rows.append(Row(group, group))
            rows += [Row(_label(report, code, group), group, code) for code in shown]
    count = 1 if len(rows) <= 26 else 2 if len(rows) <= 52 else 3
    height = math.ceil(len(rows) / count)
    columns: list[list[Row]] = [[]]
    for row in rows:
        full = len(columns[-1]) >= height and len(columns) < count
        orphan = row.code is None and len(columns[-1]) >= height - 2 and len(columns) < count
        if full or orphan:
            columns.append([] if row.code is None else [Row(f"{row.group}, continued", row.group)])
        columns[-1].append(row)
    return columns


def _label(report: Report, code: str, group: str) -> str:
    facts = report.languages[code]
    return facts.name if facts.script in (group, facts.name) else f"{facts.name} · {facts.script}"


def column_axes(columns: Sequence[Sequence[Row]], *, span: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """A figure with one axes per column, its headings and language names drawn, x from span[0] to span[1]."""
    deepest = max(len(column) for column in columns)
    height = 0.212 * deepest + 1.55
    width = {1: 11.8, 2: 12.8, 3: 16.8}[len(columns)]
    figure, axes = plt.subplots(1, len(columns), figsize=(width, height), squeeze=False)
    figure.subplots_adjust(
        left=2.0 / width, right=1 - 0.8 / width, top=1 - 1.2 / height, bottom=0.2 / height, wspace=0.78
    )
    for ax in axes[0]:
        ax.set_xlim(*span)
        ax.set_ylim(deepest - 0.4, -0.6)
        ax.set_yticks([])
        ax.grid(axis="y", visible=False)
        ax.xaxis.tick_top()
        for spine in ax.spines.values():
            spine.set_visible(False)
    return figure, list(axes[0])


def write_rows(ax: Axes, column: Sequence[Row], *, colours: Mapping[str, str]) -> None:
    """The names to the left of an axes: headings bold in their colour, languages with a strip of it."""
    at = ax.get_yaxis_transform()
    for y, row in enumerate(column):
        if row.code is None:
            ax.text(
                -0.03,
                y + 0.08,
                row.text,
                transform=at,
                ha="right",
                va="center",
                weight="bold",
                size=9,
                color=colours[row.group],
            )
            ax.plot(
                [0, 1], [y + 0.08] * 2, transform=at, color=colours[row.group], linewidth=1.1, alpha=0.55, clip_on=False
            )
        else:
            ax.text(-0.03, y, row.text, transform=at, ha="right", va="center", size=8.4)


def shortened(names: Sequence[str], *, most: int = 32) -> list[str]:
    """Names with the middle of long ones left out, where that leaves them different."""
    half = (most - 1) // 2
    short = [name if len(name) <= most else f"{name[:half]}…{name[-half:]}" for name in names]
    return short if len(set(short)) == len(set(names)) else list(names)


def inches(names: Sequence[str], *, size: float) -> float:
    """About how wide the longest of names is, of letters of a size in points."""
    return max(sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in name) for name in names) * (
        0.0085 * size
    )


def below_title(figure: Figure) -> None:
    """Lay a figure out with room for a title above all that is drawn, labels and legends outside of axes included."""
    height = figure.get_size_inches()[1]
    engine = ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - 0.8 / height), w_pad=0.1, h_pad=0.1)
    figure.set_layout_engine(engine)


def title(figure: Figure, text: str, *, below: str) -> None:
    """Title and one line below it, at the left edge, at fixed distances from the top whatever the height."""
    width, height = figure.get_size_inches()
    figure.text(0.25 / width, 1 - 0.32 / height, text, size=15, weight="bold", va="center", ha="left")
    figure.text(0.25 / width, 1 - 0.62 / height, below, size=9.6, color=MUTED, va="center", ha="left")


def legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """The legend, in the upper right corner beside the title."""
    width, height = figure.get_size_inches()
    figure.legend(
        handles=list(handles),
        loc="upper right",
        bbox_to_anchor=(1 - 0.25 / width, 1 - 0.12 / height),
        frameon=False,
        ncols=len(handles),
        fontsize=9.6,
        handletextpad=0.4,
        columnspacing=1.4,
    )


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG under its name only when whole, and close the figure."""
    for _ in range(3 if figure.get_layout_engine() else 0):  # it comes to rest in a few passes
        figure.draw_without_rendering()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    figure.savefig(temporary, format="png", dpi=150)
    plt.close(figure)
    os.replace(temporary, path)
    return path
