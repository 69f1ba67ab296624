"""Keep evaluation texts out of training: an index of what they say, and whether a line says some of it.

A line is contaminated when it equals an evaluation text, or shares WINDOW characters in a row with one (WINDOW_DENSE
where characters are syllables or words): eight or nine words, as in the overlap checks of GPT-3 (13 words) and PaLM
(8). So a line that contains an evaluation text is found when that text is as long as a window; a shorter one
("I work.") matches whole lines only, else every other line would be lost. All in the form of lines.text_key, which
sees through case, spaces, punctuation and compatibility forms.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from unibert.data.lines import text_key
from unibert.data.shards import ShardSet

WINDOW, WINDOW_DENSE = 40, 16
"""Characters of the keys."""
EXAMPLES = 3
"""Hits shown for a language."""

_BASE = np.uint64(0xD6E8FEB86659FD93)
_INVERSE = np.uint64(pow(0xD6E8FEB86659FD93, -1, 1 << 64))
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_BLOCK = 1 << 16  # characters; what a block needs stays in the cache
_BITS_PER_WINDOW = 16
_SAMPLES_AT_ONCE = 1024
_DENSE = ((0x1100, 0x1200), (0x2E80, 0xA4D0), (0xAC00, 0xD800), (0xF900, 0xFB00), (0x20000, 0x40000))


class Index:
    """What evaluation texts say. 10 bytes a character of theirs; safe to share between threads, cheap to pickle."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Index the texts, of any number; they are not kept."""
        whole, long, dense = [], [], []
        for keys in _blocks(map(text_key, texts)):
            block = _Block(keys)
            whole.append(block.whole())
            long.append(block.windows(WINDOW)[block.inside(WINDOW, dense=False)])
            dense.append(block.windows(WINDOW_DENSE)[block.inside(WINDOW_DENSE, dense=True)])
        self._whole, self._long, self._dense = (_Hashes(parts) for parts in (whole, long, dense))

    def hits(self, keys: Sequence[str]) -> np.ndarray:
        """bool [len(keys)] of text keys: True where the line equals an evaluation text or shares a window with one."""
        parts = [self._hits(_Block(block)) for block in _blocks(keys)]
        return np.concatenate([np.zeros(0, dtype=bool), *parts])

    def _hits(self, block: _Block) -> np.ndarray:
        found = self._whole.contain(block.whole())
        for hashes, window in ((self._long, WINDOW), (self._dense, WINDOW_DENSE)):
            if len(hashes.sorted) and (window == WINDOW or block.dense.any()):
                places = np.flatnonzero(hashes.contain(block.windows(window)))
                found[block.owner(places)] = True
        return found

    def __len__(self) -> int:
        """Different texts."""
        return len(self._whole.sorted)

    def fingerprint(self) -> str:
        """Of all that is in the index, in hexadecimal; for the settings of a stage."""
        digest = hashlib.blake2b(digest_size=16)
        for hashes in (self._whole, self._long, self._dense):
            digest.update(len(hashes.sorted).to_bytes(8, "little") + hashes.sorted.astype("<u8").tobytes())
        return digest.hexdigest()


def in_shards(
    shards: ShardSet,
    language: int,
    *,
    decoder: Tokenizer,
    tests: Mapping[str, Callable[[Sequence[str]], np.ndarray]],
    samples: range,
) -> dict[str, dict[str, Any]]:
    """Look through training samples of a language: by each test its `hits`, and up to EXAMPLES of them, decoded.

    A test says of text keys which ones it finds, as `Index.hits` does. A text that was cut into several samples is
    looked at sample by sample, so one that is split over a cut is found if a window of it is on one side.
    """
    report: dict[str, dict[str, Any]] = {name: {"hits": 0, "examples": []} for name in tests}
    for start in range(samples.start, samples.stop, _SAMPLES_AT_ONCE):
        numbers = range(start, min(start + _SAMPLES_AT_ONCE, samples.stop))
        ids = [shards.sample(language, number)[1:-1].tolist() for number in numbers]
        texts = decoder.decode_batch(ids, skip_special_tokens=False)  # an unknown piece is no space
        keys = list(map(text_key, texts))
        for name, test in tests.items():
            entry, found = report[name], np.flatnonzero(test(keys))
            entry["hits"] += len(found)
            entry["examples"] += [texts[hit] for hit in found[: EXAMPLES - len(entry["examples"])]]
    return report


