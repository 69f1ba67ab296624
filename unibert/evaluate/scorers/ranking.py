"""Finding the translation: which text of the other side a text's vector is nearest to, both ways.

Scores of a pair (x, y) of unit vectors:
- cosine: x . y, as in the published Tatoeba results;
- margin (Artetxe and Schwenk 2019, ratio form): x . y / ((mean of x's k nearest y's + mean of y's k nearest x's) / 2),
  which takes away from what is near to everything.

The rank of the right answer counts those that score strictly more, and half of those that score the same: vectors that
all are alike find nothing. Legend: N pairs, H width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NEIGHBOURS = 4
"""k of the margin, as in the paper."""
ROWS = 1024
"""Queries scored at a time."""


@dataclass(frozen=True)
class Ranks:
    """[N] each: the rank, from 1, of the answer to each query; x asks for y, and y for x. Ties are halves."""

    forward: Tensor
    backward: Tensor


def ranks(x_NH: Tensor, y_NH: Tensor, *, margin: bool = False, neighbours: int = NEIGHBOURS) -> Ranks:
    """Ranks of y[i] for x[i] among all of y, and the other way; what is not normalised is."""
    x_NH, y_NH = (torch.nn.functional.normalize(side.double(), dim=-1) for side in (x_NH, y_NH))
    near_x = near_y = None
    if margin:
        near_x, near_y = _nearness(x_NH, y_NH, neighbours), _nearness(y_NH, x_NH, neighbours)
    return Ranks(_ranks(x_NH, y_NH, near_x, near_y), _ranks(y_NH, x_NH, near_y, near_x))


def _nearness(x_NH: Tensor, y_NH: Tensor, neighbours: int) -> Tensor:
    k = min(neighbours, len(y_NH))
    return torch.cat([(part @ y_NH.T).topk(k, dim=1).values.mean(1) for part in x_NH.split(ROWS)])


def _ranks(x_NH: Tensor, y_NH: Tensor, near_x: Tensor | None, near_y: Tensor | None) -> Tensor:
    found = []
    for start in range(0, len(x_NH), ROWS):
        here = slice(start, start + ROWS)
        score_RN = x_NH[here] @ y_NH.T
        if near_x is not None and near_y is not None:
            score_RN = score_RN / ((near_x[here, None] + near_y) / 2)
        rows = torch.arange(len(score_RN))
        own_R1 = score_RN[rows, rows + start, None]
        close_RN = (score_RN - own_R1).abs() <= 1e-12  # equal but for rounding
        ahead_R = ((score_RN > own_R1) & ~close_RN).sum(1) + (close_RN.sum(1) - 1) / 2
        found.append(1 + ahead_R)
    return torch.cat(found)


def top1(ranks_N: Tensor) -> list[float]:
    """1 where the answer was found first, else 0."""
    return (ranks_N == 1).double().tolist()


def reciprocal(ranks_N: Tensor) -> list[float]:
    """1 / rank: their mean is the MRR."""
    return ranks_N.double().reciprocal().tolist()
