"""Samples of what a stage drops: a few texts for each language and reason, the same ones however the work is shared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from unibert.data.lines import stable_hash

SAMPLES = 3
"""Kept for each language, stage and reason."""
SHOWN_CHARACTERS = 200
_SEED = 2


class Samples:
    """The texts with the lowest hashes of those added, for each language and reason."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self._lowest: dict[tuple[str, str], list[tuple[int, str, str]]] = defaultdict(list)

    def add(self, language: str, reason: str, *, id: str, text: str) -> None:
        """Add one that was dropped."""
        self._keep((language, reason), (stable_hash(id + text, seed=_SEED), id, text[:SHOWN_CHARACTERS]))

    def _keep(self, group: tuple[str, str], entry: tuple[int, str, str]) -> None:
        lowest = self._lowest[group]
        if len(lowest) == SAMPLES and entry >= lowest[-1]:
            return
        lowest.append(entry)
        lowest.sort()
        del lowest[SAMPLES:]

    def rows(self) -> list[dict[str, Any]]:
        """The samples, each with its hash, by language and reason."""
        return [
            {"language": code, "stage": self.stage, "reason": reason, "id": id, "text": text, "hash": rank}
            for (code, reason), entries in sorted(self._lowest.items())
            for rank, id, text in entries
        ]


def merge(parts: Iterable[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Samples of all, from those of the parts."""
    merged: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for rows in parts:
        for row in rows:
            merged[row["language"], row["stage"], row["reason"]].append(row)
    lowest = (sorted(rows, key=lambda row: (row["hash"], row["id"]))[:SAMPLES] for _, rows in sorted(merged.items()))
    return [{key: value for key, value in row.items() if key != "hash"} for rows in lowest for row in rows]
