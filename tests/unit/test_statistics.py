"""Significance: no difference is not found more often than it should be, a planted one is, and little is no proof."""

import math

import numpy as np
import pytest
from scipy import stats

from unibert.errors import DataError
from unibert.evaluate.statistics.bootstrap import Cell, interval, paired_bootstrap, relative_improvement
from unibert.evaluate.statistics.scores import resampled, score
from unibert.evaluate.statistics.significance import holm, paired_t, welch, wilcoxon

PAIRS = 200


def cell(rows, kind="mean", ids="x"):
    rows = np.asarray(rows, float)
    return Cell(kind, (rows[:, None] if rows.ndim == 1 else rows,), ids)


def examples(kind, chance, *, noise, size=150):
    """Two systems on the same examples; the second errs more by `noise`."""
    hard = chance.normal(size=size)
    ours, theirs = hard + chance.normal(size=size), hard + chance.normal(size=size) - noise
    if kind == "mean":
        return (ours > 0).astype(float), (theirs > 0).astype(float)
    if kind == "f1":
        gold = chance.integers(0, 4, size)
        return tuple(
            np.stack([np.minimum(gold, np.maximum(0, x + 2).astype(int)), gold, gold], 1) for x in (ours, theirs)
        )
    if kind == "ratio":
        whole = chance.integers(1, 9, size)
        return tuple(np.stack([np.clip(np.round(whole * (0.5 + x / 6)), 0, whole), whole], 1) for x in (ours, theirs))
    gold = hard + chance.normal(size=size)
    worse = chance.normal(size=size) * 3 * noise
    return np.stack([ours, gold], 1), np.stack([theirs + worse, gold], 1)


def false_positives(test):
    """The share of null pairs at 5 %, and that p-values are spread over all of 0..1."""
    ps = np.array([test(np.random.default_rng(seed)) for seed in range(PAIRS)])
    for level in (0.1, 0.25, 0.5, 0.75):  # not Kolmogorov-Smirnov's test: the p-values of counts have ties
        assert abs((ps < level).mean() - level) < 0.15
    return float((ps < 0.05).mean())


@pytest.mark.parametrize("kind", ["mean", "f1", "ratio", "pearson", "spearman"])
def test_bootstrap_of_equals_and_of_a_planted_difference(kind):
    def p(chance, noise=0.0):
        ours, theirs = examples(kind, chance, noise=noise, size=60 if kind == "spearman" and not noise else 150)
        return paired_bootstrap([cell(ours, kind)], [cell(theirs, kind)], resamples=200, seed=int(chance.integers(9e9)))

    assert 0.02 <= false_positives(lambda chance: p(chance).p) <= 0.08
    found = p(np.random.default_rng(1), noise=1.0)
    assert found.p < 0.01 and 0 < found.low < found.value < found.high


def test_pooled_bootstrap_of_equals_over_parallel_languages():
    """The same examples in four languages are not four times the evidence."""

    def p(chance):
        shared = chance.normal(size=(2, 150))
        cells = [[cell(row + 0.3 * chance.normal(size=150)) for _ in range(4)] for row in shared]
        return paired_bootstrap(*cells, resamples=200, seed=int(chance.integers(9e9))).p

    assert 0.02 <= false_positives(p) <= 0.08


@pytest.mark.parametrize("test", [paired_t, wilcoxon, welch])
def test_tests_of_scores(test):
    def p(chance, better=0.0):
        return test(chance.normal(size=30) + better, chance.normal(size=30)).p

    assert 0.02 <= false_positives(p) <= 0.08
    chance = np.random.default_rng(3)
    ours = chance.normal(size=30)
    found = test(ours + 2, chance.normal(size=30))
    assert found.p < 1e-3 and 1 < found.low < found.value < found.high < 3


@pytest.mark.parametrize("test", [paired_t, wilcoxon, welch])
def test_identical_scores_are_no_difference(test):
    found = test([0.5, 0.6, 0.7, 0.65, 0.55, 0.5, 0.61], [0.5, 0.6, 0.7, 0.65, 0.55, 0.5, 0.61])
    assert found.p == 1 and found.value == 0 and found.low <= 0 <= found.high
    assert test([0.5] * 5, [0.5] * 5).p == 1


@pytest.mark.parametrize("test", [paired_t, wilcoxon, welch])
def test_one_score_proves_nothing(test):
    found = test([0.9], [0.1])
    assert found.p == 1 and found.value == pytest.approx(0.8)
    assert (found.low, found.high) == (-math.inf, math.inf)


