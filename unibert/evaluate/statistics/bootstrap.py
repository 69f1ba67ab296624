"""The paired bootstrap: two systems on the same examples, which are drawn again with replacement, many times.

Over B resamples the difference of the two scores is d*, and d on the examples as they are. The interval is the
percentiles of d*; the p-value is of the null hypothesis that both are equally good, under which d* - d is how a
difference scatters: p = (1 + #{|d* - d| >= |d|}) / (B + 1), two-sided (Efron and Tibshirani 1993, chapter 16; the
added one keeps p from 0). Identical systems have p = 1.

Several languages are pooled as the mean of their scores, each resampled by itself. But the examples of parallel test
sets (XNLI, XQuAD) are the same ones in every language, not more evidence: cells whose examples have the same ids get
the same draws, since draws are a function of the seed and of the ids. Several seeds of one system count as the mean of
their scores on the same draws, so the interval is over examples and not over seeds; for seeds, see `significance`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unibert.data.lines import stable_hash
from unibert.errors import DataError
from unibert.evaluate.statistics.scores import Array, resampled, score

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Cell:
    """What one system scored in one language of one test set, with one seed or several."""

    kind: str
    """Of `scores.KINDS`."""
    rows: tuple[Array, ...]
    """[N, K] of each seed, all on the same examples in the same order."""
    ids: str
    """Fingerprint of the ids of the examples; cells that share it are resampled together."""

    def __post_init__(self) -> None:
        sizes = {len(rows) for rows in self.rows}
        if len(sizes) != 1 or 0 in sizes:
            raise DataError(f"a score needs the same examples of every seed, at least one; found {sorted(sizes)}")

    @property
    def value(self) -> float:
        """The mean over seeds of the score."""
        return float(np.mean([score(self.kind, rows) for rows in self.rows]))

    def drawn(self, *, resamples: int, seed: int) -> Array:
        """[B]: the value of each resample."""
        size = len(self.rows[0])
        chance = np.random.default_rng(stable_hash(f"{self.ids}:{size}", seed=seed))
        draws_BN = chance.integers(size, size=(resamples, size))
        return np.mean([resampled(self.kind, rows, draws_BN) for rows in self.rows], axis=0)


@dataclass(frozen=True)
class Finding:
    """A difference (or a score), its confidence interval, and the p-value of there being none."""

    value: float
    low: float
    high: float
    p: float


def interval(cells: Sequence[Cell], *, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL) -> Finding:
    """The mean score of a system over cells with its interval; p is not defined and NaN."""
    drawn = np.mean([cell.drawn(resamples=resamples, seed=seed) for cell in cells], axis=0)
    return Finding(float(np.mean([cell.value for cell in cells])), *_percentiles(drawn, level), float("nan"))


def paired_bootstrap(
    ours: Sequence[Cell],
    theirs: Sequence[Cell],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Finding:
    """The difference of two systems' mean scores over the same cells: one of a language, or all pooled.

    Raises:
        DataError: the systems were not measured on the same examples.
    """

    def difference(a: list[Array], b: list[Array]) -> Array:
        return np.mean(a, axis=0) - np.mean(b, axis=0)

    return _compare({"": ours}, {"": theirs}, of=difference, resamples=resamples, seed=seed, level=level)


def relative_improvement(
    ours: Mapping[str, Sequence[Cell]],
    reference: Mapping[str, Sequence[Cell]],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Finding:
    """The mean over tasks of 100 (score - reference's) / reference's, in percent, task -> cells.

    The interval is of the ratio. A ratio's scatter is skewed where the reference is weak, and would make p too small on
    one side and too large on the other; so p is of the differences, each in units of the reference's score as it is.

    Raises:
        DataError: other examples than the reference's, or a reference that scores nothing.
    """
    scores = {task: np.mean([cell.value for cell in cells]) for task, cells in reference.items()}
    for task, value in scores.items():
        if value <= 0:
            raise DataError(f"{task}: the reference scores {value:.4f}, to which no improvement can be relative")

    def improvement(a: list[Array], b: list[Array]) -> Array:
        # A resample of a weak reference can be 0 where the reference itself is not.
        return 100 * np.mean([(x - y) / np.where(np.abs(y) > 1e-9, y, np.nan) for x, y in zip(a, b, strict=True)], 0)

    def difference(a: list[Array], b: list[Array]) -> Array:
        return 100 * np.mean([(x - y) / value for x, y, value in zip(a, b, scores.values(), strict=True)], 0)

    return _compare(ours, reference, of=improvement, null=difference, resamples=resamples, seed=seed, level=level)


def _compare(
    ours: Mapping[str, Sequence[Cell]],
    theirs: Mapping[str, Sequence[Cell]],
    *,
    of: Callable[[list[Array], list[Array]], Array],
    null: Callable[[list[Array], list[Array]], Array] | None = None,
    resamples: int,
    seed: int,
    level: float,
) -> Finding:
    if list(ours) != list(theirs) or not ours:
        raise DataError(f"the systems have other tasks: {sorted(ours)} and {sorted(theirs)}")
    for task, cells in ours.items():
        same = [(cell.kind, cell.ids, len(cell.rows[0])) for cell in cells]
        if not cells or same != [(cell.kind, cell.ids, len(cell.rows[0])) for cell in theirs[task]]:
            raise DataError(f"{task or 'paired bootstrap'}: both systems must be measured on the same examples")

    def means(systems: Mapping[str, Sequence[Cell]]) -> list[Array]:
        return [
            np.mean([cell.drawn(resamples=resamples, seed=seed) for cell in cells], axis=0)
            for cells in systems.values()
        ]

    def values(systems: Mapping[str, Sequence[Cell]]) -> list[Array]:
        return [np.array([np.mean([cell.value for cell in cells])]) for cells in systems.values()]

    value = float(of(values(ours), values(theirs))[0])
    a, b = means(ours), means(theirs)
    drawn = of(a, b)
    scattered = drawn if null is None else null(a, b)
    beyond = np.abs(scattered - value) >= abs(value) * (1 - 1e-9) - 1e-12
    drawn = drawn[np.isfinite(drawn)]
    ends = _percentiles(drawn, level) if drawn.size else (-np.inf, np.inf)
    return Finding(value, *ends, float((1 + beyond.sum()) / (resamples + 1)))


def _percentiles(drawn: Array, level: float) -> tuple[float, float]:
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
