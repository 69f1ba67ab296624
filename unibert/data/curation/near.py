"""Near duplicates: signatures that fit on disk, band values to sort by, and the judgement of a pair.

A text is the set of its shingles (substrings of its key), and two texts are as similar as the Jaccard index of their
sets, J = |A & B| / |A | B|. If one unit (word or character) in ten is edited, w characters to a word and k to a
shingle, about (w + k - 1) / 10 w of the shingles on each side are lost: J = (1 - x) / (1 + x). For English (w = 5,
k = 4) that is 0.72; for a script without spaces whose characters are edited, (0.9 ** k) / (2 - 0.9 ** k): 0.68 with
k = 2, 0.57 with 3, 0.49 with 4. So shingles are as short as they can be before unrelated texts share many.

Signature: one permutation hashing (Li, Owen and Zhang 2012). Every shingle is hashed once, its hash says one of K
bins, and a bin keeps its least hash. Equal bins among those that either text has filled are an unbiased estimate of J
with a standard deviation below sqrt(J (1 - J) / K), 0.044 at most for K = 128; a text with fewer shingles than bins is
compared nearly exactly. Bands: bins that are empty borrow from a filled one (optimal densification, Shrivastava 2017),
then a pair agrees in one band of R with probability J ** R and is looked at with 1 - (1 - J ** R) ** B: 0.99 at 0.55,
0.95 at 0.5, 1e-5 at 0.02, where unrelated paragraphs are. R = 4 keeps the buckets small up to 10**8 texts.

The least similarity is 0.46 for texts of 90 shingles or more and rises to 0.8 for 30 or fewer: in a short line one word
is the message ("cannot add ...", "cannot delete ..."), in a paragraph it is an edit. Of copies with a tenth edited 97 %
or more are found from 100 characters on, in every script, 4 to 9 in 10 of 50 to 100, and few below 50
(benchmarks/minhash.py).

All hashes are written out below: the same text gives the same numbers on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from unibert.data.curation import scripts
from unibert.languages import script_of

HASHES = 128
"""Bins of a signature, K."""
ROWS = 4
"""Bins that must agree in a band, R."""
BANDS = 48
"""B: the 32 that share no bin, and 16 more that share at most one with any of them."""
EMPTY = np.uint32(0xFFFFFFFF)
"""A bin without a shingle; a hash has 31 bits."""
NEIGHBOURS = 8
"""Texts before it in its bucket that a text is compared with, besides the first of the bucket."""
STRICT, LENIENT = 0.8, 0.46
"""Least similarity of short lines and of paragraphs."""

_SHORT, _LONG = 30, 90  # distinct shingles up to which, and from which, the two hold
_BLOCK = 256  # texts; what a block needs stays in the cache
_PAIRS = 1 << 14
_EMPTY16 = np.uint16(0xFFFF)
_BINS = np.arange(HASHES)
_BAND_BINS = np.concatenate(
    [_BINS.reshape(ROWS, -1).T, _BINS.reshape(-1, ROWS)[:: HASHES // ROWS // (BANDS - HASHES // ROWS)]]
)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def shingle_of(language: str) -> int:
    """Characters in a shingle: 2 in dense scripts, 3 in other scripts without spaces, else 4."""
    return 2 if scripts.is_dense(language) else 3 if script_of(language) in scripts.WITHOUT_SPACES else 4


def signatures(keys: Sequence[str], *, shingle: int) -> np.ndarray:
    """uint32 [len(keys), HASHES]: per bin the least hash of a text's shingles in it, or EMPTY.

    A key shorter than a shingle is one shingle.
    """
    out = np.full((len(keys) + 1, HASHES), EMPTY, dtype=np.uint32)
    for start in range(0, len(keys), _BLOCK):
        block = [key.ljust(shingle, "\0") for key in keys[start : start + _BLOCK]]
        _fill(out[start : start + len(block) + 1], block, shingle)
    return out[:-1]


def _fill(out: np.ndarray, texts: list[str], shingle: int) -> None:
    """Signatures of some texts into out [len(texts) + 1, HASHES]; its last row is left EMPTY."""
    points = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype="<u4")
    hashed = np.zeros(len(points) - shingle + 1, dtype=np.uint32)
    for offset in range(shingle):
        hashed *= np.uint32(0x9E3779B1)
        hashed += points[offset : offset + len(hashed)]
    hashed = _mixed(hashed) >> np.uint32(1)
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    cells = np.repeat(np.arange(len(texts)) * HASHES, lengths)[: len(hashed)]
    ends = np.cumsum(lengths)[:-1]
    for back in range(1, shingle):  # a shingle that runs over the end of its text is none
        cells[ends - back] = len(texts) * HASHES
    cells += hashed >> np.uint32(32 - HASHES.bit_length())
    np.minimum.at(out.reshape(-1), cells, hashed)
    out[-1] = EMPTY


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finaliser of MurmurHash3 (Appleby, public domain), in place on uint32."""
    values ^= values >> np.uint32(16)
    values *= np.uint32(0x85EBCA6B)
    values ^= values >> np.uint32(13)
    values *= np.uint32(0xC2B2AE35)
    values ^= values >> np.uint32(16)
    return values


