from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from unibert.data.batches import Batch
from unibert.evaluate.masked import MaskedSums, heldout_masked, targets_by_language, unigram_baseline

VOCABULARY = 11


def batch(seed: int, languages: list[int]) -> Batch:
    """Rows of 8 places with two documents of 4 tokens each; two targets a document."""
    random = torch.Generator().manual_seed(seed)
    documents = len(languages)
    rows = documents // 2
    document = torch.arange(documents).repeat_interleave(4).reshape(rows, 8)
    starts = torch.arange(documents) * 4
    return Batch(
        input_ids=torch.randint(5, VOCABULARY, (rows, 8), generator=random),
        position_ids=torch.arange(4).repeat(documents).reshape(rows, 8),
        document=document,
        target_positions=torch.stack([starts + 1, starts + 2], dim=1).flatten(),
        target_ids=torch.randint(5, VOCABULARY, (2 * documents,), generator=random),
        cls_positions=starts,
        language=torch.tensor(languages),
        sample_ids=torch.arange(documents),
        tokens=4 * documents,
    )


def logits_of(batch: Batch) -> Tensor:
    """Logits that depend on the batch alone."""
    random = torch.Generator().manual_seed(int(batch.target_ids.sum()))
    return torch.randn(batch.targets, VOCABULARY, generator=random)


BATCHES = [batch(i, languages) for i, languages in enumerate([[0, 2], [2, 2, 0, 1], [1, 0], [2, 1], [0, 0]])]


def test_sums_are_those_of_each_language() -> None:
    sums = heldout_masked(logits_of, BATCHES, num_languages=4)
    for language in range(3):
        nats, right = [], []
        for one in BATCHES:
            for target, logits in enumerate(logits_of(one)):
                if one.language[target // 2] == language:  # two targets a document, by document
                    nats.append(-logits.log_softmax(0)[one.target_ids[target]].item())
                    right.append(logits.argmax() == one.target_ids[target])
        assert sums.count[language] == len(nats)
        assert sums.ce_sum[language].item() == pytest.approx(sum(nats), rel=1e-6)
        assert sums.correct[language] == sum(right)
    assert sums.count[3] == 0 and math.isnan(sums.cross_entropy()[3])


def test_macro_mean_weighs_languages_alike() -> None:
    sums = MaskedSums(torch.tensor([[10.0, 3.0, 0.0], [5.0, 0.0, 0.0], [10.0, 1.0, 0.0]], dtype=torch.float64))
    assert sums.macro() == pytest.approx((2.0, 0.25))


@pytest.mark.parametrize("world", [2, 3, 4, 7])
def test_ranks_share_the_batches_and_run_as_many_forwards(world: int) -> None:
    whole = heldout_masked(logits_of, BATCHES, num_languages=3)
    forwards = []
    tables = []
    for rank in range(world):
        calls = []

        def counted(batch: Batch, calls: list[int] = calls) -> Tensor:
            calls.append(1)
            return logits_of(batch)

        tables.append(heldout_masked(counted, BATCHES, num_languages=3, rank=rank, world=world).table)
        forwards.append(len(calls))
    torch.testing.assert_close(sum(tables[1:], tables[0]), whole.table)
    assert len(set(forwards)) == 1, f"ranks run {forwards} forwards: a collective in one would hang"


def test_unigram_is_the_smoothed_frequency() -> None:
    counts = np.array([[0, 6, 2, 0], [0, 0, 0, 4]])
    targets = [np.array([1, 1, 3]), np.array([3])]
    found = unigram_baseline(counts, targets)
    assert found.per_language == pytest.approx([-(2 * math.log(7 / 12) + math.log(1 / 12)) / 3, -math.log(5 / 8)])
    overall = {1: 7 / 16, 3: 5 / 16}
    assert found.overall == pytest.approx([-(2 * math.log(overall[1]) + math.log(overall[3])) / 3, -math.log(5 / 16)])
    first = [(6 + 2 * overall[1]) / 10, (6 + 2 * overall[1]) / 10, (0 + 2 * overall[3]) / 10]
    assert found.backed_off[0] == pytest.approx(-np.log(first).mean())
    assert found.accuracy == pytest.approx([2 / 3, 1.0])


def test_every_baseline_is_a_distribution() -> None:
    counts = np.random.default_rng(0).integers(0, 50, (3, 40))
    counts[2] = 0  # a language never trained on
    everything = [np.arange(40)] * 3
    for kind in ("per_language", "overall", "backed_off"):
        for language in range(3):
            single = [np.array([i]) for i in range(40)]
            mass = sum(
                math.exp(-getattr(unigram_baseline(counts[[language]], [ids]), kind)[0]) for ids in single
            )  # one language alone: overall is its own
            assert mass == pytest.approx(1.0), (kind, language)
    assert np.isfinite(unigram_baseline(counts, everything).backed_off).all()


def test_strongest_baseline_has_the_lowest_mean_over_languages() -> None:
    counts = np.array([[900, 50, 50, 0], [0, 50, 50, 900]])
    found = unigram_baseline(counts, [np.array([0, 0, 1]), np.array([3, 3, 2])])
    name, values = found.strongest()
    assert name in ("per_language", "backed_off")
    assert np.mean(values) == min(np.mean(found.per_language), np.mean(found.overall), np.mean(found.backed_off))


def test_language_without_targets_does_not_count() -> None:
    found = unigram_baseline(np.ones((2, 4), dtype=np.int64), [np.array([1]), np.zeros(0, dtype=np.int64)])
    assert math.isnan(found.per_language[1])
    assert not math.isnan(np.nanmean(found.strongest()[1]))


def test_targets_are_sorted_by_language() -> None:
    targets = targets_by_language(BATCHES, num_languages=4)
    assert [len(ids) for ids in targets] == [10, 6, 8, 0]
    assert targets[1][:2].tolist() == BATCHES[1].target_ids[6:].tolist()
