"""K3 `gram_mse`: the squared distance of raw attention scores without any S x S map.

With Q_s, K_s and Q_t, K_t of one document and one head, [n, D] each model's own, and S = c Q K^T with each model's own
c, the difference of the scores is one product, S_s - S_t = A C B^T of A = [Q_s | Q_t], B = [K_s | K_t] and a diagonal C
of c_s and -c_t, and

    ||S_s - S_t||^2 = <C A^T A C, B^T B>,    dQ_s = 2 c_s A C (B^T K_s),    dK_s = 2 c_s B C (A^T Q_s)

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

QueryKey = tuple[Tensor, Tensor]


def gram_mse(
    student: QueryKey, teacher: QueryKey, *, scales: tuple[float, float] = (1.0, 1.0)
) -> tuple[Tensor, QueryKey]:
    """The squared distances [B], and their gradients by the student's queries and keys.

    Args:
        student: query and key [B, L, D]; zero where a document has ended. B may be several dimensions.
        teacher: query and key [B, L, E].
        scales: of both models' scores. They go into the Grams, which are small.
    """
    a, b, signs = _side_by_side(student, teacher, scales)
    of_a, of_b = a.mT @ a, b.mT @ b
    width, factor = student[0].shape[-1], 2 * scales[0] * signs[:, None]
    by_query, by_key = (x @ (gram[..., :width] * factor) for x, gram in ((a, of_b), (b, of_a)))
    distances = (of_a * of_b * torch.outer(signs, signs)).sum(dim=(-1, -2))
    return distances.clamp_min(0), (by_query, by_key)


def map_mse(
    student: QueryKey, teacher: QueryKey, *, scales: tuple[float, float] = (1.0, 1.0)
) -> tuple[Tensor, QueryKey]:
    """The same by one map, the difference of the two, for documents that are short."""
    a, b, signs = _side_by_side(student, teacher, scales)
    apart, (query, key), factor = (a * signs) @ b.mT, student, 2 * scales[0]
    distances = torch.linalg.vector_norm(apart, dim=-1).square().sum(dim=-1)
    return distances, ((apart @ key) * factor, (apart.mT @ query) * factor)


def is_cheaper(length: int, width: int, teacher_width: int) -> bool:
    """Whether Grams beat the map of a document of this length: by products alone, and two for what else a map costs."""
    both = width + teacher_width
    return 2 * both * (both + width) < 2 * length * (both + 2 * width)


def _side_by_side(student: QueryKey, teacher: QueryKey, scales: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor]:
    """A and B [B, L, D + E] without scales, and the scales of their columns with the sign, [D + E]."""
    a, b = (torch.cat(sides, dim=-1) for sides in zip(student, teacher, strict=True))
    widths = student[0].shape[-1], teacher[0].shape[-1]
    signs = [a.new_full((width,), scale) for width, scale in zip(widths, (scales[0], -scales[1]), strict=True)]
    return a, b, torch.cat(signs)


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