def test_a_difference_without_scatter():
    assert paired_t([2, 3, 4], [1, 2, 3]).p == 0
    assert welch([1, 1], [2, 2]).p == 0
    with pytest.raises(DataError, match="pairs"):
        paired_t([1, 2], [1])
    with pytest.raises(DataError, match="groups"):
        welch([], [1])


def test_bootstrap_of_identical_and_of_one():
    one = cell([0.0, 1, 1, 0, 1])
    assert paired_bootstrap([one], [one]).p == 1
    assert paired_bootstrap([cell([1.0])], [cell([0.0])]).p > 0  # one example: no scatter to measure, never exactly 0
    constant = np.stack([np.ones(5), np.arange(5.0)], 1)
    assert interval([cell(constant, "spearman")]).value == 0
    with pytest.raises(DataError, match="same examples"):
        paired_bootstrap([one], [cell([0.0, 1])])
    with pytest.raises(DataError, match="same examples"):
        paired_bootstrap([one], [cell([0.0, 1, 1, 0, 1], ids="y")])


def test_scores_are_scipys():
    chance = np.random.default_rng(0)
    for _ in range(50):
        rows = np.round(chance.normal(size=(40, 2)), 1)  # with ties
        draws = chance.integers(40, size=(3, 40))
        for kind, expected in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
            assert score(kind, rows) == pytest.approx(expected(*rows.T).statistic)
            for found, draw in zip(resampled(kind, rows, draws), draws, strict=True):
                assert found == pytest.approx(expected(*rows[draw].T).statistic)
    counts = np.array([[1, 2, 3], [0, 0, 0]])
    assert score("f1", counts) == pytest.approx(2 / 5) and score("f1", counts[1:]) == 0
    assert score("pearson", np.stack([np.full(9, 0.1) * 3, np.arange(9)], 1)) == 0


def test_intervals_hold_the_truth():
    """Of 200 intervals of 95 % about 95 % hold the value that is estimated."""
    held = 0
    for seed in range(PAIRS):
        rows = np.random.default_rng(seed).normal(0.3, 1, size=200)
        found = interval([cell(rows)], resamples=300)
        held += found.low <= 0.3 <= found.high
    assert 0.91 <= held / PAIRS <= 0.99


def test_relative_improvement():
    ours, reference = {"a": [cell([0.6])], "b": [cell([0.5])]}, {"a": [cell([0.5])], "b": [cell([0.4])]}
    assert relative_improvement(ours, reference).value == pytest.approx((20 + 25) / 2)
    with pytest.raises(DataError, match="scores"):
        relative_improvement(ours, {**reference, "b": [cell([0.0])]})
    with pytest.raises(DataError, match="other tasks"):
        relative_improvement(ours, {"a": reference["a"]})


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_relative_improvement_of_equals_and_of_a_planted_difference(share):
    """A weak reference too: the ratio's scatter is skewed there, and p is not of the ratio."""
    cut = stats.norm.isf(share) * math.sqrt(2)

    def found(chance, noise=0.0):
        ours, theirs = {}, {}
        for task in "abc":
            hard = chance.normal(size=200)
            ours[task] = [cell(hard + chance.normal(size=200) > cut, ids=task)]
            theirs[task] = [cell(hard + chance.normal(size=200) - noise > cut, ids=task)]
        return relative_improvement(ours, theirs, resamples=200, seed=int(chance.integers(9e9)))

    assert 0.02 <= false_positives(lambda chance: found(chance).p) <= 0.08
    planted = found(np.random.default_rng(1), noise=1.0)
    assert planted.p < 0.01 and 0 < planted.low < planted.value < planted.high


def test_a_worse_system_is_found_as_soon_as_a_better_one():
    """Of (x - y) / y alone p would be half as large below as above, where y scatters."""
    chance = np.random.default_rng(3)
    one, other = chance.random(60) < 0.2, chance.random(60) < 0.07
    up = relative_improvement({"": [cell(one)]}, {"": [cell(other)]}, resamples=4000).p
    down = relative_improvement({"": [cell(other)]}, {"": [cell(one)]}, resamples=4000).p
    assert up == pytest.approx(down) and 0 < up < 0.2


def test_several_seeds_count_as_their_mean():
    rows = np.random.default_rng(0).random((3, 50, 1))
    many = Cell("mean", tuple(rows), "x")
    assert many.value == pytest.approx(rows.mean())
    narrow = Cell("mean", (rows.mean(0),), "x")
    assert interval([many]).low == pytest.approx(interval([narrow]).low)


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == [] and holm([0.9, 0.8]) == [1.0, 1.0]
    low = 0
    for seed in range(400):  # of five true nulls any is found in at most 5 %
        low += min(holm(np.random.default_rng(seed).random(5).tolist())) < 0.05
    assert low / 400 < 0.08
