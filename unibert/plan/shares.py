"""Shares of the languages in the stream: smoothing, limits, and how both change over the run.

A share is of the documents that do not come in translation pairs. No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from unibert.errors import ConfigError
from unibert.plan.batch import first_sample
from unibert.schema import Recipe

BLOCK = 1 << 16
"""Positions of the stream in which every language has a whole number of places: what a share is rounded to."""

T = TypeVar("T", int, np.ndarray)


@dataclass(frozen=True)
class Phase:
    """A part of the run with shares of its own."""

    first: int
    """Its first position in the stream."""
    shares: np.ndarray
    """float64 [L], summing to 1."""


def smoothed_shares(tokens_per_language: np.ndarray, exponent: float) -> np.ndarray:
    """Share of each language in the stream: tokens ** exponent, normalised; [L] to float64 [L].

    1 keeps the languages as found, 0 makes them equal. Source: multilingual BERT (exponent 0.7), XLM-R (0.3).
    """
    weights = np.asarray(tokens_per_language, dtype=np.float64) ** exponent
    return weights / weights.sum()


def limited_shares(shares: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Shares of which none is above its limit; what a language gives up goes to the others in proportion.

    With equal shares and limits by repetition these are UniMax's (Chung et al. 2023, arXiv 2304.09151, algorithm 1).

    Args:
        shares: [L], summing to 1.
        limits: [L], summing to at least 1.
    """
    out, held = shares, np.zeros(len(shares), dtype=bool)
    while (over := (out > limits * (1 + 1e-12)) & ~held).any() and not (held | over).all():
        held |= over
        rest = shares * (1 - limits[held].sum()) / shares[~held].sum()
        out = np.where(held, limits, rest)
    return out


def run_sequences(recipe: Recipe) -> int:
    """Documents of the whole run."""
    return first_sample(recipe, recipe.train.steps + 1)


def pairs_before(slot: T, ratio: float) -> T:
    """Translation pairs in the slots (two positions each) before this one: floor(slot x ratio), ratio in 2**-20."""
    return slot * round(ratio * (1 << 20)) >> 20


def own_sequences(recipe: Recipe) -> int:
    """Documents of the whole run that do not come in translation pairs; at least 1, for what is divided by it."""
    total = run_sequences(recipe)
    return max(total - 2 * pairs_before(total // 2, recipe.data.parallel_ratio), 1)


def share_phases(recipe: Recipe, *, samples: np.ndarray, tokens: np.ndarray) -> tuple[Phase, ...]:
    """The parts of the run with their shares; one part without a curriculum.

    Args:
        recipe: of the run; its length counts where there is a curriculum or data.max_repeats.
        samples: documents of each language, [L].
        tokens: of each language, [L].

    Raises:
        ConfigError: the limits leave a part of the stream to no language.
    """
    data, total = recipe.data, own_sequences(recipe)
    limits = share_limits(recipe, samples=samples)
    parts = [(phase.until_fraction, phase.smoothing_exponent) for phase in data.curriculum]
    ends = [round(until * total) for until, _ in parts[:-1]]
    exponents = [exponent for _, exponent in parts] or [data.smoothing_exponent]
    shares = (smoothed_shares(tokens, exponent) for exponent in exponents)
    return tuple(Phase(first, limited_shares(share, limits)) for first, share in zip([0, *ends], shares, strict=True))


def share_limits(recipe: Recipe, *, samples: np.ndarray) -> np.ndarray:
    """The highest share of each language, [L]: max_repeats x documents / the run's documents, and the caps.

    Raises:
        ConfigError: they add up to less than 1.
    """
    data, total = recipe.data, own_sequences(recipe)
    limits = np.array([data.share_limits.get(code, 1.0) for code in recipe.languages])
    limits = np.minimum(limits, data.max_share or 1.0)
    if limits.sum() < 1 - 1e-9:
        raise ConfigError(
            f"data.max_share and data.share_limits add up to {limits.sum():.3g} of the stream for all "
            f"{len(limits)} languages together: raise them until they reach 1"
        )
    if data.max_repeats is not None:
        limits = np.minimum(limits, data.max_repeats * samples / total)
        if limits.sum() < 1 - 1e-9:
            raise ConfigError(
                f"data.max_repeats = {data.max_repeats:g} (with the limits of shares) allows "
                f"{int(limits.sum() * total):,} of the run's {total:,} documents: raise it (the mean over all text is "
                f"{total / samples.sum():.3g} passes), take fewer train.steps, or get more text"
            )
    return limits


def quotas(shares: np.ndarray) -> np.ndarray:
    """Places of each language in a block: whole numbers near shares * BLOCK that sum to BLOCK, each at least 1."""
    assert len(shares) <= BLOCK, f"more than {BLOCK} languages"
    assert abs(shares.sum() - 1) < 1e-9, "shares must sum to 1"
    # One place each first, so that a tiny language is not lost to rounding.
    exact = np.maximum(shares * BLOCK - 1, 0)
    exact *= (BLOCK - len(shares)) / exact.sum() if exact.sum() else 0
    quota = np.floor(exact).astype(np.int64) + 1
    by_remainder = np.argsort(-(exact - np.floor(exact)), kind="stable")
    quota[by_remainder[: BLOCK - quota.sum()]] += 1
    return quota


def stream_shares(recipe: Recipe, *, samples: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Share of each language in each part of the run, as the sampler rounds it: [parts, L]; see `share_phases`."""
    return np.stack([quotas(phase.shares) for phase in share_phases(recipe, samples=samples, tokens=tokens)]) / BLOCK


def run_shares(recipe: Recipe, *, samples: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Share of each language in the whole run, [L]: the mean over its parts by their length; see `share_phases`."""
    phases = share_phases(recipe, samples=samples, tokens=tokens)
    lengths = np.diff([*(phase.first for phase in phases), own_sequences(recipe)])
    return lengths @ stream_shares(recipe, samples=samples, tokens=tokens) / lengths.sum()


def explain_shares(recipe: Recipe) -> str:
    """How the shares come about, for reports: the words after "proportional to"."""
    data = recipe.data
    text = f"its tokens to the power of {data.smoothing_exponent:g}"
    if data.curriculum:
        parts = [f"{phase.smoothing_exponent:g} until {phase.until_fraction:.0%}" for phase in data.curriculum]
        text = f"its tokens to the power of {', '.join(parts)} of the run"
    caps = [f"{code} at most {share:.3%}" for code, share in data.share_limits.items()]
    caps += [f"none above {data.max_share:.3%}"] if data.max_share else []
    caps += [f"no text passed over more than {data.max_repeats:g} times"] if data.max_repeats else []
    return "; ".join([text, *caps])
