"""Client optimizers: AdamW with the decay kept off biases and LayerNorm."""

from __future__ import annotations

import torch
from torch import nn

from unibert.schema import Optimizer


def parameter_groups(module: nn.Module, *, weight_decay: float) -> list[dict[str, object]]:
    """Two groups of the parameters that move: matrices with decay, vectors (bias, LayerNorm) without."""
    moving = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in moving if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in moving if p.dim() < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def adamw(module: nn.Module, *, table: Optimizer, rate: float | None = None) -> torch.optim.Optimizer:
    """torch's AdamW (fused on a GPU) over what moves; `rate` stands in for the table's when given."""
    moving = next(parameter for parameter in module.parameters() if parameter.requires_grad)
    return torch.optim.AdamW(
        parameter_groups(module, weight_decay=table.weight_decay),
        lr=table.learning_rate if rate is None else rate,
        betas=table.betas,
        eps=table.epsilon,
        fused=moving.is_cuda,
    )
