"""The map: every language a column of small tiles, one tile per model, languages grouped by script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from unibert.evaluate import style
from unibert.evaluate.results import ModelResult, Report

PER_LINE = 26
"""Tiles side by side."""
GAP = 0.55
"""Space between two scripts on a line, in tiles."""
TILE_INCHES = 0.5


@dataclass(frozen=True)
class Block:
    """Languages of one script that stand together on a line."""

    group: str
    codes: Sequence[str]
    left: float


def heatmap_chart(report: Report, path: Path) -> Path:
    """Retrieval into English of every language and model as coloured, numbered tiles, grouped by script."""
    models = [model for model in report.models if model.retrieval]
    lines = lay_out(report, report.main.per_language("to_english"))
    tall = len(models) + 1.75
    longest = max(block.left + len(block.codes) for line in lines for block in line)
    across = max(longest, 16.0)  # room for the title beside the scale
    width, height = (across + 5.2) * TILE_INCHES, len(lines) * tall * TILE_INCHES * 0.82 + 1.2
    with style.context():
        figure = plt.figure(figsize=(width, height))
        ax = figure.add_axes((0, 0, 1, 1 - 1.0 / height))
        ax.set_axis_off()
        ax.set_xlim(-4.6, across + 0.6)
        ax.set_ylim(len(lines) * tall + 0.1, 0)
        colours = style.group_colours(report)
        for number, blocks in enumerate(lines):
            for block in blocks:
                _draw(ax, block, models, top=number * tall, colour=colours[block.group])
            for row, model in enumerate(models):
                ax.text(
                    -0.15, number * tall + 1.5 + row, model.name, ha="right", va="center", size=8.4, color=style.MUTED
                )
        style.title(
            figure,
            "Every language, script by script",
            below="Top-1 retrieval of the English message, in hundredths; sorted by "
            f"{report.main.name} within a script.",
        )
        _scale(figure, width=width, height=height)
        return style.save(figure, path)


def lay_out(report: Report, values: dict[str, float]) -> list[list[Block]]:
    """Scripts one after the other on lines of PER_LINE tiles; a script that does not fit goes on below."""
    lines: list[list[Block]] = [[]]
    at = 0.0
    for group, codes in style.script_groups(report).items():
        left = sorted((code for code in codes if code in values), key=lambda code: -values[code])
        while left:
            room = int(PER_LINE - at)
            if room < min(3, len(left)):
                lines.append([])
                at, room = 0.0, PER_LINE
            lines[-1].append(Block(group, left[:room], at))
            at += len(left[:room]) + GAP
            left = left[room:]
    return lines


def _draw(ax: Axes, block: Block, models: Sequence[ModelResult], *, top: float, colour: str) -> None:
    right = block.left + len(block.codes) - 0.08
    ax.plot([block.left + 0.08, right], [top + 0.5, top + 0.5], color=colour, linewidth=1.6, solid_capstyle="butt")
    ax.text(block.left + 0.08, top + 0.22, block.group, size=9, weight="bold", color=colour, va="center")
    for column, code in enumerate(block.codes):
        x = block.left + column
        ax.text(x + 0.5, top + 0.78, code, ha="center", va="center", size=7.6 if len(code) < 4 else 6.2)
        for row, model in enumerate(models):
            score = model.retrieval.get(code)
            if score is not None:
                _tile(ax, x, top + 1 + row, score.to_english)


def _tile(ax: Axes, x: float, y: float, value: float) -> None:
    shade = _colours()(float(value))
    ax.add_patch(
        FancyBboxPatch(
            (x + 0.1, y + 0.1), 0.8, 0.8, boxstyle="round,pad=0,rounding_size=0.14", facecolor=shade, edgecolor="none"
        )
    )
    red, green, blue, _ = shade
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
    ax.text(
        x + 0.5,
        y + 0.52,
        f"{100 * value:.0f}",
        ha="center",
        va="center",
        size=7.8,
        color=style.PAPER if dark else style.INK,
    )


def _colours() -> Colormap:
    # From light to dark only, so it reads in grey and to colour-blind readers; the ends are cut, being too pale and
    # too black for a number on top.
    return LinearSegmentedColormap.from_list("map", plt.get_cmap("YlGnBu")(np.linspace(0.04, 0.9, 64)))


def _scale(figure: Figure, *, width: float, height: float) -> None:
    ax = figure.add_axes((1 - 2.9 / width, 1 - 0.5 / height, 2.6 / width, 0.13 / height))
    bar = figure.colorbar(ScalarMappable(Normalize(0, 100), _colours()), cax=ax, orientation="horizontal")
    bar.outline.set_visible(False)
    bar.set_ticks([0, 25, 50, 75, 100])
    ax.tick_params(labelsize=8, pad=2)
