"""Charts of the run itself, from metrics.jsonl: held-out cross-entropy beside the baseline, and every loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from unibert.data.lines import read_rows
from unibert.evaluate import style
from unibert.evaluate.results import STUDENT, TEACHER, Report

HELDOUT, UNIGRAM = "eval/masked_cross_entropy", "eval/unigram_cross_entropy"
SMALL = (
    "loss/",
    "adversary/accuracy",
    "teacher/agreement_top1",
    "eval/masked_accuracy",
    "eval/retrieval_top1",
    "optim/lr",
)
"""Tags, or beginnings of tags, that get a small chart when the run logged them, in this order."""

Series = tuple[np.ndarray, np.ndarray]


def read_metrics(path: Path) -> dict[str, Series]:
    """Tag -> (steps, values) of metrics.jsonl, finite values only; empty when there is no such file."""
    series: dict[str, tuple[list[int], list[float]]] = {}
    for row in read_rows(path) if path.is_file() else ():
        for tag, value in row.items():
            if tag != "step" and isinstance(value, int | float) and np.isfinite(value):
                steps, values = series.setdefault(tag, ([], []))
                steps.append(int(row["step"]))
                values.append(float(value))
    return {tag: (np.array(steps), np.array(values)) for tag, (steps, values) in series.items()}


def training_chart(report: Report, metrics: dict[str, Series], path: Path) -> Path:
    """Held-out masked cross-entropy through the run with its baseline, large; losses and more, small."""
    small = [tag for begin in SMALL for tag in metrics if tag.startswith(begin) and len(metrics[tag][0]) > 1]
    rows, columns = 3, max(1, -(-len(small) // 3))
    width = 7.0 + 3.1 * columns
    with style.context():
        figure = plt.figure(figsize=(width, 6.6))
        outer = figure.add_gridspec(
            1,
            2,
            width_ratios=(6.0, 3.1 * columns),
            left=0.62 / width,
            right=1 - 0.3 / width,
            top=0.83,
            bottom=0.085,
            wspace=0.55 / columns / 2 + 0.06,
        )
        _heldout(figure.add_subplot(outer[0]), metrics, report)
        inner = outer[1].subgridspec(rows, columns, hspace=0.55, wspace=0.32)
        for i, tag in enumerate(small):
            ax = figure.add_subplot(inner[i % rows, i // rows])
            _line(ax, metrics[tag], colour=style.ROLES[STUDENT])
            if tag == "adversary/accuracy" and "adversary/chance" in metrics:
                ax.plot(*metrics["adversary/chance"], color=style.BASELINE, linestyle=(0, (4, 3)), linewidth=1.1)
            ax.set_title(tag, size=9)
        style.title(
            figure,
            f"The run {report.run}, step by step",
            below="Left: held-out text that is never trained on.  Right: the training signals at every step (faint) "
            "and smoothed; dashed is chance.",
        )
        return style.save(figure, path)


def _heldout(ax: Axes, metrics: dict[str, Series], report: Report) -> None:
    steps, values = metrics[HELDOUT]
    last = steps[-1]
    lines: list[tuple[str, float, str, Any]] = [
        ("token frequencies alone", _level(metrics, report), style.BASELINE, (0, (5, 3)))
    ]
    teacher = report.model(TEACHER)
    if teacher is not None and teacher.masked:
        lines.append(("teacher", teacher.mean("cross_entropy"), style.ROLES[TEACHER], (0, (1, 1.6))))
    for name, level, colour, dashes in lines:
        ax.axhline(level, color=colour, linestyle=dashes, linewidth=1.6, zorder=1)
        ax.annotate(
            f"{name}  {level:.2f}",
            (last, level),
            xytext=(-2, 4),
            textcoords="offset points",
            ha="right",
            color=colour,
            size=9.4,
        )
    ax.plot(
        steps,
        values,
        color=style.ROLES[STUDENT],
        linewidth=2.6,
        marker="o",
        markersize=5,
        markeredgecolor=style.PAPER,
        zorder=3,
    )
    ax.annotate(
        f"student  {values[-1]:.2f}",
        (last, values[-1]),
        xytext=(-2, 9),
        textcoords="offset points",
        ha="right",
        color=style.ROLES[STUDENT],
        weight="bold",
        size=10,
    )
    ax.set_xlim(min(0, steps[0]), last * 1.02)
    low = min(*values, *(level for _, level, _, _ in lines))
    high = max(*values, *(level for _, level, _, _ in lines))
    ax.set_ylim(max(0, low - 0.12 * (high - low)), high + 0.08 * (high - low))
    ax.set_title("Held-out masked cross-entropy, mean over languages (nats per target)")
    ax.set_xlabel("optimizer step")
    ax.grid(axis="x", visible=False)


def _level(metrics: dict[str, Series], report: Report) -> float:
    """The baseline of the very targets that the run looked at, when it logged one; the report's otherwise."""
    return float(metrics[UNIGRAM][1][-1]) if UNIGRAM in metrics else report.baseline.mean()


def _line(ax: Axes, series: Series, *, colour: str) -> None:
    steps, values = series
    smooth = smoothed(values, window=max(1, len(values) // 25))
    if len(values) > 25:
        ax.plot(steps, values, color=colour, alpha=0.22, linewidth=0.8)
        # A loss begins far above where it lives: the axis follows the smoothed line.
        room = 0.15 * (np.ptp(smooth) or 1.0)
        ax.set_ylim(smooth.min() - room, smooth.max() + room)
    ax.plot(steps, smooth, color=colour, linewidth=1.7)
    ax.locator_params(axis="both", nbins=4)
    ax.tick_params(labelsize=8)


def smoothed(values: Sequence[float] | np.ndarray, *, window: int) -> np.ndarray:
    """Centred moving mean over `2 window + 1` values, fewer at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - window, 0), np.minimum(index + window + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)
