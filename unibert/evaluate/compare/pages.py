"""The report as Markdown, LaTeX and JSON. Scores are in hundredths, improvements in percent."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from unibert.evaluate.compare.analysis import AVERAGE, Analysis, Entry
from unibert.evaluate.statistics.bootstrap import Finding
from unibert.languages import LANGUAGES


def markdown(found: Analysis, *, charts: Sequence[tuple[str, str]], files: Sequence[str]) -> str:
    """The whole report; charts as (title, file name)."""
    lines = ["# Models compared", ""]
    lines += [f"From {', '.join(f'`{name}`' for name in files)}. " + _HOW, ""]
    lines += ["## Means over languages", "", *_table(_means(found)), ""]
    trained = [f"{column}: {how}" for column, how in found.how.items() if how]
    lines += [f"Trained on, or read with: {'; '.join(trained)}.", ""] if trained else []
    lines += ["**Not measured alike**:", "", *(f"- {line}" for line in found.unlike), ""] if found.unlike else []
    if found.against:
        lines += [f"## Against {found.reference}", "", *_table(_improvements(found)), "", _TESTS, ""]
    if found.welch is not None:
        lines += [
            f"{', '.join(found.ours)} against the others, mean relative improvement: {_finding(found.welch)}.",
            "",
        ]
    for title, name in charts:
        lines += [f"![{title}]({name})", ""]
    for column in found.columns:
        lines += [f"## {column}: {found.columns[column]}", "", *_table(_languages(found, column)), ""]
    for by, groups in found.groups.items():
        lines += [f"## By {by}", "", *_table(_grouped(found, groups)), ""]
    lines += ["## Models", "", *_table(_models(found)), "", _COST, ""]
    if found.left_out:
        lines += ["## Not compared", "", *(f"- {line}" for line in found.left_out), ""]
    return "\n".join(lines)


_HOW = (
    "Scores are in hundredths, with a 95 % interval over examples (bootstrap) in brackets and, where there are several "
    "seeds, ± their standard deviation. **Bold**: the best, or not significantly worse at 5 % (paired bootstrap, Holm "
    "over the models). A language probe's accuracy is no merit: it is shown, and not ranked or counted below; nor does "
    "it count below what embeddings find without their language's part (LIR), which is told every text's language."
)
_TESTS = (
    "p-values after Holm over the models, of: the paired bootstrap over examples (mean relative improvement), the "
    "paired t-test and Wilcoxon's over (task, language) cells (difference of scores)."
)


_COST = (
    "Tokens and hours are of the training that made a model (steps alone; the mean over its trainings), where it comes "
    "from a run folder."
)


def latex(found: Analysis) -> str:
    """The means over languages as a tabular, for a paper (booktabs)."""
    rows = _means(found)
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}", r"\toprule"]
    for number, row in enumerate(rows):
        lines.append(" & ".join(_tex(text) for text in row) + r" \\")
        if number == 0:
            lines.append(r"\midrule")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def as_json(found: Analysis) -> dict[str, Any]:
    """All of it; what is not finite is null."""
    return _finite(dataclasses.asdict(found))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return bool(value) if type(value).__name__ == "bool" else value


def _means(found: Analysis) -> list[list[str]]:
    head = ["model", *(f"{column} ({len(found.languages[column])})" for column in found.columns)]
    rows = [
        [model, *(_entry(found.entries[column][AVERAGE][model]) for column in found.columns)] for model in found.models
    ]
    return [head, *rows]


def _improvements(found: Analysis) -> list[list[str]]:
    columns = list(next(iter(found.against.values())).by_column)
    head = ["model", *columns, "mean, %", "p bootstrap", "p paired t", "p Wilcoxon"]
    return [
        head,
        *(
            [
                model,
                *(_signed(against.by_column[column]) for column in columns),
                _signed(against.mean),
                *(_p(against.adjusted[test]) for test in ("bootstrap", "paired_t", "wilcoxon")),
            ]
            for model, against in found.against.items()
        ),
    ]


def _languages(found: Analysis, column: str) -> list[list[str]]:
    rows = [
        [_name(code), *(_entry(found.entries[column][code][model]) for model in found.models)]
        for code in (*found.languages[column], AVERAGE)
    ]
    return [["language", *found.models], *rows]


def _grouped(found: Analysis, groups: dict[str, dict[str, dict[str, float]]]) -> list[list[str]]:
    rows = [["group", "task", *found.models]]
    for group, columns in sorted(groups.items()):
        rows += [
            [group, column, *(f"{100 * values[model]:.1f}" for model in found.models)]
            for column, values in columns.items()
        ]
    return rows


def _models(found: Analysis) -> list[list[str]]:
    head = ["model", "parameters", "without embeddings", "tokens read", "hours", "seeds", "measured in"]
    rows = [
        [
            name,
            f"{facts['parameters'] / 1e6:.1f}M",
            f"{facts['parameters_without_embeddings'] / 1e6:.1f}M",
            "" if facts["tokens"] is None else f"{facts['tokens']:,.0f}",
            "" if facts["hours"] is None else f"{facts['hours']:.2f}",
            str(facts["seeds"]),
            f"{facts['seconds'] / 60:.1f} min",
        ]
        for name, facts in found.facts.items()
    ]
    return [head, *rows]


def _name(code: str) -> str:
    return f"{LANGUAGES[code].name} ({code})" if code in LANGUAGES else code


def _entry(entry: Entry) -> str:
    value = f"{100 * entry.score.value:.1f}"
    text = f"**{value}**" if entry.best else value
    if math.isfinite(entry.deviation):
        text += f" ±{100 * entry.deviation:.1f}"
    return f"{text} [{100 * entry.score.low:.1f}, {100 * entry.score.high:.1f}]"


def _signed(found: Finding) -> str:
    return f"{found.value:+.1f} [{found.low:+.1f}, {found.high:+.1f}]"


def _finding(found: Finding) -> str:
    return f"{_signed(found)}, p = {_p(found.p)}"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for number, row in enumerate(rows):
        yield "| " + " | ".join(text.replace("|", "\\|") for text in row) + " |"
        if number == 0:
            yield "|" + "---|" * len(row)


_IN_TEX = {char: "\\" + char for char in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "±": r"$\pm$",
}


def _tex(text: str) -> str:
    bold = re.fullmatch(r"\*\*(\S+)\*\*( .*)?", text)
    value, rest = (bold[1], bold[2] or "") if bold else ("", text)
    value, rest = (part.translate(str.maketrans(_IN_TEX)) for part in (value, rest))
    return (rf"\textbf{{{value}}}" if bold else "") + rest
