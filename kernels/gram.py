"""K3 `gram_mse`: the squared distance of raw attention scores without any S x S map.

With Q_s, K_s and Q_t, K_t of one document and one head, [n, D] each model's own, scaled so that S = Q K^T, the
difference of the scores is one product, S_s - S_t = A B^T of A = [Q_s | -Q_t] and B = [K_s | K_t], and

    ||S_s - S_t||^2 = <A^T A, B^T B>,    dQ_s = 2 A (B^T K_s),    dK_s = 2 B (A^T Q_s)

where B^T K_s and A^T Q_s are columns of the two Grams. So the cost grows with n D^2, not n^2 D. All of it in fp32 (fp64
of fp64), whatever the inputs: the difference of large numbers is what is wanted. The value cancels where the two are
near, and is cut off at 0; the gradient does not.
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
    a, b = _side_by_side(student, teacher)
    of_a, of_b = a.mT @ a, b.mT @ b
    width = student[0].shape[-1]
    by_query, by_key = (2 * x @ gram[..., :width] for x, gram in ((a, of_b), (b, of_a)))
    return (of_a * of_b).sum(dim=(-1, -2)).clamp_min(0), (by_query, by_key)


def map_mse(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The same by one map, the difference of the two, for documents that are short."""
    a, b = _side_by_side(student, teacher)
    apart, (query, key) = a @ b.mT, student
    distances = torch.linalg.vector_norm(apart, dim=-1).square_().sum(dim=-1)
    return distances, ((apart @ key).mul_(2), (apart.mT @ query).mul_(2))


def is_cheaper(length: int, width: int, teacher_width: int) -> bool:
    """Whether Grams beat the map of a document of this length: by products alone, and two for what else a map costs."""
    both = width + teacher_width
    return 2 * both * (both + width) < 2 * length * (both + 2 * width)


def _side_by_side(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """[B, L, D + E] each: their product is the difference of the scores."""
    (query, key), (theirs, their_key) = student, teacher
    return torch.cat([query, -theirs], dim=-1), torch.cat([key, their_key], dim=-1)


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
