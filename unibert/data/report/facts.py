"""What the data report is made of: the reports that the stages wrote, read together.

Folders made before there were samples of what is dropped, or shards made elsewhere, lack some of it: the page says so.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unibert.data import token_report
from unibert.data.batches import Stream
from unibert.data.lines import read_json, read_rows
from unibert.data.shards import ShardSet
from unibert.schema import Recipe

STAGES = {"cleaned": "clean", "clean": "dedup"}
"""Folder of a stage's report and samples -> the stage's name on the command line."""


@dataclass(frozen=True)
class Facts:
    """What the page is made of; dictionaries by language code are in the recipe's order."""

    folder: Path
    tokens: dict[str, Any]
    """report.json."""
    kept: dict[str, int]
    """Rows that are trained on."""
    dropped: dict[str, dict[str, Counter[str]]]
    """Stage -> language -> rows by reason."""
    samples: dict[str, list[dict[str, str]]]
    """Language -> rows of dropped.jsonl."""
    uncounted: tuple[str, ...]
    """Stages that left no report."""
    unsampled: tuple[str, ...]
    """Stages that left no samples."""
    sources: dict[str, dict[str, Any]]
    """Stamps of raw/manifest.json, a source each."""
    skipped: dict[str, str]
    """Sources left out -> why."""
    packing: str

    @property
    def languages(self) -> dict[str, dict[str, Any]]:
        """The rows of report.json."""
        return self.tokens["languages"]

    def names(self) -> list[str]:
        """Of the languages, for charts."""
        return [f"{row['name']} · {code}" for code, row in self.languages.items()]

    def all_dropped(self, code: str) -> Counter[str]:
        """Rows of a language by reason, over all stages."""
        return sum((stage[code] for stage in self.dropped.values()), Counter())

    def found(self) -> list[float]:
        """Share of the tokens of each language, before smoothing."""
        return [row["tokens"] / self.tokens["totals"]["tokens"] for row in self.languages.values()]


def gather(recipe: Recipe) -> Facts:
    """Read what the stages wrote."""
    folder, codes = recipe.data.folder, recipe.languages
    tokens = token_report.build(recipe)
    token_report.write(tokens, folder=folder)
    files = {stage: folder / stage / "report.json" for stage in STAGES}
    reports = {stage: read_json(path)["languages"] if path.is_file() else {} for stage, path in files.items()}
    first = {code: Counter(reports["cleaned"].get(code, {})) for code in codes}
    for count in first.values():
        del count["kept"]
    # The later report counts what the earlier dropped too.
    then = {code: Counter(reports["clean"].get(code, {}).get("dropped", {})) - first[code] for code in codes}
    samples: dict[str, list[dict[str, str]]] = defaultdict(list)
    sampled = {stage: folder / stage / "dropped.jsonl" for stage in STAGES}
    for path in sampled.values():
        for row in read_rows(path) if path.is_file() else ():
            samples[row["language"]].append(row)
    manifest = folder / "raw" / "manifest.json"
    raw = read_json(manifest) if manifest.is_file() else {}
    return Facts(
        folder=folder,
        tokens=tokens,
        kept={code: tokens["languages"][code]["documents"] for code in codes},
        dropped={"cleaned": first, "clean": then},
        samples=samples,
        uncounted=tuple(STAGES[stage] for stage, report in reports.items() if not report),
        unsampled=tuple(STAGES[stage] for stage, path in sampled.items() if reports[stage] and not path.is_file()),
        sources=merged(raw.get("sources", {})),
        skipped=raw.get("skipped", {}),
        packing=_packing(recipe),
    )


def merged(stamps: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The stamps of the sources; those of one source's parts (<source>/<part>) added up."""
    sources: dict[str, dict[str, Any]] = {}
    for key, stamp in stamps.items():
        whole = sources.setdefault(key.partition("/")[0], {**stamp, "rows": 0, "languages": Counter()})
        whole["rows"] += stamp["rows"]
        whole["languages"] = whole["languages"] + Counter(stamp["languages"])
    return sources


def _packing(recipe: Recipe) -> str:
    shards = ShardSet.open(recipe.data.folder / "shards", languages=recipe.languages)
    micros = Stream(recipe, shards, rank=0, world=1).step(0)
    rows, width = sum(micro.input_ids.shape[0] for micro in micros), micros[0].input_ids.shape[1]
    padding = np.mean([micro.padding_fraction for micro in micros])
    return (
        f"The first step's {sum(micro.documents for micro in micros):,} documents are packed into {rows:,} rows of "
        f"{width} tokens, {padding:.1%} of which is padding; documents in a row do not see each other."
    )
