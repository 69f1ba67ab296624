"""UniDrop's data dropout (Wu et al., NAACL 2021): tokens left out of some of the documents. No torch.

Two stages, so that the model also reads whole text: a document stays whole with probability `keep_whole`; of the
others every token but the first and the last (cls and sep) is left out with probability `fraction`. The rest moves
together. Both are pure functions of (seed, document, epoch). The sides of translation pairs stay whole, since
alignments count tokens.

Legend: D documents, T tokens of all of them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from unibert.data.mixture import Documents
from unibert.data.sampler import combine, hash64

_PURPOSE = 5  # of these random numbers, so that they differ from the masks'


def drop_tokens(documents: Documents, *, fraction: float, keep_whole: float, seed: int) -> Documents:
    """The documents without the tokens that are left out; at least one between the first and the last stays."""
    lengths = np.array([len(text) for text in documents.texts])
    owner_T = np.repeat(np.arange(len(lengths)), lengths)
    place_T = np.arange(len(owner_T)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    key_D = hash64(seed, _PURPOSE, documents.ids, documents.epoch)
    cut_D = _uniform(key_D) >= keep_whole
    cut_D[documents.pairs.ravel()] = False
    luck_T = _uniform(combine(key_D[owner_T], (place_T + 1).astype(np.uint64)))
    inner_T = (place_T > 0) & (place_T < lengths[owner_T] - 1)
    kept_T = ~(cut_D[owner_T] & inner_T & (luck_T < fraction))
    order = np.lexsort((np.where(inner_T, luck_T, -1.0), owner_T))
    kept_T[order[np.cumsum(lengths) - 1]] = True  # of each document the luckiest inner token
    left_D = np.bincount(owner_T[kept_T], minlength=len(lengths))
    texts = np.split(np.concatenate(documents.texts)[kept_T], np.cumsum(left_D)[:-1])
    return replace(documents, texts=texts)


def _uniform(bits: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1) of 64 random bits."""
    return (combine(bits, np.zeros_like(bits)) >> np.uint64(11)) * 2.0**-53
