"""Small heads on sentence features, in which contrast and prediction happen. They are never exported.

Legend of shapes: N sentences, H feature width, P projected width. Every head takes any float dtype and gives fp32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Projection(nn.Module):
    """Linear - ReLU - Linear: the non-linear projection of SimCLR and MoCo v2 (arXiv 2003.04297)."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, size)

    def forward(self, features_NH: Tensor) -> Tensor:
        """[N, P]."""
        hidden_NH = torch.relu(self.inner(features_NH.to(self.inner.weight.dtype)))
        return self.outer(hidden_NH).float()


class Straight(nn.Linear):
    """One linear map, where two models' widths differ."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., H] to [..., P]."""
        return super().forward(input.to(self.weight.dtype)).float()


class GroupedBatchNorm(nn.Module):
    """Batch normalisation by the statistics of each group of rows alone, without running ones.

    So what a row becomes depends on its group and on nothing else of the micro-batch.
    """

    def __init__(self, width: int, *, affine: bool = True, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if affine else None
        self.epsilon = epsilon

    def forward(self, values_NH: Tensor, sizes: Sequence[int]) -> Tensor:
        """The same shape, fp32; `sizes` are the rows of each group, in their order."""
        parts = [self._normal(part) for part in values_NH.float().split(list(sizes)) if len(part)]
        normal_NH = torch.cat(parts) if parts else values_NH.float()
        if self.weight is None or self.bias is None:
            return normal_NH
        return normal_NH * self.weight.float() + self.bias.float()

    def _normal(self, part_NH: Tensor) -> Tensor:
        apart_NH = part_NH - part_NH.mean(dim=0)
        return apart_NH * (apart_NH.square().mean(dim=0) + self.epsilon).rsqrt()


class NormalisedProjection(nn.Module):
    """Linear - BN - ReLU - Linear (- BN), the projector and the predictor of MMKD (arXiv 2211.01200).

    Args:
        width: H, also of the inner layer.
        size: P.
        projector: its linear layers have no bias and a BN without scale and shift comes last; else the predictor's.
        inner: width of the inner layer when it is another.
    """

    def __init__(self, width: int, size: int, *, projector: bool, inner: int | None = None) -> None:
        super().__init__()
        inner = inner or width
        self.inner, self.outer = nn.Linear(width, inner, bias=not projector), nn.Linear(inner, size, bias=not projector)
        self.norm = GroupedBatchNorm(inner)
        self.last = GroupedBatchNorm(size, affine=False) if projector else None

    def forward(self, features_NH: Tensor, sizes: Sequence[int]) -> Tensor:
        """[N, P]; `sizes` are the rows of each group."""
        dtype = self.inner.weight.dtype
        hidden_NH = torch.relu(self.norm(self.inner(features_NH.to(dtype)), sizes))
        out_NP = self.outer(hidden_NH.to(dtype)).float()
        return out_NP if self.last is None else self.last(out_NP, sizes)


class Bootstrapped(nn.Module):
    """The projector and after it the predictor: H to P, by way of P."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.projector = NormalisedProjection(width, size, projector=True)
        self.predictor = NormalisedProjection(size, size, projector=False, inner=width)

    def forward(self, features_NH: Tensor, sizes: Sequence[int]) -> Tensor:
        """[N, P]."""
        return self.predictor(self.projector(features_NH, sizes), sizes)
