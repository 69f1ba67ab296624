"""K3 `gram_mse`: the squared distance of raw attention scores without any S x S map.

With Q_s, K_s and Q_t, K_t of one document and one head, [n, D] each model's own, scaled so that S = Q K^T:

    ||S_s - S_t||^2 = <Q_s^T Q_s, K_s^T K_s> - 2 <Q_s^T Q_t, K_s^T K_t> + <Q_t^T Q_t, K_t^T K_t>
    dQ_s = 2 (Q_s (K_s^T K_s) - Q_t (K_t^T K_s)),    dK_s = 2 (K_s (Q_s^T Q_s) - K_t (Q_t^T Q_s))

So the cost grows with n D^2, not n^2 D. All of it in fp32 (fp64 of fp64), whatever the inputs: the difference of large
numbers is what is wanted. The value cancels where the two are near, and is cut off at 0; the gradient does not.
The trace identity is textbook algebra; that TinyBERT's loss (arXiv 1909.10351) needs no map by it is our use of it.

Legend: B pairs of a document and a head, L tokens, D and E the widths of student and teacher.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels import extension


def gram_mse(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The squared distances [B], and their gradients by the student's queries and keys.

    Args:
        student: query and key [B, L, D], scaled; zero where a document has ended.
        teacher: query and key [B, L, E].
    """
    (q, k), (q_t, k_t) = student, teacher
    of_queries, of_keys = q.mT @ q, k.mT @ k  # [B, D, D]
    across_queries, across_keys = q_t.mT @ q, k_t.mT @ k  # [B, E, D]
    theirs = _inner(q_t.mT @ q_t, k_t.mT @ k_t)
    apart = _inner(of_queries, of_keys) - 2 * _inner(across_queries, across_keys) + theirs
    by_query = (q @ of_keys).sub_(q_t @ across_keys).mul_(2)
    by_key = (k @ of_queries).sub_(k_t @ across_queries).mul_(2)
    return apart.clamp_min(0), (by_query, by_key)


def is_cheaper(length: int, width: int, teacher_width: int) -> bool:
    """Whether it beats the maps of a document of this length: by products alone, and two for what else maps cost."""
    by_maps = 2 * length * (3 * width + teacher_width)
    return 4 * width**2 + 4 * width * teacher_width + 2 * teacher_width**2 < by_maps


def takes(query: Tensor, teacher_query: Tensor, starts: Tensor) -> bool:
    """Whether the CUDA form is there and meant for these packed documents [T, N, D]."""
    if not query.is_cuda or query.dtype == torch.float64 or query.dtype != teacher_query.dtype:
        return False
    tokens_each = len(query) // max(1, len(starts) - 1)
    return is_cheaper(tokens_each, query.shape[-1], teacher_query.shape[-1]) and extension.loaded()


def by_extension(
    query: Tensor, key: Tensor, teacher_query: Tensor, teacher_key: Tensor, starts: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The distance of all documents, the mean over their rows and heads, and its gradients; see csrc/gram_mse.cu."""
    lengths_D, heads = starts.diff(), query.shape[1]
    given = [x.contiguous() for x in (query, key, teacher_query, teacher_key)]
    with torch.cuda.device(query.device):
        stream = torch.cuda.current_stream().cuda_stream
        parts, dq, dk = torch.ops.unibert.gram_mse_cuda(*given, starts, int(lengths_D.max()), stream)
    each = parts.sum(dim=-1).clamp_min(0) / lengths_D.clamp_min(1)[:, None]
    share = (torch.repeat_interleave(lengths_D, lengths_D) * heads)[:, None, None]
    return each.sum() / heads, (dq / share).to(dq.dtype), (dk / share).to(dk.dtype)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=(-1, -2))
