import numpy as np
import pytest

from unibert.data.masking import mask, mask_many
from unibert.data.shard_format import SpecialIds
from unibert.schema import Masking

SPECIAL = SpecialIds(cls=0, sep=2, pad=1, mask=999, unk=3)
SETTINGS = {"seed": 5, "special": SPECIAL, "vocabulary_size": 1000}
RANDOM = np.random.default_rng(0)
BODY = RANDOM.integers(4, 999, size=60)
DOCUMENT = np.concatenate([[0], BODY, [2]])


def once(ids=DOCUMENT, *, sample_id=7, epoch=0, masking=None, **more):
    return mask(ids, sample_id=sample_id, epoch=epoch, masking=masking or Masking(), **SETTINGS | more)


def many(count, *, masking=None, length=62):
    ids = np.tile(DOCUMENT[:length], count)
    return mask_many(
        ids,
        lengths=np.full(count, length),
        sample_ids=np.arange(count, dtype=np.uint64),
        epochs=np.zeros(count, dtype=np.int64),
        masking=masking or Masking(),
        **SETTINGS,
    )


def test_targets_are_what_was_there_and_the_rest_is_untouched():
    shown, positions, targets = once()
    np.testing.assert_array_equal(targets, DOCUMENT[positions])
    rest = np.setdiff1d(np.arange(len(DOCUMENT)), positions)
    np.testing.assert_array_equal(shown[rest], DOCUMENT[rest])
    assert len(positions) == 9 and (np.diff(positions) > 0).all()  # 15 % of 60
    assert shown.dtype == targets.dtype == np.int64


def test_same_key_same_mask_and_each_part_of_the_key_matters():
    first = once()
    for a, b in zip(first, once(), strict=True):
        np.testing.assert_array_equal(a, b)
    for other in (once(epoch=1), once(sample_id=8), once(seed=6)):
        assert not np.array_equal(first[1], other[1])


def test_together_as_one_by_one():
    lengths = np.array([5, 62, 3, 40])
    documents = [np.concatenate([[0], BODY[: n - 2], [2]]) for n in lengths]
    sample_ids = np.array([3, 1, 4, 2**63 + 5], dtype=np.uint64)
    epochs = np.array([0, 1, 2, 0])
    shown, positions, targets = mask_many(
        np.concatenate(documents), lengths=lengths, sample_ids=sample_ids, epochs=epochs, masking=Masking(), **SETTINGS
    )
    alone = [once(ids, sample_id=int(i), epoch=int(e)) for ids, i, e in zip(documents, sample_ids, epochs, strict=True)]
    starts = np.cumsum(lengths) - lengths
    np.testing.assert_array_equal(shown, np.concatenate([one[0] for one in alone]))
    np.testing.assert_array_equal(positions, np.concatenate([one[1] + s for one, s in zip(alone, starts, strict=True)]))
    np.testing.assert_array_equal(targets, np.concatenate([one[2] for one in alone]))


def test_special_tokens_are_never_targets():
    ids = np.array([0, 3, 10, 3, 1, 999, 11, 3, 2] * 5)
    for sample_id in range(50):
        _, positions, _ = once(ids, sample_id=sample_id, masking=Masking(fraction=1.0))
        np.testing.assert_array_equal(ids[positions], [10, 11] * 5)


def test_at_least_one_target_and_none_without_ordinary_tokens():
    for sample_id in range(50):
        assert len(once(np.array([0, 10, 2]), sample_id=sample_id)[1]) == 1
    shown, positions, targets = once(np.array([0, 3, 2]))
    assert shown.tolist() == [0, 3, 2] and not len(positions) and not len(targets)


@pytest.mark.parametrize("length", [10, 25, 62])
def test_share_of_targets_is_exact_on_average(length):
    _, positions, _ = many(4000, length=length)
    candidates = 4000 * (length - 1 if length < 62 else 60)  # DOCUMENT[:length] has its sep only when whole
    assert abs(len(positions) / candidates - 0.15) < 0.004


def test_eighty_ten_ten():
    shown, positions, targets = many(6000)
    now = shown[positions]
    masked, kept = (now == 999).mean(), (now == targets).mean()
    assert abs(masked - 0.8) < 0.006 and abs(kept - 0.1) < 0.005
    random = now[(now != 999) & (now != targets)]
    assert abs(len(random) / len(now) - 0.1) < 0.005
    assert not np.isin(random, SPECIAL.all()).any()
    counts = np.bincount(random, minlength=1000)
    ordinary = np.setdiff1d(np.arange(1000), SPECIAL.all())
    expected = counts[ordinary].mean()
    assert ((counts[ordinary] - expected) ** 2 / expected).sum() < 995 + 5 * np.sqrt(2 * 995)


def test_every_place_is_equally_likely():
    _, positions, _ = many(6000)
    counts = np.bincount(positions % 62, minlength=62)[1:61]
    assert ((counts - 900) ** 2 / 900).sum() < 60 + 5 * np.sqrt(120)


def test_fractions_are_obeyed():
    shown, positions, targets = once(masking=Masking(fraction=0.5, mask_fraction=0.0, random_fraction=0.0))
    assert len(positions) == 30
    np.testing.assert_array_equal(shown[positions], targets)
    shown, positions, _ = once(masking=Masking(fraction=0.5, mask_fraction=1.0, random_fraction=0.0))
    assert (shown[positions] == 999).all()
