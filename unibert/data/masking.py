"""BERT's dynamic masking, as a pure function of (seed, document, epoch).

Every random number is a hash of (seed, document, epoch, place in the document, purpose): no generator state, so
a resumed run, another world size or another order of preparation gives the same masks, and a document is masked
differently in each epoch. numpy only.

Sources: the 80/10/10 scheme is that of Devlin et al. 2019, section 3.1. Whole words came with BERT's later release
(create_pretraining_data.py, do_whole_word_mask); there each token of a chosen word is masked, replaced or kept by a
draw of its own, which shows parts of the word. Here the draw is the word's, as it is the span's in SpanBERT (Joshi et
al. 2020, section 3.1), and only the random token is drawn for each place.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from unibert.data.sampler import combine, hash64
from unibert.data.shard_format import SpecialIds
from unibert.data.words import WordPieces, words_of
from unibert.schema import Masking

_PURPOSES = _CHOOSE, _KIND, _TOKEN, _ROUND = range(4)  # what a random number is for


def mask(
    ids: np.ndarray,
    *,
    sample_id: int,
    epoch: int,
    seed: int,
    masking: Masking,
    special: SpecialIds,
    vocabulary_size: int,
    words: WordPieces | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mask one document: (input_ids [n], target_positions [m], target_ids [m]); see `mask_many`."""
    return mask_many(
        ids,
        lengths=np.array([len(ids)]),
        sample_ids=np.array([sample_id], dtype=np.uint64),
        epochs=np.array([epoch]),
        seed=seed,
        masking=masking,
        special=special,
        vocabulary_size=vocabulary_size,
        words=words,
    )


def mask_many(
    ids: np.ndarray,
    *,
    lengths: np.ndarray,
    sample_ids: np.ndarray,
    epochs: np.ndarray,
    seed: int,
    masking: Masking,
    special: SpecialIds,
    vocabulary_size: int,
    words: WordPieces | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mask D documents that stand one after the other.

    Of the c tokens of a document that are not special, c * fraction are targets, rounded up or down at random so
    that the mean is exact, but at least one. A target is shown as the mask token, as a uniformly drawn ordinary
    token, or unchanged. With `words`, all tokens of a word are targets or none, and all are shown in the same way;
    the mean is then exact but for documents in which the smallest word is too much.

    Args:
        ids: all token ids, [T].
        lengths: tokens of each document, [D], summing to T.
        sample_ids: an id of each document, uint64 [D].
        epochs: how often each was seen before, [D].
        seed: of the run.
        masking: fractions.
        special: ids that are never targets, and the mask's.
        vocabulary_size: V.
        words: where words begin, when masking.unit is "word".

    Returns:
        input_ids int64 [T], target_positions int64 [M] ascending in T, target_ids int64 [M]. A document of special
        tokens alone has no targets.
    """
    shown = ids.astype(np.int64)
    document, place = _places(lengths)
    key = hash64(seed, sample_ids, epochs)
    candidates = np.flatnonzero(~_is_special(special, vocabulary_size)[shown])
    wanted = _targets_wanted(np.bincount(document[candidates], minlength=len(lengths)), key, masking.fraction)
    if words is None:
        chosen = first = _lowest(document[candidates], place[candidates], key=key, wanted=wanted)
    else:
        word = words_of(ids[candidates], document=document[candidates], place=place[candidates], pieces=words)
        chosen, first = _whole(word, document[candidates], place[candidates], key=key, wanted=wanted)
    positions = candidates[chosen]
    targets = shown[positions]
    keys, places = key[document[positions]], place[positions]
    kind = _uniform(keys, place[candidates[first]], _KIND)
    ordinary = _ordinary(special, vocabulary_size)
    drawn = ordinary[(_random(keys, places, _TOKEN) % np.uint64(len(ordinary))).astype(np.int64)]
    as_random = kind < masking.mask_fraction + masking.random_fraction
    shown[positions] = np.where(kind < masking.mask_fraction, special.mask, np.where(as_random, drawn, targets))
    return shown, positions, targets


def _lowest(document: np.ndarray, place: np.ndarray, *, key: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Indices, ascending, of each document's `wanted` tokens with the lowest random numbers."""
    order = np.lexsort((_uniform(key[document], place, _CHOOSE), document))
    per_document = np.bincount(document, minlength=len(wanted))
    rank = np.arange(len(order)) - np.repeat(np.cumsum(per_document) - per_document, per_document)
    return np.sort(order[rank < wanted[document[order]]])


def _whole(
    word: np.ndarray, document: np.ndarray, place: np.ndarray, *, key: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the tokens of the chosen words, ascending, and of the first token of each one's word.

    Words are taken in random order until a document has its `wanted` tokens. The word that would go beyond is taken
    with the probability that makes the mean right. A document that is left with none gets its shortest word.
    """
    heads, size_W = np.flatnonzero(np.diff(word, prepend=-1)), np.bincount(word)
    document_W, place_W = document[heads], place[heads]
    luck_W = _uniform(key[document_W], place_W, _CHOOSE)
    order = np.lexsort((luck_W, document_W))
    owner, size = document_W[order], size_W[order]
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    before = np.cumsum(size) - size
    before -= np.repeat(before[first], np.diff(first, append=len(order)))
    # Place 0 of this purpose is the document's own rounding.
    coin = _uniform(key[owner], place_W[order] + 1, _ROUND)
    taken_W = np.empty(len(order), dtype=bool)
    taken_W[order] = coin * size < wanted[owner] - before
    shortest = np.lexsort((luck_W, size_W, document_W))[first]
    taken_W[shortest] |= ~np.isin(document_W[shortest], document_W[taken_W])
    chosen = np.flatnonzero(taken_W[word])
    return chosen, heads[word[chosen]]


def _places(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Document and place in the document of every token, [T] each."""
    document = np.repeat(np.arange(len(lengths)), lengths)
    return document, np.arange(len(document)) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _targets_wanted(candidates: np.ndarray, key: np.ndarray, fraction: float) -> np.ndarray:
    """Targets of each document, [D]: the mean is fraction * candidates where that is at least 1."""
    luck = _uniform(key, np.zeros(len(key), dtype=np.int64), _ROUND)
    return np.minimum(np.maximum(np.floor(fraction * candidates + luck).astype(np.int64), 1), candidates)


def _random(key: np.ndarray, place: np.ndarray, purpose: int) -> np.ndarray:
    """64 random bits for each (key, place, purpose)."""
    return combine(key, (place * len(_PURPOSES) + purpose).astype(np.uint64))


def _uniform(key: np.ndarray, place: np.ndarray, purpose: int) -> np.ndarray:
    """Numbers in [0, 1) with 53 random bits."""
    return (_random(key, place, purpose) >> np.uint64(11)) * 2.0**-53


@lru_cache(maxsize=4)
def _is_special(special: SpecialIds, vocabulary_size: int) -> np.ndarray:
    """Whether an id is special, bool [V]."""
    flags = np.zeros(vocabulary_size, dtype=bool)
    flags[list(special.all())] = True
    flags.flags.writeable = False
    return flags


@lru_cache(maxsize=4)
def _ordinary(special: SpecialIds, vocabulary_size: int) -> np.ndarray:
    """Ids that are not special, [V - specials]."""
    ids = np.flatnonzero(~_is_special(special, vocabulary_size))
    ids.flags.writeable = False
    return ids
