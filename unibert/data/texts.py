"""Documents as a model reads them. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Texts:
    """Masked documents, one after the other."""

    shown: np.ndarray
    """Ids as the model sees them, [T]."""
    places: np.ndarray
    """Position of each token, [T]."""
    lengths: np.ndarray
    """Tokens of each document."""
    targets: np.ndarray
    """Masked places, ascending in T, [M]."""
    target_ids: np.ndarray
    """The ids that were there, [M]."""
