"""Tests on scores rather than examples: paired t, Wilcoxon, Welch, and Holm's correction for asking many times.

scipy computes them; what is ours is that every one gives a difference with its interval, and says "cannot tell"
(p = 1, an interval without ends) where scipy says NaN: with too few scores, or with none that differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from unibert.errors import DataError
from unibert.evaluate.statistics.bootstrap import LEVEL, Finding


def paired_t(ours: Sequence[float], theirs: Sequence[float], *, level: float = LEVEL) -> Finding:
    """Student's t of the differences of pairs (seeds, or cells): their mean, two-sided.

    Raises:
        DataError: not as many of one as of the other.
    """
    apart = _differences(ours, theirs)
    mean = float(apart.mean())
    if not np.any(apart):
        return Finding(0.0, *((0.0, 0.0) if len(apart) > 1 else (-math.inf, math.inf)), 1.0)
    if len(apart) < 2:
        return Finding(mean, -math.inf, math.inf, 1.0)
    if np.ptp(apart) <= 1e-12 * np.abs(apart).max():  # all the same, but for rounding: no scatter to compare with
        return Finding(mean, mean, mean, 0.0)
    found: Any = stats.ttest_1samp(apart, 0.0)
    ends = found.confidence_interval(level)
    return Finding(mean, float(ends.low), float(ends.high), float(found.pvalue))


def wilcoxon(ours: Sequence[float], theirs: Sequence[float], *, level: float = LEVEL) -> Finding:
    """Wilcoxon's signed ranks over pairs, as (task, language) cells: whether more and larger ones favour one side.

    The value is the Hodges-Lehmann estimate, the median of the means of all pairs of differences, with the interval
    that belongs to the test (normal approximation). Pairs that are equal tell nothing and are left out of p.

    Raises:
        DataError: not as many of one as of the other.
    """
    apart = _differences(ours, theirs)
    size = len(apart)
    first, second = np.triu_indices(size)
    walsh = np.sort((apart[first] + apart[second]) / 2)
    z = stats.norm.ppf((1 + level) / 2)
    cut = math.floor(size * (size + 1) / 4 - z * math.sqrt(size * (size + 1) * (2 * size + 1) / 24))
    low, high = (walsh[cut], walsh[-1 - cut]) if cut >= 0 else (-math.inf, math.inf)
    signed: Any = stats.wilcoxon(apart[apart != 0]) if np.any(apart) else None
    p = 1.0 if signed is None else float(signed.pvalue)
    return Finding(float(np.median(walsh)), float(low), float(high), p)


def welch(ours: Sequence[float], theirs: Sequence[float], *, level: float = LEVEL) -> Finding:
    """Welch's t between two groups of models with unequal variances, unpaired: the difference of their means.

    Raises:
        DataError: an empty group.
    """
    a, b = np.asarray(ours, float), np.asarray(theirs, float)
    if not a.size or not b.size:
        raise DataError(
            f"Welch's test compares two groups of models, and these have {a.size} and {b.size}: name others"
        )
    value = float(a.mean() - b.mean())
    scatter = max(np.ptp(a), np.ptp(b)) > 1e-12 * max(np.abs(a).max(), np.abs(b).max())
    if min(a.size, b.size) < 2:
        return Finding(value, -math.inf, math.inf, 1.0)
    if not scatter:
        return Finding(value, value, value, 0.0 if value else 1.0)
    found: Any = stats.ttest_ind(a, b, equal_var=False)
    ends = found.confidence_interval(level)
    return Finding(value, float(ends.low), float(ends.high), float(found.pvalue))


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given: what falls below alpha holds any false finding below alpha.

    The i-th smallest of m p-values becomes max over j <= i of (m - j + 1) p_(j), at most 1.
    """
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    adjusted, highest = [1.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, (len(ps) - rank) * ps[i])
        adjusted[i] = min(1.0, highest)
    return adjusted


def _differences(ours: Sequence[float], theirs: Sequence[float]) -> np.ndarray:
    if len(ours) != len(theirs) or not len(ours):
        raise DataError(f"a paired test needs pairs, and there are {len(ours)} and {len(theirs)} scores")
    return np.asarray(ours, float) - np.asarray(theirs, float)
