"""Near duplicates: the estimate is right, planted copies are found in several scripts, unrelated texts stay."""

import random

import numpy as np
import pytest

from unibert.data.curation import near

ALPHABETS = {
    "en": "abcdefghijklmnopqrstuvwxyz",
    "ru": "абвгдежзиклмнопрстуфхцчшщыьэюя",
    "hi": "कखगघचछजझटठडढणतथदधनपफबभमयरलवशषसह",
    "ar": "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "th": "กขคงจฉชซญดตถทธนบปผฝพฟภมยรลวศษสหอะาเแโไ",
    "zh": "".join(chr(0x4E00 + 7 * place) for place in range(1500)),
    "ja": "あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほまみむめもやゆよらりるれろわをん" * 3
    + "".join(chr(0x5000 + 11 * place) for place in range(400)),
}
UNSPACED = ("th", "zh", "ja")


def paragraphs(code: str, count: int, *, units: int, seed: int) -> list[list[str]]:
    """Paragraphs as words, in scripts without spaces as characters; frequent ones are drawn more often."""
    rng = random.Random(seed)
    words = ["".join(rng.choices(ALPHABETS[code], k=rng.randint(2, 9))) for _ in range(3000)]
    pool = list(ALPHABETS[code]) if code in UNSPACED else words
    weights = [1 / (rank + 20) for rank in range(len(pool))]
    return [rng.choices(pool, weights, k=rng.randint(units, 3 * units)) for _ in range(count)]


