"""Which document stands at which position of the stream: a pure function of (seed, position).

Nothing is stored: the position is one integer, the same for every world size, micro-batch and number of
workers, and any position is reached at once. Two steps, both reproducible bit for bit on every machine
(64-bit integer arithmetic of our own; numpy's generators may change between versions):

1. Positions come in blocks of 2**16. In each block every language has a fixed number of slots (its share,
   rounded by largest remainders), scattered by a seeded permutation of the block. The slot gives the language;
   the language's documents are counted through in the order of the stream. Where shares change over the run, each
   part has blocks of its own (the last one cut off), and the count goes on from what the parts before it had.
2. That running count gives `epoch, place = divmod(count, documents of the language)`, and a seeded permutation
   of (language, epoch) turns the place into a document: no repeat within a pass over a language.

The permutations are Feistel networks over an a x b grid, a * b just above n, walked along their cycle until
inside (Black & Rogaway 2002, "Ciphers with arbitrary finite domains", methods 2 and 3). No torch here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from unibert.plan.shares import BLOCK, quotas

__all__ = ["BLOCK", "Draw", "Sampler", "hash64", "permute"]

SIDE = 256
assert SIDE * SIDE == BLOCK, "a block is the whole grid of one-byte coordinates, so that its permutation needs no walk"
ROUNDS = 6
MASK64 = (1 << 64) - 1
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_BLOCKS, _DOCUMENTS = 1, 2  # what a permutation is for, so that their keys differ


@dataclass(frozen=True)
class Draw:
    """What stands at n consecutive positions of the stream."""

    language: np.ndarray
    """int32 [n]: index of the language."""
    sample: np.ndarray
    """int64 [n]: index of the document within its language."""
    epoch: np.ndarray
    """int32 [n]: passes over the language that are complete before this one."""

    def __len__(self) -> int:
        return len(self.language)


def hash64(*parts: int | np.ndarray) -> np.ndarray:
    """A 64-bit hash of the parts, elementwise with broadcasting: `combine` from left to right."""
    state = np.zeros(1, dtype=np.uint64)
    for part in parts:
        state = combine(state, np.asarray(part & MASK64 if isinstance(part, int) else part).astype(np.uint64))
    return state


def combine(state: np.ndarray, word: np.ndarray) -> np.ndarray:
    """A hash of (hash, word), uint64: SplitMix64's step, one-to-one in the word.

    Source: Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators".
    """
    return _finish((state ^ word) + GOLDEN)


def _finish(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permute(place: np.ndarray, *, size: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Where each place goes in the permutation of range(size) that its key names.

    Args:
        place: int64 [n], each in range(size).
        size: int64 [n], sizes at least 1.
        key: uint64 [n], any value; places with equal (size, key) belong to one permutation.

    Returns:
        int64 [n], each in range(size); different places of one permutation go to different values.
    """
    # a x b is the smallest such grid, so the walk below is almost never needed: a * b - size < a.
    a = np.ceil(np.sqrt(size)).astype(np.uint64)
    b = (size.astype(np.uint64) + a - np.uint64(1)) // a
    out = _feistel(place.astype(np.uint64), a=a, b=b, key=key)
    outside = np.flatnonzero(out >= size.astype(np.uint64))
    while outside.size:
        out[outside] = _feistel(out[outside], a=a[outside], b=b[outside], key=key[outside])
        outside = outside[out[outside] >= size[outside].astype(np.uint64)]
    return out.astype(np.int64)


