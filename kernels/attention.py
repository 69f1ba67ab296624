"""Attention within packed documents: torch's fused kernel, except where that is slow.

On a CPU in bf16 the backward of torch's flash attention with a mask is slow (torch 2.13): forward and backward took
3.0 times as long as three plain products at S = 128 and 4.7 times at S = 64, while in fp32 the two are even
(benchmarks/attention.py). Rows are short there, so the S x S map is small. Everywhere else the fused kernel is taken.

On a GPU in half precision documents are read one after another by their lengths (torch's varlen_attn, a flash kernel),
with no mask, no map and nothing computed for padding. On a CPU the same by jagged tensors takes 2 to 8 times as long
as rows with a mask up to S = 256, and is ahead at S = 512 in bf16 alone (torch 2.13, benchmarks/attention.py), so the
rows stay.

Legend: R rows, N heads, S width, D head width, T tokens of all documents.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.documents import Documents


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


def document_attention(
    query_RNSD: Tensor, key_RNSD: Tensor, value_RNSD: Tensor, *, documents: Documents, scale: float | None = None
) -> Tensor:
    """softmax(scale Q K^T) V within each document, [R, N, S, D] as a view of [R, S, N, D]; zeros where there is none.

    Args:
        query_RNSD: and key, value: fp16 or bf16 on a GPU.
        documents: where they are.
        scale: 1 / sqrt(D) when None.
    """
    packed = [documents.pack(x) for x in (query_RNSD, key_RNSD, value_RNSD)]
    out_TND = _varlen(*packed, documents=documents, scale=scale)
    rows, _, width, _ = query_RNSD.shape
    if not documents.in_place:
        nothing = out_TND.new_zeros(rows * width, *out_TND.shape[1:])
        out_TND = nothing.index_copy(0, documents.places_T, out_TND)
    return out_TND.unflatten(0, (rows, width)).transpose(1, 2)


def by_documents(device: torch.device, dtype: torch.dtype, *, width: int, dropout: float) -> bool:
    """Whether `document_attention` is the way here, for heads of a width: flash attention's own conditions.

    It drops no attention weights, and wants a GPU from Ampere on and heads of a multiple of 8 up to 256.
    """
    fits = dtype in (torch.float16, torch.bfloat16) and width % 8 == 0 and width <= 256 and not dropout
    return fits and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def _varlen(
    query_TND: Tensor, key_TND: Tensor, value_TND: Tensor, *, documents: Documents, scale: float | None
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    starts, longest = documents.starts, documents.longest
    out = varlen_attn(query_TND, key_TND, value_TND, starts, starts, longest, longest, scale=scale)
    assert isinstance(out, Tensor)
    return out


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
