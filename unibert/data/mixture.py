"""What stands at which position of a run's stream, read: documents of single languages and translation pairs. No torch.

Positions come in twos, (2i, 2i + 1). Slot i holds a translation pair when floor((i + 1) r) > floor(i r), r the ratio of
pairs, so that they are spread evenly and any slot is reached at once; the other slots hold two documents of
`data/sampler.py`'s stream, which goes on as if there were no pairs. The pairs are a stream of the same making, over
language pairs instead of languages. Of those with an English side a share has it twice, by a hash of (seed, number of
the pair in the stream), so that it too depends on the position alone; the two copies are masked differently.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unibert.data.pairs import PairSet
from unibert.data.sampler import Sampler, hash64
from unibert.data.shards import ShardSet
from unibert.errors import ConfigError, DataError
from unibert.pair_rules import PIVOT
from unibert.plan import pairs_before, share_phases, smoothed_shares
from unibert.schema import Recipe

_PAIRS = 3  # what the pairs' seed is made for, so that it differs from the documents'
_TWICE = 9  # what the hash of a pair's number is for: whether its English side stands on both


@dataclass(frozen=True)
class Places:
    """What stands at D consecutive positions of the stream. int64 [D] each."""

    language: np.ndarray
    """Index of the language."""
    sample: np.ndarray
    """Index of the document within its language, or of the pair within its language pair."""
    epoch: np.ndarray
    """Passes over the language, or the language pair, that are complete before this one."""
    pair: np.ndarray
    """Index of the language pair; -1 for a document without translation. The two sides are neighbours."""
    side: np.ndarray
    """Which side of the pair it is, 0 or 1, the same twice where an English one stands on both; 0 without a pair."""


@dataclass(frozen=True)
class Documents:
    """D documents, read."""

    texts: list[np.ndarray]
    """Token ids of each, with the first (cls) and the last (sep)."""
    ids: np.ndarray
    """uint64 [D]: an id of each, for its masks."""
    language: np.ndarray
    """int64 [D]."""
    epoch: np.ndarray
    """int64 [D]."""
    pairs: np.ndarray
    """int64 [P, 2]: indices of documents that are each other's translation."""


def open_pairs(recipe: Recipe, shards: ShardSet) -> PairSet | None:
    """The translation pairs that the recipe's stream mixes in; None when it mixes in none.

    Raises:
        ConfigError: pairs longer than data.max_sequence_tokens.
        DataError: there are none, they are damaged, or another tokenizer made them.
    """
    ratio, width = recipe.data.parallel_ratio, recipe.data.max_sequence_tokens
    if not ratio:
        return None
    try:
        pairs = PairSet.open(recipe.data.folder / "shards_parallel", languages=recipe.languages)
    except DataError as error:
        needs = f"data.parallel_ratio = {ratio:g} needs translation pairs (unibert data pairs RECIPE)"
        raise DataError(f"{needs}: {error}") from None
    if pairs.tokenizer_fingerprint != shards.tokenizer_fingerprint:
        raise DataError(
            f"{recipe.data.folder / 'shards_parallel'}: made with another tokenizer than {shards.folder}; "
            "make them again: unibert data pairs RECIPE --force"
        )
    if pairs.max_sequence_tokens > width:
        raise ConfigError(
            f"data.max_sequence_tokens = {width}, but the translation pairs have sides of {pairs.max_sequence_tokens}: "
            "make them again: unibert data pairs RECIPE --force"
        )
    return pairs


