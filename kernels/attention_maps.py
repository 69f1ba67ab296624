"""How far the attention of two models is apart, with one head's S x S maps alive at a time.

Autograd's own way keeps several [R, N, S, S] of every layer from forward to backward. Here the gradients by the
student's queries and keys, [R, N, S, D] each, are formed in the forward, head by head (all heads at once where their
mean is compared). With scores a_ij = q_i . k_j / sqrt(D) over the places j of i's own document (n_i of them) and
p_i = softmax_j(a_ij), the distance of row i is

    scores_mse  sum_j (a_ij of the student - a_ij of the teacher)^2 / n_i
    maps_mse    sum_j (p_ij of the student - p_ij of the teacher)^2 / n_i
    kl          sum_j p_ij of the teacher (log p_ij of the teacher - log p_ij of the student)

Legend: R rows, N heads, S width, D head width (each model's own).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

Form = Literal["scores_mse", "maps_mse", "kl"]


def attention_distance(
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    *,
    document_RS: Tensor,
    form: Form,
    mean_heads: bool = False,
) -> Tensor:
    """Sum over the rows of the maps, mean over the heads; a scalar, fp32 (fp64 for fp64).

    Args:
        student: query and key [R, N, S, D] with gradient, any floating dtype.
        teacher: query and key without gradient; as many heads, unless mean_heads.
        document_RS: int64, the document of each place; -1 where there is none, and such rows and columns count nothing.
        form: which distance, see the head of this file.
        mean_heads: compare the mean over the heads of each model instead of head with head.
    """
    if not mean_heads and student[0].shape[1] != teacher[0].shape[1]:
        raise ValueError(f"{student[0].shape[1]} heads of the student and {teacher[0].shape[1]} of the teacher")
    return _Distance.apply(*student, *(x.detach() for x in teacher), document_RS, form, mean_heads)  # type: ignore[no-any-return]


class _Distance(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        teacher_query: Tensor,
        teacher_key: Tensor,
        document_RS: Tensor,
        form: Form,
        mean_heads: bool,
    ) -> Tensor:
        heads = [slice(None)] if mean_heads else [slice(h, h + 1) for h in range(query.shape[1])]
        wide = torch.float64 if query.dtype == torch.float64 else torch.float32
        total = torch.zeros((), dtype=wide, device=query.device)
        gradients = torch.empty_like(query), torch.empty_like(key)
        for here in heads:
            ours = [x[:, here].detach().to(wide).requires_grad_() for x in (query, key)]
            theirs = [x[:, here].to(wide) for x in (teacher_query, teacher_key)]
            with torch.enable_grad():
                apart = rows_apart(_scores(ours), _scores(theirs), document_RS=document_RS, form=form).sum() / len(
                    heads
                )
            for whole, part in zip(gradients, torch.autograd.grad(apart, ours), strict=True):
                whole[:, here] = part
            total += apart.detach()
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx: Any, *incoming: Tensor) -> tuple[Tensor | None, ...]:
        query, key = (gradient * incoming[0].to(gradient.dtype) for gradient in ctx.saved_tensors)
        return query, key, None, None, None, None, None


def rows_apart(student_RNSS: Tensor, teacher_RNSS: Tensor, *, document_RS: Tensor, form: Form) -> Tensor:
    """[R, S]: the distance of each row of the maps that these scores make, after the mean over the heads."""
    same_R1SS = document_RS[:, None, :, None] == document_RS[:, None, None, :]  # padding sees padding: no empty softmax
    if form == "scores_mse":
        apart = student_RNSS.mean(dim=1, keepdim=True) - teacher_RNSS.mean(dim=1, keepdim=True)
    else:
        log_s, log_t = (_log_maps(scores, same_R1SS) for scores in (student_RNSS, teacher_RNSS))
        apart = log_s.exp() - log_t.exp() if form == "maps_mse" else log_t - log_s
    apart = apart.masked_fill(~same_R1SS, 0)
    weighted = log_t.exp() * apart if form == "kl" else apart.square() / same_R1SS.sum(dim=-1, keepdim=True)
    return weighted.sum(dim=-1).squeeze(1) * (document_RS >= 0)


def _scores(attended: Sequence[Tensor]) -> Tensor:
    query, key = attended
    return query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5


def _log_maps(scores_RNSS: Tensor, same_R1SS: Tensor) -> Tensor:
    """[R, 1, S, S]: log of the mean map."""
    log_RNSS = scores_RNSS.masked_fill(~same_R1SS, float("-inf")).log_softmax(dim=-1)
    if log_RNSS.shape[1] == 1:
        return log_RNSS
    return log_RNSS.exp().mean(dim=1, keepdim=True).clamp_min(torch.finfo(log_RNSS.dtype).tiny).log()
