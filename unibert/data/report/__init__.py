"""The report of a prepared data folder for people: report.html, one file without links or scripts, and its charts.

It is made of what the stages wrote: report.json of the tokens, clean/report.json and cleaned/report.json of what was
dropped, dropped.jsonl beside these with samples of it, and raw/manifest.json of the sources. A chart has a row for each
language of the recipe.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from unibert.data.lines import atomic
from unibert.data.report import charts
from unibert.data.report.facts import Facts, gather
from unibert.data.report.page import compose
from unibert.schema import Recipe


def write(recipe: Recipe) -> list[Path]:
    """Write <data.folder>/report.html and report/*.png, and report.json and report.md anew.

    Returns:
        The page's path and the charts'.

    Raises:
        DataError: the shards or a stage's report are missing or damaged.
    """
    facts = gather(recipe)
    folder = recipe.data.folder / "report"
    folder.mkdir(exist_ok=True)
    drawn = {name: draw(facts) for name, draw in CHARTS.items()}
    paths = [folder / f"{name}.png" for name in drawn]
    for path, png in zip(paths, drawn.values(), strict=True):
        path.write_bytes(png)
    page = recipe.data.folder / "report.html"
    with atomic(page) as file:
        file.write(compose(facts, drawn))
    return [page, *paths]


CHARTS: dict[str, Callable[[Facts], bytes]] = {
    "shares": lambda facts: charts.shares(
        facts.names(), before=facts.found(), after=[row["share"] for row in facts.languages.values()]
    ),
    "dropped": lambda facts: charts.parts(
        facts.names(), [facts.all_dropped(code) for code in facts.languages], kept=list(facts.kept.values())
    ),
    "tokens_per_word": lambda facts: charts.bars(
        facts.names(), [row["tokens_per_word"] for row in facts.languages.values()], unit="tokens per word"
    ),
    "characters_per_token": lambda facts: charts.bars(
        facts.names(), [row["characters_per_token"] for row in facts.languages.values()], unit="characters per token"
    ),
    "lengths": lambda facts: charts.lengths(facts.names(), [row["lengths"] for row in facts.languages.values()]),
}
