"""LIR: what all embeddings of a language share, taken out of them without any training (Yang et al., EMNLP 2021).

Per language, M_L [H, N_L] holds the embeddings of its texts as they are, not centred; M_L = U S V^T, and C_L is the
first R columns of U. An embedding of the language loses what it has in their span: e <- e - C_L C_L^T e.

It is the baseline that an adversary must beat. It has to be told the language of every text, which an encoder without
it has not: a probe or a retrieval after it says what a linear map can still read of such embeddings. Fit it on other
texts than it is judged on. (That is ours: the paper fits on its own candidates.)

Shapes: N texts, H width, R rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from unibert.errors import ConfigError, DataError

Parts = Mapping[str, Tensor]
"""language -> C_L [H, R], fp32, its columns orthonormal."""


def fit_parts(embeddings_NH: Tensor, *, languages: Sequence[str], rank: int) -> dict[str, Tensor]:
    """C_L of every language that the texts are in.

    Args:
        embeddings_NH: of N texts, of any norm.
        languages: N language codes.
        rank: R, singular vectors a language.

    Raises:
        ConfigError: a rank that leaves nothing, or removes nothing.
        DataError: a language with fewer texts than the rank.
    """
    width = embeddings_NH.shape[1]
    if not 1 <= rank < width:
        raise ConfigError(f"removing {rank} directions of embeddings that are {width} wide: take 1 to {width - 1}")
    parts = {}
    for code, places in _places(languages).items():
        if len(places) < rank:
            raise DataError(
                f"{len(places)} texts in {code!r} have no {rank} singular vectors: remove a lower rank, or give the "
                "language more texts"
            )
        own_HN = embeddings_NH[places].double().T
        parts[code] = torch.linalg.svd(own_HN, full_matrices=False).U[:, :rank].float()
    return parts


def remove_parts(embeddings_NH: Tensor, *, languages: Sequence[str], parts: Parts) -> Tensor:
    """The embeddings, each without its language's part, fp32 [N, H].

    Args:
        embeddings_NH: of N texts.
        languages: N language codes.
        parts: of `fit_parts`, of every language among them.

    Raises:
        DataError: a language that no part was fitted for.
    """
    places = _places(languages)
    if strangers := sorted(places.keys() - parts.keys()):
        raise DataError(f"no part was fitted for {', '.join(strangers)}: fit on texts of these languages too")
    left_NH = embeddings_NH.float().clone()
    for code, rows in places.items():
        part_HR = parts[code]
        left_NH[rows] -= left_NH[rows] @ part_HR @ part_HR.T
    return left_NH


def _places(languages: Sequence[str]) -> dict[str, Tensor]:
    """language -> indices of its texts."""
    places: dict[str, list[int]] = {}
    for index, code in enumerate(languages):
        places.setdefault(code, []).append(index)
    return {code: torch.tensor(rows) for code, rows in places.items()}
