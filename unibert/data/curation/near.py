"""Near duplicates by MinHash (placeholder until the merge)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unibert.data.dedup_old import BANDS, ROWS_PER_BAND, _MIX, _signatures
from unibert.data.sources.base import DENSE_SCRIPTS
from unibert.languages import script_of

SIMILAR = 0.6


def shingle_of(language: str) -> int:
    return 3 if script_of(language) in DENSE_SCRIPTS else 5


def signatures(keys: Sequence[str], *, shingle: int) -> np.ndarray:
    return _signatures([key.ljust(shingle, "\0") for key in keys], shingle)


def bands(signatures: np.ndarray) -> np.ndarray:
    out = np.zeros((BANDS, len(signatures)), dtype=np.uint64)
    for band in range(BANDS):
        for column in signatures[:, band * ROWS_PER_BAND : (band + 1) * ROWS_PER_BAND].T:
            out[band] = (out[band] ^ column) * _MIX
    return out


def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a == b).mean(axis=1)