def _blocks(keys: Iterable[str]) -> Iterator[list[str]]:
    """The keys in lists of some _BLOCK characters."""
    block, size = [], 0
    for key in keys:
        block.append(key)
        size += len(key) + 1
        if size >= _BLOCK:
            yield block
            block, size = [], 0
    if block:
        yield block


class _Block:
    """Hashes of every window of some keys.

    With P the sums of the characters times rising powers of the base (mod 2 ** 64), (P[i + n] - P[i]) / base ** i
    depends on the n characters from i on alone.
    """

    def __init__(self, keys: list[str]) -> None:
        # After each key a NUL, which no key has, so that a window over a border is that of no text.
        joined = "\0".join(keys) + "\0"
        points = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        self.lengths = np.fromiter(map(len, keys), dtype=np.int64, count=len(keys))
        self.ends = np.cumsum(self.lengths + 1) - 1
        is_dense = np.zeros(len(points), dtype=np.int64)
        for first, end in _DENSE:
            is_dense += (points >= first) & (points < end)
        self.dense = np.add.reduceat(is_dense, self.ends - self.lengths) * 2 > self.lengths
        self.sums = np.zeros(len(points) + 1, dtype=np.uint64)
        np.cumsum(_mixed(points.astype(np.uint64) + np.uint64(1)) * _powers(_BASE, len(points)), out=self.sums[1:])
        self.back = _powers(_INVERSE, len(points))

    def windows(self, size: int) -> np.ndarray:
        """uint64: the hash of the window from each place on; none from the last `size` - 1."""
        count = max(0, len(self.back) - size + 1)
        return _mixed((self.sums[size : size + count] - self.sums[:count]) * self.back[:count])

    def inside(self, size: int, *, dense: bool) -> np.ndarray:
        """int64: the places of windows that lie within one key, of keys that are mostly dense or of the others."""
        fit = np.flatnonzero((self.dense == dense) & (self.lengths >= size))
        counts = self.lengths[fit] - size + 1
        starts = (self.ends - self.lengths)[fit]
        return np.repeat(starts - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())

    def whole(self) -> np.ndarray:
        """uint64 [keys]: the hash of each whole key."""
        starts = self.ends - self.lengths
        return _mixed((self.sums[self.ends] - self.sums[starts]) * self.back[starts] + self.lengths.astype(np.uint64))

    def owner(self, places: np.ndarray) -> np.ndarray:
        """The number of the key that has each place."""
        return np.searchsorted(self.ends, places, side="right")


class _Hashes:
    """A set of 64-bit hashes: sorted, and before them a table of bits that says no to most of what is not in it."""

    def __init__(self, parts: list[np.ndarray]) -> None:
        every = np.concatenate([np.zeros(0, dtype=np.uint64), *parts])
        every.sort()
        # Several times as fast as np.unique, which hashes what is nearly all different.
        self.sorted = every[np.concatenate([every[:1] == every[:1], every[1:] != every[:-1]])]
        bits = max(16, (len(self.sorted) * _BITS_PER_WINDOW).bit_length())
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros(1 << bits >> 3, dtype=np.uint8)
        places = self.sorted >> self._shift
        np.bitwise_or.at(self._table, places >> np.uint64(3), _bit(places))

    def contain(self, hashes: np.ndarray) -> np.ndarray:
        """bool [len(hashes)]."""
        places = hashes >> self._shift
        found = (self._table[places >> np.uint64(3)] & _bit(places)) != 0
        maybe = np.flatnonzero(found)
        at = np.searchsorted(self.sorted, hashes[maybe])
        found[maybe] = self.sorted[np.minimum(at, len(self.sorted) - 1)] == hashes[maybe]
        return found


def _bit(places: np.ndarray) -> np.ndarray:
    return np.uint8(1) << (places & np.uint64(7)).astype(np.uint8)


def _powers(base: np.uint64, count: int) -> np.ndarray:
    """base ** 0 .. base ** (count - 1), mod 2 ** 64."""
    powers = np.full(count, base, dtype=np.uint64)
    powers[:1] = 1
    return np.cumprod(powers)


def _mixed(values: np.ndarray) -> np.ndarray:
    values = (values ^ (values >> np.uint64(32))) * _MIX
    return values ^ (values >> np.uint64(29))
