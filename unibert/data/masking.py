"""BERT's dynamic masking, as a pure function of (seed, document, epoch).

Every random number is a hash of (seed, document, epoch, place in the document, purpose): no generator state, so
a resumed run, another world size or another order of preparation gives the same masks, and a document is masked
differently in each epoch. Source of the 80/10/10 scheme: Devlin et al. 2019, section 3.1. numpy only.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from unibert.data.sampler import combine, hash64
from unibert.data.shard_format import SpecialIds
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
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mask D documents that stand one after the other.

    Of the c tokens of a document that are not special, c * fraction are targets, rounded up or down at random so
    that the mean is exact, but at least one. A target is shown as the mask token, as a uniformly drawn ordinary
    token, or unchanged.

    Args:
        ids: all token ids, [T].
        lengths: tokens of each document, [D], summing to T.
        sample_ids: an id of each document, uint64 [D].
        epochs: how often each was seen before, [D].
        seed: of the run.
        masking: fractions.
        special: ids that are never targets, and the mask's.
        vocabulary_size: V.

    Returns:
        input_ids int64 [T], target_positions int64 [M] ascending in T, target_ids int64 [M]. A document of special
        tokens alone has no targets.
    """
    shown = ids.astype(np.int64)
    document, place = _places(lengths)
    key = hash64(seed, sample_ids, epochs)
    candidates = np.flatnonzero(~_is_special(special, vocabulary_size)[shown])
    wanted = _targets_wanted(np.bincount(document[candidates], minlength=len(lengths)), key, masking.fraction)
    # The targets of a document are its `wanted` candidates with the lowest random numbers.
    luck = _uniform(key[document[candidates]], place[candidates], _CHOOSE)
    order = candidates[np.lexsort((luck, document[candidates]))]
    per_document = np.bincount(document[order], minlength=len(lengths))
    rank = np.arange(len(order)) - np.repeat(np.cumsum(per_document) - per_document, per_document)
    positions = np.sort(order[rank < wanted[document[order]]])
    targets = shown[positions]
    keys, places = key[document[positions]], place[positions]
    kind = _uniform(keys, places, _KIND)
    ordinary = _ordinary(special, vocabulary_size)
    drawn = ordinary[(_random(keys, places, _TOKEN) % np.uint64(len(ordinary))).astype(np.int64)]
    as_random = kind < masking.mask_fraction + masking.random_fraction
    shown[positions] = np.where(kind < masking.mask_fraction, special.mask, np.where(as_random, drawn, targets))
    return shown, positions, targets


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
