"""Translation pairs in a run: how many, and how often each is repeated. No torch here."""

from __future__ import annotations

import json

import numpy as np

from unibert.errors import DataError
from unibert.plan.shares import pairs_before, quotas, run_sequences, smoothed_shares
from unibert.schema import Recipe

MANY_EPOCHS = 20
"""A language, or a pair of them, that is repeated more often than this is worth a warning."""


def pair_repeats(recipe: Recipe) -> dict[str, float]:
    """How often the run passes over each language pair's text, by name; empty before there are any.

    Raises:
        DataError: their manifest is damaged.
    """
    path = recipe.data.folder / "shards_parallel" / "manifest.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["language_pairs"]
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError) as error:
        raise DataError(f"{path}: damaged ({error!r}); run: unibert data pairs RECIPE --force") from None
    ours = {name: entry["pairs"] for name, entry in found.items() if set(entry["languages"]) <= set(recipe.languages)}
    if not ours:
        return {}
    counts = np.array(list(ours.values()))
    shares = quotas(smoothed_shares(counts, recipe.data.smoothing_exponent))
    shares = shares / shares.sum()
    return dict(zip(ours, (pairs_in_run(recipe) * shares / counts).tolist(), strict=True))


def pairs_in_run(recipe: Recipe) -> int:
    """Translation pairs of the whole run."""
    return pairs_before(run_sequences(recipe) // 2, recipe.data.parallel_ratio)


def pair_notes(recipe: Recipe) -> list[str]:
    """What `unibert plan` warns of."""
    if not recipe.data.parallel_ratio:
        return []
    repeats = pair_repeats(recipe)
    if not repeats:
        return [
            f"data.parallel_ratio = {recipe.data.parallel_ratio:g} needs translation pairs: unibert data pairs RECIPE"
        ]
    often = [f"{name} {times:.0f}x" for name, times in repeats.items() if times > MANY_EPOCHS]
    if not often:
        return []
    few = f"translation pairs repeated more than {MANY_EPOCHS} times: {', '.join(often)}; get more of them, lower "
    return [few + "data.parallel_ratio, or raise data.smoothing_exponent"]
