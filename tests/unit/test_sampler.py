import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from unibert.data.sampler import BLOCK, Sampler, hash64, permute
from unibert.plan import smoothed_shares

SAMPLES = np.array([1, 2, 17, 1000, 12345])
SHARES = smoothed_shares(np.array([10, 30, 300, 9000, 200_000]), 0.5)


def sampler(seed: int = 1) -> Sampler:
    return Sampler(samples_per_language=SAMPLES, shares=SHARES, seed=seed)


def fields(draw):
    return draw.language, draw.sample, draw.epoch


def test_any_window_is_the_sum_of_smaller_ones():
    start, stop = BLOCK - 300, BLOCK + 500  # over the edge of a block
    whole = fields(sampler().draw(start, stop))
    again = sampler()
    parts = [fields(again.draw(a, min(a + 37, stop))) for a in range(start, stop, 37)]
    for i, column in enumerate(whole):
        np.testing.assert_array_equal(column, np.concatenate([part[i] for part in parts]))


def test_order_of_asking_does_not_matter():
    a, b = sampler(), sampler()
    late = a.draw(3 * BLOCK, 3 * BLOCK + 64)
    a.draw(0, 10)
    b.draw(0, 10)
    np.testing.assert_array_equal(late.sample, b.draw(3 * BLOCK, 3 * BLOCK + 64).sample)


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("first", [0, 10**9 // BLOCK * BLOCK - 60])  # the far one steps over the edge of a block
def test_every_world_size_sees_the_same_stream(world, first):
    batch, steps = 48, 5
    each = batch // world
    whole = sampler().draw(first, first + steps * batch)
    ranks = [sampler() for _ in range(world)]  # each rank asks for its own documents only
    parts = [
        fields(rank.draw(first + step * batch + r * each, first + step * batch + (r + 1) * each))
        for step in range(steps)
        for r, rank in enumerate(ranks)
    ]
    for i, column in enumerate(fields(whole)):
        np.testing.assert_array_equal(column, np.concatenate([part[i] for part in parts]))


def test_no_repeat_within_a_pass_and_every_pass_complete():
    draw = sampler().draw(0, 2 * BLOCK)
    for language, size in enumerate(SAMPLES):
        here = draw.language == language
        epoch, sample = draw.epoch[here], draw.sample[here]
        assert (np.diff(epoch) >= 0).all(), "passes follow each other in the order of the stream"
        for number in range(epoch.max()):
            np.testing.assert_array_equal(np.sort(sample[epoch == number]), np.arange(size))
        last = sample[epoch == epoch.max()]
        assert len(np.unique(last)) == len(last)


def test_passes_are_in_different_orders():
    draw = sampler().draw(0, BLOCK)
    here = draw.language == 3
    first, second = (draw.sample[here & (draw.epoch == number)] for number in (0, 1))
    assert len(first) == len(second) == 1000
    assert 0 < np.sum(first == second) < 20  # about one fixed place is what chance gives


def test_a_language_of_a_thousand_million_documents():
    documents = 10**9
    stream = Sampler(samples_per_language=[documents], shares=np.ones(1), seed=5)
    windows = [(0, 400_000), (documents // 2, documents // 2 + 400_000), (documents - 200_000, documents)]
    samples = np.concatenate([stream.draw(start, stop).sample for start, stop in windows])
    assert len(np.unique(samples)) == len(samples) == 1_000_000
    assert samples.min() >= 0 and samples.max() < documents
    np.testing.assert_allclose(np.histogram(samples, bins=10, range=(0, documents))[0], 100_000, atol=1500)  # 5 sigma
    edge = stream.draw(documents - 3, documents + 3)
    assert edge.epoch.tolist() == [0, 0, 0, 1, 1, 1]


def test_shares_over_a_million_draws():
    draw = sampler().draw(0, 1_000_000)
    found = np.bincount(draw.language, minlength=len(SHARES)) / len(draw)
    np.testing.assert_allclose(found, SHARES, atol=1e-3)
    assert (draw.sample < SAMPLES[draw.language]).all() and draw.sample.min() == 0


@pytest.mark.parametrize("exponent", [0.3, 1.0])
@pytest.mark.parametrize("start", [0, 10**9])
def test_shares_of_107_very_uneven_languages(exponent, start):
    tokens = np.logspace(0, 7, 107)
    shares = smoothed_shares(tokens, exponent)
    stream = Sampler(samples_per_language=np.ceil(tokens).astype(np.int64), shares=shares, seed=2)
    found = np.bincount(stream.draw(start, start + 1_000_000).language, minlength=107) / 1_000_000
    np.testing.assert_allclose(found, shares, atol=1e-3)
    # What the docstring says: one slot at least, else within one slot, and all give what the raised ones take.
    wanted = np.maximum(shares, 1 / BLOCK)
    given = 1.01 * shares * (wanted.sum() - 1)
    assert (np.abs(stream.quota / BLOCK - wanted) < 1 / BLOCK + given).all()
    assert stream.quota.min() >= 1


def test_languages_are_mixed_evenly_through_a_block():
    draw = sampler().draw(0, BLOCK)
    halves = draw.language.reshape(16, -1)
    for language in (3, 4):
        counts = (halves == language).sum(axis=1)
        expected = SHARES[language] * BLOCK / 16
        assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_a_tiny_share_is_not_lost():
    draw = Sampler(samples_per_language=[5, 5], shares=np.array([1 - 1e-9, 1e-9]), seed=3).draw(0, BLOCK)
    assert (draw.language == 1).sum() == 1


def test_seek_far_needs_no_more_memory():
    here = sampler()
    tracemalloc.start()
    near = fields(here.draw(0, 64))
    near_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    far = fields(here.draw(10**9, 10**9 + 64))
    far_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert far_peak < near_peak + (1 << 20)
    assert far[2].max() > near[2].max()
    for a, b in zip(far, fields(sampler().draw(10**9, 10**9 + 64)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_seeds_differ_and_the_stream_is_pinned():
    # A change of these numbers changes every run's data order: checkpoints of older runs would not continue.
    draw = sampler(7).draw(100_000, 100_008)
    assert not np.array_equal(draw.sample, sampler(8).draw(100_000, 100_008).sample)
    assert draw.language.tolist() == [3, 4, 4, 4, 3, 3, 2, 4]
    assert draw.sample.tolist() == [882, 11604, 649, 2715, 278, 484, 11, 10365]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 12, 97, 1000, 65_536])
def test_permutations_are_one_to_one(size):
    place = np.arange(size)
    sizes = np.full(size, size)
    orders = [permute(place, size=sizes, key=np.full(size, key, dtype=np.uint64)) for key in range(4)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), place)
    if size >= 12:
        assert not np.array_equal(orders[0], orders[1])


def test_a_block_is_laid_out_by_the_same_permutation():
    # The block's quick permutation is `permute` by the block's key, on the languages in order.
    for block in (0, 3, 10**9 // BLOCK):
        draw = sampler(4).draw(block * BLOCK, (block + 1) * BLOCK)
        key = np.broadcast_to(hash64(4, 1, block), BLOCK)
        slot = permute(np.arange(BLOCK), size=np.full(BLOCK, BLOCK), key=key)
        np.testing.assert_array_equal(draw.language, np.repeat(np.arange(5), sampler().quota[0])[slot])


def test_permutation_spreads_uniformly():
    # Where place 0 of a permutation of 10 goes, over 20,000 keys: chi-square with 9 degrees of freedom.
    keys = np.arange(20_000, dtype=np.uint64)
    for place in (0, 9):
        went = permute(np.full(20_000, place), size=np.full(20_000, 10), key=keys)
        counts = np.bincount(went, minlength=10)
        assert ((counts - 2000) ** 2 / 2000).sum() < 33.7  # p = 1e-4


def test_smoothed_shares():
    tokens = np.array([100, 400])
    np.testing.assert_allclose(smoothed_shares(tokens, 0.5), [1 / 3, 2 / 3])
    np.testing.assert_allclose(smoothed_shares(tokens, 0.0), [0.5, 0.5])
    np.testing.assert_allclose(smoothed_shares(tokens, 1.0), [0.2, 0.8])


def test_no_torch():
    code = "import sys, unibert.data.sampler, unibert.data.shards, unibert.plan; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


TURNS = np.stack([SHARES, SHARES[::-1], smoothed_shares(np.ones(5), 1)])
STARTS = [0, 1000, 1000 + 2 * BLOCK + 77]


def curriculum(seed: int = 1) -> Sampler:
    return Sampler(samples_per_language=SAMPLES, shares=TURNS, seed=seed, starts=STARTS)


def test_the_first_part_of_a_curriculum_is_the_stream_without_one():
    for one, other in zip(fields(curriculum().draw(0, 1000)), fields(sampler().draw(0, 1000)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_each_part_of_a_curriculum_has_its_shares():
    for start, stop, shares in zip(STARTS[1:], [STARTS[2], STARTS[2] + BLOCK], TURNS[1:], strict=True):
        language = curriculum().draw(start, stop).language
        np.testing.assert_allclose(np.bincount(language, minlength=5) / len(language), shares, atol=2e-3)


def test_passes_go_on_through_a_curriculum():
    draw = curriculum().draw(0, STARTS[2] + BLOCK)
    for language, size in enumerate(SAMPLES):
        here = draw.language == language
        epoch, sample = draw.epoch[here], draw.sample[here]
        np.testing.assert_array_equal(epoch, np.arange(len(epoch)) // size)
        for number in range(epoch.max()):
            np.testing.assert_array_equal(np.sort(sample[epoch == number]), np.arange(size))
        last = sample[epoch == epoch.max()]
        assert len(np.unique(last)) == len(last)


@pytest.mark.parametrize("world", [1, 3])
def test_a_curriculum_is_the_same_for_every_world_size_and_window(world):
    batch, first = 48, 900  # over the edges of a part and of a block
    for first in (900, STARTS[1] + BLOCK - 100, STARTS[2] - 100):
        whole = curriculum().draw(first, first + 5 * batch)
        ranks = [curriculum() for _ in range(world)]
        each = batch // world
        starts = [(rank, first + step * batch + r * each) for step in range(5) for r, rank in enumerate(ranks)]
        parts = [fields(rank.draw(start, start + each)) for rank, start in starts]
        for i, column in enumerate(fields(whole)):
            np.testing.assert_array_equal(column, np.concatenate([part[i] for part in parts]))


def test_an_empty_part_of_a_curriculum_changes_nothing():
    empty = Sampler(samples_per_language=SAMPLES, shares=TURNS[[0, 2, 1]], seed=1, starts=[0, 1000, 1000])
    plain = Sampler(samples_per_language=SAMPLES, shares=TURNS[:2], seed=1, starts=[0, 1000])
    np.testing.assert_array_equal(empty.draw(900, 1100).sample, plain.draw(900, 1100).sample)
