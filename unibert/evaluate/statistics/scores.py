"""How examples make a score, for the score itself and for any number of resamples of its examples at once.

Each example leaves a row of numbers, and a score is a function of the rows of all: that is what a bootstrap needs, and
all that a results file keeps of a prediction. Legend: N examples, K numbers an example leaves, B resamples.

- mean: K = 1, the mean of what each example scored (accuracy, exact match, an answer's F1, retrieval, loss).
- f1: K = 3, (right, predicted, gold) counts; 2 right / (predicted + gold) of their sums, 0 when there are none.
- ratio: K = 2, (part, whole); sum of the parts / sum of the wholes, 0 when these are 0 (of a text's masked tokens).
- pearson, spearman: K = 2, (predicted, gold); 0 where one of them is constant, since nothing is then known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from scipy.stats import rankdata

CHUNK = 4_000_000
"""Numbers gathered at a time: it bounds memory, and keeps small resamples in cache."""

Array = np.ndarray[Any, np.dtype[Any]]


def score(kind: str, rows_NK: Array) -> float:
    """The score of all examples, in the metric's own unit (a share, or a correlation)."""
    return float(KINDS[kind](rows_NK[None])[0])


def resampled(kind: str, rows_NK: Array, draws_BN: Array) -> Array:
    """[B]: the score of each resample, whose examples are `rows_NK[draws_BN[b]]`."""
    parts = [KINDS[kind](rows_NK[part]) for part in _chunks(draws_BN, columns=rows_NK.shape[1])]
    return np.concatenate(parts)


def _chunks(draws_BN: Array, *, columns: int) -> Iterator[Array]:
    step = max(1, CHUNK // (draws_BN.shape[1] * columns))
    for start in range(0, len(draws_BN), step):
        yield draws_BN[start : start + step]


def _mean(rows_BNK: Array) -> Array:
    return rows_BNK[..., 0].mean(1)


def _f1(rows_BNK: Array) -> Array:
    right, predicted, gold = rows_BNK.sum(1).T
    return 2 * right / np.maximum(predicted + gold, 1)


def _ratio(rows_BNK: Array) -> Array:
    part, whole = rows_BNK.sum(1).T
    return part / np.maximum(whole, 1)


def _pearson(rows_BNK: Array) -> Array:
    return _correlation(rows_BNK[..., 0], rows_BNK[..., 1])


def _spearman(rows_BNK: Array) -> Array:
    return _correlation(rankdata(rows_BNK[..., 0], axis=1), rankdata(rows_BNK[..., 1], axis=1))


def _correlation(x_BN: Array, y_BN: Array) -> Array:
    (x_BN, x_known), (y_BN, y_known) = _centred(x_BN), _centred(y_BN)
    scale = np.sqrt(np.square(x_BN).sum(1) * np.square(y_BN).sum(1))
    known = x_known & y_known
    return np.where(known, (x_BN * y_BN).sum(1) / np.where(known, scale, 1.0), 0.0)


def _centred(x_BN: Array) -> tuple[Array, Array]:
    """What is left without the mean, and which rows are not constant but for rounding."""
    left = x_BN - x_BN.mean(1, keepdims=True)
    return left, np.abs(left).max(1) > 1e-12 * np.abs(x_BN).max(1)


KINDS: Mapping[str, Callable[[Array], Array]] = {
    "mean": _mean,
    "f1": _f1,
    "ratio": _ratio,
    "pearson": _pearson,
    "spearman": _spearman,
}
"""kind -> rows [B, N, K] to scores [B]."""