def bands(signatures: np.ndarray) -> np.ndarray:
    """uint64 [BANDS, n] of signatures [n, HASHES]: equal values mean an equal band; no two bands share values."""
    out = np.empty((BANDS, len(signatures)), dtype=np.uint64)
    for start in range(0, len(signatures), 4 * _BLOCK):
        filled = _densified(signatures[start : start + 4 * _BLOCK])
        mixed = np.zeros((len(filled), BANDS), dtype=np.uint64) + np.arange(BANDS, dtype=np.uint64)
        for row in range(ROWS):
            mixed ^= filled[:, _BAND_BINS[:, row]]
            mixed *= _GOLDEN
            mixed ^= mixed >> np.uint64(32)
        out[:, start : start + len(filled)] = mixed.T
    return out


def _densified(signatures: np.ndarray) -> np.ndarray:
    """Each empty bin with the value of the first filled one in a random order that is the same for all texts."""
    given = np.ascontiguousarray(signatures).reshape(-1)
    out = given.copy()
    empty = np.flatnonzero(given == EMPTY)
    attempt = 0
    while len(empty):
        attempt += 1
        draw = _mixed((_BINS + attempt * HASHES).astype(np.uint32)) & np.uint32(HASHES - 1)
        found = given[empty + (draw - _BINS)[empty & (HASHES - 1)]]
        out[empty] = found
        empty = empty[found == EMPTY]
    return out.reshape(signatures.shape)


def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64 [m] of signatures [m, HASHES] each, both plain or both packed: estimates of each pair's Jaccard index."""
    empty = _empty(a)
    either = ((a & b) != empty).sum(axis=1)  # it is all ones and no hash is
    return ((a == b) & (a != empty)).sum(axis=1) / np.maximum(either, 1)


def are_near(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """bool [m] of signatures as in `similarity`: True where the texts are as similar as their length asks for."""
    filled = ((a != _empty(a)).sum(axis=1) + (b != _empty(b)).sum(axis=1)) / 2
    ends = [HASHES * (1 - (1 - 1 / HASHES) ** shingles) for shingles in (_SHORT, _LONG)]
    return similarity(a, b) >= np.interp(filled, ends, [STRICT, LENIENT])


def _empty(signatures: np.ndarray) -> np.unsignedinteger:
    """What an empty bin holds: all ones."""
    return signatures.dtype.type(np.iinfo(signatures.dtype).max)


def packed(signatures: np.ndarray) -> np.ndarray:
    """uint16 of signatures, half the room: each bin's remainder by 65535, or 65535 itself where it is empty."""
    low = (signatures % np.uint32(_EMPTY16)).astype(np.uint16)
    low[signatures == EMPTY] = _EMPTY16
    return low


def candidates(values: np.ndarray) -> np.ndarray:
    """int64 [m, 2] of one band's values [n]: (earlier, later) places of the pairs to compare in its buckets."""
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    place = np.arange(len(values))
    first = np.maximum.accumulate(np.where(np.diff(ranked, prepend=~ranked[:1]) != 0, place, 0))
    later = place[place > first]
    pairs = [np.stack([order[first[later]], order[later]], axis=1)]
    for back in range(1, NEIGHBOURS + 1):
        later = later[later - back > first[later]]
        pairs.append(np.stack([order[later - back], order[later]], axis=1))
    return np.concatenate(pairs)


def near_duplicates(keys: Sequence[str], *, shingle: int) -> np.ndarray:
    """bool [len(keys)]: True where an earlier text, itself kept or not, is near; for texts that fit in memory.

    That the earlier one need not be kept makes the result independent of the order of work. Of a bucket, the first
    text and the NEIGHBOURS before are compared.
    """
    drop = np.zeros(len(keys), dtype=bool)
    if len(keys) > 1:
        signed = signatures(keys, shingle=shingle)
        for pairs in _chunks(bands(signed)):
            pairs = pairs[~drop[pairs[:, 1]]]
            drop[pairs[are_near(signed[pairs[:, 0]], signed[pairs[:, 1]]), 1]] = True
    return drop


def _chunks(banded: np.ndarray) -> Iterator[np.ndarray]:
    """The candidates of every band, at most _PAIRS at a time."""
    for values in banded:
        pairs = candidates(values)
        for start in range(0, len(pairs), _PAIRS):
            yield pairs[start : start + _PAIRS]
