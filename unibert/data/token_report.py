"""The per-language report of the prepared text: how much there is, how it is tokenized, how often it is repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from unibert.data.lines import atomic, read_json, write_json
from unibert.data.shards import ShardSet
from unibert.data.tokenizer_models import byte_ids
from unibert.languages import LANGUAGES
from unibert.plan import explain_shares, make_language_plans, run_sequences
from unibert.schema import Recipe

COLUMNS = (
    ("code", "code"),
    ("name", "name"),
    ("script", "script"),
    ("documents", "documents"),
    ("characters", "characters"),
    ("tokens", "tokens"),
    ("share %", "share"),
    ("repeated", "epochs"),
    ("tok/word", "tokens_per_word"),
    ("chars/tok", "characters_per_token"),
    ("new %", "new_to_teacher"),
    ("bytes %", "bytes"),
    ("unk. %", "unknown"),
    ("exact %", "round_trip"),
)
"""(heading, key of a language's row)."""
PERCENT = frozenset({"share", "new_to_teacher", "bytes", "unknown", "round_trip"})
FILE_ONLY = frozenset({"name", "script", "characters_per_token", "bytes"})
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
"""Of the length of a document piece."""
TOKENS_AT_ONCE = 1 << 24
EXPLANATION = """\
- **documents**: lines of clean text, deduplicated, nothing of the held-out part among them; **tokens** include the
  first and last special token of each piece.
- **share**: of the training stream, by {shares}; **repeated**: how often each document is
  seen in {sequences:,} documents of the run `{name}`; **part**: the share in a part of `data.curriculum`.
- **tok/word**: fertility, words separated by white space (of no meaning in scripts without spaces, where chars/tok
  says more).
- **new**: tokens that are characters which the teacher's tokenizer lacks; their embedding begins as that of its
  unknown token. **bytes**: tokens that are single bytes of a character that is no piece. **unk.**: tokens that are
  still unknown.
- **exact**: of a sample of the documents, those that decode(encode(text)) gives back exactly as the tokenizer's own
  normaliser leaves them.
"""


def build(recipe: Recipe) -> dict[str, Any]:
    """The report of a recipe's data folder, from its finished shards."""
    folder = recipe.data.folder
    entries = {name: read_json(folder / name / "manifest.json") for name in ("shards", "shards_heldout")}
    plans = {item.code: item for item in make_language_plans(recipe, entries["shards"])}
    measured = _measure(ShardSet.open(folder / "shards", languages=recipe.languages), tokenizer=folder / "tokenizer")
    rows = {}
    for code in recipe.languages:
        planned = {
            "share": plans[code].share,
            "epochs": plans[code].epochs,
            "phase_shares": plans[code].phase_shares,
            "heldout_documents": entries["shards_heldout"]["languages"][code]["facts"]["documents"],
        }
        rows[code] = _row(code, entries["shards"]["languages"][code]) | measured[code] | planned
    sums = ("documents", "samples", "characters", "tokens", "dropped_tokens", "dropped_documents", "special_strings")
    tokenizer = folder / "tokenizer" / "report.json"
    return {
        "recipe": recipe.name,
        "sequences": run_sequences(recipe),
        "shares": explain_shares(recipe),
        "tokenizer": read_json(tokenizer) if tokenizer.is_file() else None,
        "languages": rows,
        "totals": {key: sum(row[key] for row in rows.values()) for key in sums},
    }


def _measure(shards: ShardSet, *, tokenizer: Path) -> dict[str, dict[str, Any]]:
    """What only the shards know of a language: quantiles of its pieces' lengths, and its share of byte tokens."""
    is_byte = np.zeros(shards.vocabulary_size, dtype=bool)
    is_byte[list(byte_ids(Tokenizer.from_file(str(tokenizer / "tokenizer.json"))))] = True
    facts = {}
    for language, code in enumerate(shards.languages):
        lengths, count = shards.lengths(language), 0
        if is_byte.any():
            ids = shards.tokens(language)
            count = sum(int(is_byte[ids[at : at + TOKENS_AT_ONCE]].sum()) for at in range(0, len(ids), TOKENS_AT_ONCE))
        found = np.quantile(lengths, QUANTILES, method="inverted_cdf")
        ordinary = int(lengths.sum()) - 2 * len(lengths)
        facts[code] = {
            "lengths": {f"{share:g}": int(value) for share, value in zip(QUANTILES, found, strict=True)},
            "bytes": count / max(ordinary, 1),
        }
    return facts


def _row(code: str, entry: dict[str, Any]) -> dict[str, Any]:
    facts, language = entry["facts"], LANGUAGES.get(code)
    pieces = max(facts["pieces"], 1)
    return {
        "name": language.name if language else code,
        "script": language.script if language else "",
        "documents": facts["documents"],
        "samples": entry["samples"],
        "characters": facts["characters"],
        "tokens": entry["tokens"],
        "tokens_per_word": facts["pieces"] / max(facts["words"], 1),
        "characters_per_token": facts["characters"] / pieces,
        "new_to_teacher": facts["new_pieces"] / pieces,
        "unknown": facts["unknown_pieces"] / pieces,
        "unknown_characters": facts["unknown_characters"],
        "round_trip": facts["round_trips"] / max(facts["checked"], 1),
        "dropped_tokens": facts["dropped_pieces"],
        "dropped_documents": facts["dropped_documents"],
        "special_strings": facts["special_strings"],
    }


def write(report: dict[str, Any], *, folder: Path) -> None:
    """Write report.json and report.md."""
    write_json(folder / "report.json", report)
    with atomic(folder / "report.md") as file:
        file.write(markdown(report))


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    totals = report["totals"]
    head = [name for name, _ in COLUMNS]
    parts = len(next(iter(report["languages"].values()))["phase_shares"])
    head += [f"{part}. part %" for part in range(1, parts + 1)]
    lines = [
        "# The text, language by language",
        "",
        f"{len(report['languages'])} languages, {totals['documents']:,} documents, "
        f"{totals['characters']:,} characters, {totals['tokens']:,} tokens.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "|".join(["---"] * 3 + ["---:"] * (len(head) - 3)) + "|",
        *("| " + " | ".join(row) + " |" for row in rows(report)),
        "",
        EXPLANATION.format(shares=report["shares"], sequences=report["sequences"], name=report["recipe"]),
    ]
    return "\n".join(lines)


def rows(report: dict[str, Any]) -> list[list[str]]:
    """The table's cells, a row for each language; after COLUMNS, its share in each part of a curriculum."""
    return [
        [_cell(key, code, row) for _, key in COLUMNS] + [f"{100 * share:.2f}" for share in row["phase_shares"]]
        for code, row in report["languages"].items()
    ]


def _cell(key: str, code: str, row: dict[str, Any]) -> str:
    if key == "code":
        return code
    value = row[key]
    if isinstance(value, float):
        return f"{100 * value:.2f}" if key in PERCENT else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else value


def show(report: dict[str, Any]) -> None:
    """Print the table, without the columns that an 80-column terminal has no room for."""
    totals = report["totals"]
    table = Table(
        title=f"{len(report['languages'])} languages, {totals['documents']:,} documents, {totals['tokens']:,} tokens",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    shown = [i for i, (_, key) in enumerate(COLUMNS) if key not in FILE_ONLY]
    for i in shown:
        table.add_column(COLUMNS[i][0], justify="right" if i else "left")
    for cells in rows(report):
        table.add_row(*(cells[i] for i in shown))
    console = Console()
    # A log file has no width of its own.
    Console(width=None if console.is_terminal else 100).print(table)
