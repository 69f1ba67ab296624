"""Two charts: languages x models as a map of colours, and relative improvements with their intervals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from unibert.evaluate import style
from unibert.evaluate.compare.analysis import Analysis, group_of


def heatmap(found: Analysis, path: Path) -> Path:
    """Every language of every column a row, sorted by column, script and name; every model a column; hundredths."""
    rows = [
        (column, language)
        for column, languages in found.languages.items()
        for language in sorted(languages, key=lambda code: (group_of(code, by="script"), code))
    ]
    values = np.array([[100 * found.entries[c][code][m].score.value for m in found.models] for c, code in rows])
    models, labels = style.shortened(found.models), [f"{column} · {code}" for column, code in rows]
    slanted = style.inches(models, size=8)  # by 30 degrees: as high as half of its length
    with style.context():
        width = max(4.5, 0.4 + style.inches(labels, size=7) + 0.75 * len(models) + 0.87 * slanted)
        figure, ax = plt.subplots(figsize=(width, 1.2 + slanted / 2 + 0.2 * len(rows)))
        style.below_title(figure)
        image = ax.imshow(values, aspect="auto", cmap="YlGnBu", vmin=0, vmax=max(100.0, values.max()))
        for y, row in enumerate(values):
            for x, value in enumerate(row):
                dark = float(image.norm(value)) > 0.6  # type: ignore[arg-type]  # a scalar gives a scalar
                ax.text(x, y, f"{value:.0f}", ha="center", va="center", size=7, color="white" if dark else style.INK)
        ax.set_yticks(range(len(rows)), labels, size=7)
        ax.set_xticks(range(len(models)), models, rotation=30, ha="left", size=8)
        ax.xaxis.tick_top()
        ax.grid(visible=False)
        style.title(figure, "Languages and models", below="Scores in hundredths; languages by script.")
        return style.save(figure, path)


def improvements(found: Analysis, path: Path) -> Path:
    """Relative improvement over the reference, per column and in the mean, with the bootstrap's 95 % interval."""
    groups = [*next(iter(found.against.values())).by_column, "mean"]
    models, colours = list(found.against), (*style.OTHERS, *style.GROUPS)
    names = dict(zip(models, style.shortened(models), strict=True))
    with style.context():
        bars = 0.26 * len(groups) * (len(models) + 0.6)
        width = 6 + style.inches(groups, size=8) + style.inches(list(names.values()), size=8)
        figure, ax = plt.subplots(figsize=(width, 1.5 + max(bars, 0.2 * len(models))))
        style.below_title(figure)
        for number, group in enumerate(groups):
            for place, model in enumerate(models):
                against = found.against[model]
                one = against.mean if group == "mean" else against.by_column[group]
                y = number * (len(models) + 0.6) + place
                colour = colours[place % len(colours)]
                ax.barh(y, one.value, color=colour, height=0.8, label=None if number else names[model])
                ax.plot([one.low, one.high], [y, y], color=style.INK, linewidth=1.1)
        middles = [number * (len(models) + 0.6) + (len(models) - 1) / 2 for number in range(len(groups))]
        ax.set_yticks(middles, groups, size=8)
        ax.axvline(0, color=style.MUTED, linewidth=0.8)
        ax.invert_yaxis()
        ax.set_xlabel("percent")
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
        over = style.shortened([f"{found.reference}"])[0]
        style.title(figure, "Relative improvement", below=f"Over {over}; lines are 95 % intervals.")
        return style.save(figure, path)
