"""K2 `distill_attention`: a student's attention and how far its maps are from the teacher's, with no map ever kept.

For row i of a document and one head, over the columns j of the document, with S_s = Q_s K_s^T / sqrt(D) of the student,
S_t = Q_t K_t^T / sqrt(E) of the teacher, P the softmax over j and L the log-sum-exp,

    out_i = sum_j P_s,ij v_j
    kl_i = KL(P_t,i || P_s,i) = sum_j P_t,ij (S_t,ij - S_s,ij) - L_t,i + L_s,i

What is kept for the backward is the inputs, out and L: O(T). For the incoming gradients dO of out and g of kl

    dS_ij = P_s,ij (dO_i . v_j - dO_i . out_i) + g_i (P_s,ij - P_t,ij)
    dQ = dS K / sqrt(D),  dK = dS^T Q / sqrt(D),  dV = P_s^T dO

The two models' widths may differ. With a student's and a teacher's queries in the keys' place it compares MiniLM's
query-query relations (keys and values likewise). Without values only the distance is computed.

On a GPU in half precision it is Triton (attention_launches.py); else the plain form below, a few documents' maps at a
time. Nothing is dropped from the maps: attention dropout has to be 0. Sources: FlashAttention-2 (arXiv 2307.08691) for
the structure; the KL beside it is in StreamKL (arXiv 2606.20005) too; written anew here.

Legend: T tokens of all documents, H heads, D and E widths, G documents of a group, L their largest length.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernels import attention_launches
from kernels.documents import Group, by_length
from kernels.launch import takes

GROUP_ELEMENTS = 1 << 21  # of one model's maps of a group, in the plain form
HIDDEN = -1e30  # a score that no softmax sees; finite, so that the difference of two is 0


class Distilled(NamedTuple):
    """Both have a gradient."""

    out: Tensor | None
    """[T, H, D]; None without values."""
    kl_HT: Tensor
    """Of each row in nats, fp32 (fp64 of fp64)."""


def distill_attention(
    student: tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    *,
    starts: Tensor,
    longest: int,
) -> Distilled:
    """The student's attention within documents and each row's KL from the teacher's.

    Args:
        student: query, key and, where its attention is wanted, value [T, H, D] with gradient, any floating dtype.
        teacher: query and key [T, H, E] without gradient.
        starts: int32 [documents + 1], the first token of each document, and T.
        longest: tokens of the longest document.

    Raises:
        ValueError: the numbers of heads differ.
    """
    if student[0].shape[1] != teacher[0].shape[1]:
        raise ValueError(f"{student[0].shape[1]} heads of the student and {teacher[0].shape[1]} of the teacher")
    query, key, value = (*student, None)[:3]
    out, kl_HT, *_ = attention_and_kl(query, key, value, *(x.detach() for x in teacher), starts, longest)
    return Distilled(None if value is None else out, kl_HT)


def is_fused(query: Tensor, teacher_query: Tensor) -> bool:
    """Whether Triton's programs are meant for these packed tensors."""
    widest = max(query.shape[-1], teacher_query.shape[-1])
    return widest <= attention_launches.WIDEST and takes(query, teacher_query)