def _feistel(x: np.ndarray, *, a: np.ndarray, b: np.ndarray, key: np.ndarray) -> np.ndarray:
    """A permutation of range(a * b): the two coordinates are shifted in turn by a hash of the other."""
    left, right = x // b, x % b
    for _ in range(ROUNDS // 2):
        key = key + GOLDEN
        left = (left + combine(key, right) % a) % a
        key = key + GOLDEN
        right = (right + combine(key, left) % b) % b
    return left * b + right


def _permute_block(key: np.ndarray) -> np.ndarray:
    """`permute` of all places of a block by one key [1], several times faster: int64 [BLOCK].

    A coordinate is one byte, so that a round's hash has only 256 inputs: a table, and sums that wrap by themselves.
    """
    keys = key[:, None] + GOLDEN * np.arange(1, ROUNDS + 1, dtype=np.uint64)[:, None]
    tables = combine(keys, np.arange(SIDE, dtype=np.uint64)).astype(np.uint8)
    side = np.arange(SIDE, dtype=np.uint8)
    left, right = np.repeat(side, SIDE), np.tile(side, SIDE)
    for shift_left, shift_right in zip(tables[::2], tables[1::2], strict=True):
        left = left + shift_left.take(right)
        right = right + shift_right.take(left)
    return left * np.int64(SIDE) + right


class Sampler:
    """The stream of documents of a run.

    Args:
        samples_per_language: documents of each language, [L], all at least 1; L at most BLOCK.
        shares: the languages' shares of the stream, [L], summing to 1; [K, L] where they change.
        seed: of the order.
        starts: first position of each of the K parts with shares of its own, from 0, not falling.

    A language gets a whole number of a block's slots, at least one. So a share s is met within 1 / BLOCK = 1.5e-5,
    which for a tiny one is a relative error of up to 1 / (s * BLOCK): 1.5 % for s = 0.001, 15 % for s = 0.0001;
    an s below 1 / BLOCK is raised to it. What the raised ones take, less than L / BLOCK (0.16 % for 107 languages)
    in all, the others give in proportion to their shares.
    """

    def __init__(
        self,
        *,
        samples_per_language: Sequence[int] | np.ndarray,
        shares: np.ndarray,
        seed: int,
        starts: Sequence[int] = (0,),
    ) -> None:
        self.samples_per_language = np.asarray(samples_per_language, dtype=np.int64)
        assert self.samples_per_language.min() >= 1, "a language without documents"
        self.seed, self._starts, self._stops = seed, list(starts), [*starts[1:], 1 << 62]
        self.quota = np.stack([quotas(row) for row in np.atleast_2d(np.asarray(shares, dtype=np.float64))])  # [K, L]
        self._block: tuple[int, int, np.ndarray, np.ndarray] | None = None
        # What the parts before each part had: blocks begun, and documents of each language.
        self._blocks, self._before = [0], [np.zeros_like(self.samples_per_language)]
        for part, (start, stop) in enumerate(pairwise(self._starts)):
            whole, more = divmod(stop - start, BLOCK)
            cut_off = np.bincount(self._layout(part, whole)[0][:more], minlength=len(self._before[0]))
            self._before.append(self._before[part] + whole * self.quota[part] + cut_off)
            self._blocks.append(self._blocks[part] + whole + (more > 0))

    def draw(self, start: int, stop: int) -> Draw:
        """The documents at positions start .. stop-1, counted from 0. Memory and time do not depend on `start`."""
        language = np.empty(stop - start, dtype=np.int32)
        count = np.empty(stop - start, dtype=np.int64)
        position = start
        while position < stop:
            part = bisect_right(self._starts, position) - 1
            block, first = divmod(position - self._starts[part], BLOCK)
            last = min(first + min(stop, self._stops[part]) - position, BLOCK)
            languages, ranks = self._layout(part, block)
            here = slice(position - start, position - start + last - first)
            language[here] = languages[first:last]
            before = self._before[part] + block * self.quota[part]
            count[here] = before[language[here]] + ranks[first:last]
            position += last - first
        size = self.samples_per_language[language]
        epoch, place = np.divmod(count, size)
        sample = permute(place, size=size, key=hash64(self.seed, _DOCUMENTS, language, epoch))
        return Draw(language, sample, epoch.astype(np.int32))

    def _layout(self, part: int, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Language of each slot of a part's block, and how many slots before it in the block have the same one."""
        # The last block is kept, since draws are mostly consecutive: a local name, as two threads may draw.
        kept = self._block
        if kept is None or kept[:2] != (part, block):
            quota = self.quota[part]
            # 16 bits hold every language, since each has a slot; numpy sorts them by radix.
            slots = np.repeat(np.arange(len(quota), dtype=np.uint16), quota)
            languages = slots[_permute_block(hash64(self.seed, _BLOCKS, self._blocks[part] + block))]
            ranks = np.empty(BLOCK, dtype=np.int64)
            ranks[np.argsort(languages, kind="stable")] = np.arange(BLOCK) - np.repeat(np.cumsum(quota) - quota, quota)
            kept = self._block = (part, block, languages, ranks)
        return kept[2], kept[3]
