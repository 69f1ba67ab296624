"""Attention within packed documents: torch's fused kernel, except where that is slow.

On a CPU in bf16 the backward of torch's flash attention with a mask is slow (torch 2.13): forward and backward took
3.0 times as long as three plain products at S = 128 and 4.7 times at S = 64, while in fp32 the two are even
(benchmarks/attention.py). Rows are short there, so the S x S map is small. Everywhere else the fused kernel is taken.

Legend: R rows, N heads, S width, D head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def packed_attention(
    query_RNSD: Tensor,
    key_RNSD: Tensor,
    value_RNSD: Tensor,
    *,
    mask: Tensor | None,
    dropout: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """softmax(scale Q K^T, masked) V, [R, N, S, D].

    Args:
        query_RNSD: and key, value: of one dtype.
        mask: bool [R, 1, S, S] (or [R, 1, 1, S]), true where a query may look; every query sees something.
        dropout: probability of dropping an attention weight.
        scale: 1 / sqrt(D) when None.
    """
    if _fused_backward_is_slow(query_RNSD, key_RNSD, value_RNSD):
        return _by_products(query_RNSD, key_RNSD, value_RNSD, mask=mask, dropout=dropout, scale=scale)
    return F.scaled_dot_product_attention(
        query_RNSD, key_RNSD, value_RNSD, attn_mask=mask, dropout_p=dropout, scale=scale
    )


def _fused_backward_is_slow(*tensors: Tensor) -> bool:
    goes_back = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return goes_back and tensors[0].device.type == "cpu" and tensors[0].dtype == torch.bfloat16


def _by_products(
    query_RNSD: Tensor,
    key_RNSD: Tensor,
    value_RNSD: Tensor,
    *,
    mask: Tensor | None,
    dropout: float,
    scale: float | None,
) -> Tensor:
    factor = query_RNSD.shape[-1] ** -0.5 if scale is None else scale
    scores_RNSS = torch.matmul(query_RNSD * factor, key_RNSD.transpose(-1, -2))
    if mask is not None:
        hidden = torch.zeros(mask.shape, dtype=scores_RNSS.dtype, device=mask.device)
        scores_RNSS = scores_RNSS + hidden.masked_fill_(~mask, float("-inf"))
    weights_RNSS = torch.softmax(scores_RNSS, dim=-1)
    if dropout:
        weights_RNSS = F.dropout(weights_RNSS, dropout)
    return torch.matmul(weights_RNSS, value_RNSD)