class Mixture:
    """The documents of a run by their position.

    Language pairs have shares proportional to their pairs ** data.smoothing_exponent, throughout the run.

    Args:
        recipe: shares, ratio of pairs and seed.
        shards: open, with exactly the recipe's languages.
        pairs: of `open_pairs`.

    Raises:
        ConfigError: the limits of shares leave a part of the stream to no language.
    """

    def __init__(self, recipe: Recipe, shards: ShardSet, pairs: PairSet | None) -> None:
        phases = share_phases(recipe, samples=shards.samples_per_language, tokens=shards.tokens_per_language)
        self.shards, self.pairs, self.ratio = shards, pairs, recipe.data.parallel_ratio
        self.sampler = Sampler(
            samples_per_language=shards.samples_per_language,
            shares=np.stack([phase.shares for phase in phases]),
            seed=recipe.train.seed,
            starts=[phase.first for phase in phases],
        )
        self.fingerprint = shards.fingerprint
        if pairs is not None:
            counts = pairs.pairs_per_language_pair
            shares = smoothed_shares(counts, recipe.data.smoothing_exponent)
            seed = int(hash64(recipe.train.seed, _PAIRS)[0])
            self.pair_sampler = Sampler(samples_per_language=counts, shares=shares, seed=seed)
            self.fingerprint += f"+{pairs.fingerprint}"
            english = shards.languages.index(PIVOT) if PIVOT in shards.languages else -1
            is_english = np.array(pairs.language_pairs) == english
            self.english_side = np.where(is_english.any(axis=1), is_english.argmax(axis=1), -1)  # of each language pair
            self.twice, self.seed = recipe.data.parallel_english_fraction, recipe.train.seed

    def draw(self, start: int, stop: int) -> Places:
        """What stands at positions start .. stop-1; both even where there are pairs."""
        if self.pairs is None:
            draw = self.sampler.draw(start, stop)
            return _places(draw.language, draw.sample, draw.epoch, np.full(len(draw), -1), np.zeros(len(draw)))
        assert start % 2 == stop % 2 == 0, "half a slot"
        before = pairs_before(np.arange(start // 2, stop // 2 + 1), self.ratio)
        first, last = int(before[0]), int(before[-1])
        own, both = self.sampler.draw(start - 2 * first, stop - 2 * last), self.pair_sampler.draw(first, last)
        in_pair = np.repeat(np.diff(before) > 0, 2)
        sides = self._sides(np.arange(first, last), both.language)
        languages = np.array(self.pairs.language_pairs)[both.language[:, None], sides].ravel()

        def merged(alone: np.ndarray, paired: np.ndarray) -> np.ndarray:
            out = np.empty(stop - start, dtype=np.int64)
            out[~in_pair], out[in_pair] = alone, paired
            return out

        return _places(
            merged(own.language, languages),
            merged(own.sample, np.repeat(both.sample, 2)),
            merged(own.epoch, np.repeat(both.epoch, 2)),
            merged(np.full(len(own), -1), np.repeat(both.language, 2)),
            merged(np.zeros(len(own)), sides.ravel()),
        )

    def _sides(self, number: np.ndarray, pair: np.ndarray) -> np.ndarray:
        """Which sides of the stream's pairs of these numbers stand first and second, [n, 2]."""
        sides = np.tile(np.array([0, 1]), (len(number), 1))
        english = self.english_side[pair]
        luck = (hash64(self.seed, _TWICE, number) >> np.uint64(11)) * 2.0**-53
        chosen = (english >= 0) & (luck < self.twice)
        sides[chosen] = english[chosen, None]
        return sides

    def read(self, start: int, stop: int) -> Documents:
        """The documents at positions start .. stop-1."""
        places = self.draw(start, stop)
        if self.pairs is None:
            return read_documents(self.shards, language=places.language, sample=places.sample, epoch=places.epoch)
        alone, heads = np.flatnonzero(places.pair < 0), np.flatnonzero(places.pair >= 0)[::2]
        texts: list[np.ndarray] = [np.empty(0)] * len(places.pair)
        ids = np.empty(len(texts), dtype=np.uint64)
        language, pair, sample = places.language.tolist(), places.pair.tolist(), places.sample.tolist()
        side = places.side.tolist()
        for i in alone.tolist():
            texts[i] = self.shards.sample(language[i], sample[i])
        for i in heads.tolist():
            both = self.pairs.sample(pair[i], sample[i])
            texts[i], texts[i + 1] = both[side[i]], both[side[i + 1]]
        ids[alone] = self.shards.document_id(places.language[alone], places.sample[alone])
        for place in (0, 1):  # not `side`: a text that stands on both sides is masked in two ways
            ids[heads + place] = self.pairs.document_id(places.pair[heads], places.sample[heads], side=place)
        return Documents(texts, ids, places.language, places.epoch, np.stack([heads, heads + 1], axis=1))

    def names(self, start: int, stop: int) -> list[str]:
        """Name of the document at each of the positions: `en:7`, or `en-de:7` for a side of a translation pair."""
        places, codes = self.draw(start, stop), self.shards.languages
        of_pair = [f"{codes[a]}-{codes[b]}" for a, b in (self.pairs.language_pairs if self.pairs else [])]
        columns = (places.language.tolist(), places.pair.tolist(), places.sample.tolist())
        return [f"{of_pair[p] if p >= 0 else codes[code]}:{n}" for code, p, n in zip(*columns, strict=True)]


def read_documents(shards: ShardSet, *, language: np.ndarray, sample: np.ndarray, epoch: np.ndarray) -> Documents:
    """Documents of single languages, [D] each."""
    texts = [shards.sample(*which) for which in zip(language.tolist(), sample.tolist(), strict=True)]
    ids = shards.document_id(language, sample)
    return Documents(texts, ids, language.astype(np.int64), epoch, np.empty((0, 2), dtype=np.int64))


def _places(*columns: np.ndarray) -> Places:
    return Places(*(column.astype(np.int64) for column in columns))