def edited(units: list[str], pool: list[str], rng: random.Random) -> list[str]:
    units = list(units)
    for _ in range(len(units) // 10):
        at, kind = rng.randrange(len(units) - 1), rng.randrange(4)
        if kind == 0:
            units[at] = rng.choice(pool)
        elif kind == 1:
            del units[at]
        elif kind == 2:
            units.insert(at, rng.choice(pool))
        else:
            units[at : at + 2] = units[at + 1], units[at]
    return units


@pytest.mark.parametrize("code", ALPHABETS)
def test_copies_with_a_tenth_edited_are_found_and_unrelated_texts_stay(code: str) -> None:
    texts = paragraphs(code, 500, units=100 if code in UNSPACED else 20, seed=1)
    pool, rng = [unit for text in texts for unit in text], random.Random(2)
    planted = [edited(text, pool, rng) for text in texts]
    keys = ["".join(text) for text in [*texts, *planted]]
    drop = near.near_duplicates(keys, shingle=near.shingle_of(code))
    assert drop[: len(texts)].sum() == 0  # 125,000 pairs
    assert drop[len(texts) :].mean() >= 0.95


def sets(keys: list[str], shingle: int) -> list[set[str]]:
    return [{key[at : at + shingle] for at in range(max(1, len(key) - shingle + 1))} for key in keys]


@pytest.mark.parametrize("units", [4, 20, 100])
def test_similarity_is_an_unbiased_estimate_of_the_jaccard_index(units: int) -> None:
    texts = paragraphs("en", 600, units=units, seed=3)
    pool, rng = [unit for text in texts for unit in text], random.Random(4)
    first = ["".join(text) for text in texts]
    second = ["".join(edited(edited(text, pool, rng), pool, rng)) for text in texts]
    exact = [len(a & b) / len(a | b) for a, b in zip(sets(first, 4), sets(second, 4), strict=True)]
    signed = [near.signatures(keys, shingle=4) for keys in (first, second)]
    error = near.similarity(*signed) - np.array(exact)
    # frequent words are in many of the texts, so the errors are not independent
    assert abs(error.mean()) < 0.012 and error.std() < 0.044


def test_a_short_line_must_be_more_alike_than_a_paragraph() -> None:
    short = ["sorryyoucannotaddacategory", "sorryyoucannotaddcategories"]
    assert not near.near_duplicates(short, shingle=4).any()
    body = "".join(paragraphs("en", 1, units=60, seed=5)[0])
    assert near.near_duplicates([short[0] + body, short[1] + body], shingle=4).tolist() == [False, True]


def test_the_least_similarity_falls_with_length() -> None:
    def flags(shingles: int, share: float) -> bool:
        filled = round(near.HASHES * (1 - (1 - 1 / near.HASHES) ** shingles))
        a = np.full((1, near.HASHES), near.EMPTY, dtype=np.uint32)
        a[0, :filled] = np.arange(filled)
        b = a.copy()
        b[0, round(share * filled) : filled] += np.uint32(1000)
        return bool(near.are_near(a, b)[0])

    assert flags(30, 0.82) and not flags(30, 0.77)
    assert flags(500, 0.47) and not flags(500, 0.45)
    assert flags(60, 0.7) and not flags(60, 0.5)


def test_the_result_does_not_depend_on_blocks_and_is_the_same_everywhere() -> None:
    keys = ["".join(text) for text in paragraphs("ru", 700, units=5, seed=6)]
    whole = near.signatures(keys, shingle=4)
    pieces = [near.signatures(keys[at : at + 97], shingle=4) for at in range(0, len(keys), 97)]
    assert np.array_equal(np.concatenate(pieces), whole)
    banded = near.bands(whole)
    assert np.array_equal(np.concatenate([near.bands(piece) for piece in pieces], axis=1), banded)
    signed = near.signatures(["thesamenumbersoneverymachine", "数字は同じ"], shingle=4)
    assert signed.min(axis=1).tolist() == [58646242, 987239208]
    assert near.bands(signed)[[0, 47]].tolist() == [
        [620469755237268766, 11483521556700388985],
        [13250085434433668984, 8245996785176460342],
    ]


def test_bands_agree_for_equal_texts_and_hardly_ever_for_unrelated_ones() -> None:
    keys = ["".join(text) for text in paragraphs("en", 400, units=20, seed=7)]
    banded = near.bands(near.signatures(keys, shingle=4))
    assert banded.shape == (near.BANDS, 400) and banded.dtype == np.uint64
    assert np.array_equal(banded, near.bands(near.signatures(list(keys), shingle=4)))
    pairs = sum(400 - len(np.unique(band)) for band in banded)
    assert pairs < 0.001 * 400 * 399 / 2
    assert len(np.unique(banded)) > banded.size - 50  # no value is of two bands


def test_candidates_are_the_first_of_the_bucket_and_the_eight_before() -> None:
    values = np.array([7, 3] + [7] * 12 + [3, 5], dtype=np.uint64)
    pairs = {tuple(pair) for pair in near.candidates(values).tolist()}
    bucket = [0, *range(2, 14)]
    wanted = {
        (bucket[other], bucket[place])
        for place in range(1, 13)
        for other in {0, *range(max(0, place - near.NEIGHBOURS), place)}
    }
    assert pairs == wanted | {(1, 14)}


def test_a_text_near_a_dropped_one_is_dropped_too() -> None:
    words = [f"word{place * 7919 % 1000}x" for place in range(60)]
    versions = [words[:], words[6:] + [f"new{n}y" for n in range(6)], words[14:] + [f"new{n}y" for n in range(14)]]
    keys = ["".join(version) for version in versions]
    signed = near.signatures(keys, shingle=4)
    assert near.are_near(signed[:1], signed[1:2]) and near.are_near(signed[1:2], signed[2:])
    assert near.near_duplicates(keys, shingle=4).tolist() == [False, True, True]


def test_odd_keys() -> None:
    assert near.near_duplicates([], shingle=4).tolist() == []
    assert near.near_duplicates(["a"], shingle=4).tolist() == [False]
    assert near.near_duplicates(["ab", "", "ab", "abc", "", "\ud800x"], shingle=4).tolist() == [
        False, False, True, False, True, False
    ]  # fmt: skip
    assert near.signatures([], shingle=3).shape == (0, near.HASHES)
    assert near.bands(near.signatures([], shingle=3)).shape == (near.BANDS, 0)