@torch.library.custom_op("unibert::attention_and_kl", mutates_args=())
def attention_and_kl(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    teacher_query: Tensor,
    teacher_key: Tensor,
    starts: Tensor,
    longest: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(out [T, H, D], empty without values; kl, and L of student and teacher, [H, T] each)."""
    if is_fused(query, teacher_query):
        return attention_launches.forward(query, key, value, teacher_query, teacher_key, starts, longest)
    out = query.new_empty(0) if value is None else query.new_zeros(query.shape)
    rows_TH3 = query.new_zeros(*query.shape[:2], 3, dtype=_wide(query))
    for group in _groups(query, starts):
        s, t = _scores(query, key, group), _scores(teacher_query, teacher_key, group)
        all_s, all_t = s.logsumexp(dim=-1), t.logsumexp(dim=-1)
        p_t = (t - all_t.unsqueeze(-1)).exp_()
        kl = (p_t * (t - s)).sum(dim=-1) - all_t + all_s
        group.put(torch.stack([kl, all_s, all_t], dim=-1), into=rows_TH3)
        if value is not None:
            group.put((s - all_s.unsqueeze(-1)).exp_() @ group.take(value).to(s.dtype), into=out)
    kl_HT, all_s, all_t = rows_TH3.permute(2, 1, 0).contiguous()
    return out, kl_HT.clone(), all_s.clone(), all_t.clone()


@torch.library.custom_op("unibert::attention_and_kl_backward", mutates_args=())
def attention_and_kl_backward(
    d_out: Tensor | None,
    weights: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    teacher_query: Tensor,
    teacher_key: Tensor,
    starts: Tensor,
    out: Tensor,
    lse_s: Tensor,
    lse_t: Tensor,
    longest: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """(d_query, d_key, d_value), for the incoming gradients of out and of kl; either may be missing."""
    given = query, key, value, teacher_query, teacher_key, starts
    if is_fused(query, teacher_query):
        return attention_launches.backward(d_out, weights, *given, out, lse_s, lse_t, longest)
    made = [x.new_zeros(x.shape) for x in (query, key)]
    d_value = query.new_zeros(0 if value is None else value.shape)
    rows_TH3 = torch.stack([lse_s, lse_t, torch.zeros_like(lse_s) if weights is None else weights], dim=-1)
    rows_TH3 = rows_TH3.transpose(0, 1)
    for group in _groups(query, starts):
        all_s, all_t, weight = (x.unsqueeze(-1) for x in group.take(rows_TH3).unbind(dim=-1))
        q, k = (group.take(x).to(lse_s.dtype) for x in (query, key))
        p_s = (_scores(query, key, group) - all_s).exp_()
        d_score = (p_s - (_scores(teacher_query, teacher_key, group) - all_t).exp_()) * weight
        if value is not None and d_out is not None:
            d_o, o, v = (group.take(x).to(p_s.dtype) for x in (d_out, out, value))
            d_score += p_s * (d_o @ v.mT - (d_o * o).sum(dim=-1, keepdim=True))
            group.put(p_s.mT @ d_o, into=d_value)
        d_score *= query.shape[-1] ** -0.5
        for whole, part in zip(made, (d_score @ k, d_score.mT @ q), strict=True):
            group.put(part, into=whole)
    return made[0], made[1], d_value


def _groups(query: Tensor, starts: Tensor) -> Any:
    return by_length(starts, elements=max(1, GROUP_ELEMENTS // query.shape[1]))


def _scores(query: Tensor, key: Tensor, group: Group) -> Tensor:
    """[G, H, L, L], in what is wide enough."""
    q, k = (group.take(x).to(_wide(x)) for x in (query, key))
    scores = (q * query.shape[-1] ** -0.5) @ k.mT
    return scores if group.valid_GL is None else scores.masked_fill_(~group.valid_GL[:, None, None, :], HIDDEN)


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


@attention_and_kl.register_fake
def _fake(query, key, value, teacher_query, teacher_key, starts, longest):
    out = query.new_empty(0) if value is None else query.new_empty(query.shape)
    return out, *(query.new_empty(query.shape[1], query.shape[0], dtype=_wide(query)) for _ in range(3))


@attention_and_kl_backward.register_fake
def _fake_backward(d_out, weights, query, key, value, *_: Any):
    return query.new_empty(query.shape), key.new_empty(key.shape), query.new_empty(0 if value is None else value.shape)


def _remember(ctx: Any, inputs: tuple, output: tuple) -> None:
    out, _, lse_s, lse_t = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(lse_s, lse_t)
    ctx.save_for_backward(*inputs[:6], out, lse_s, lse_t)
    ctx.longest = inputs[6]


def _backward(ctx: Any, d_out: Tensor | None, weights: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if d_out is None and weights is None:
        return (None,) * 7
    without_values = ctx.saved_tensors[2] is None
    found = attention_and_kl_backward(None if without_values else d_out, weights, *ctx.saved_tensors, ctx.longest)
    d_query, d_key, d_value = found
    return d_query, d_key, None if without_values else d_value, None, None, None, None


attention_and_kl.register_autograd(_backward, setup_context=_remember)
