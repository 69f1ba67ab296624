"""How far two rows of logits are apart, with one vocabulary-wide fp32 panel alive at a time.

Autograd's own way keeps several fp32 tensors [M, V] (log-softmaxes, exponentials, products) from forward to backward.
Here the gradient is formed in the forward, a few rows at a time, in the logits' dtype. With u = z / T, p = softmax(u),
KL(p || q) = sum_v p (log p - log q) and m = (p_s + p_t) / 2, the loss of a row and its gradient by z_s are

    forward_kl  T^2 KL(p_t || p_s)                             T (p_s - p_t)
    reverse_kl  T^2 KL(p_s || p_t)                             T p_s (log p_s - log p_t - KL(p_s || p_t))
    js          T^2 (KL(p_s || m) + KL(p_t || m)) / 2          T p_s (log p_s - log m - KL(p_s || m)) / 2
    mse         mean_v (u_s - u_t)^2                           2 (u_s - u_t) / (T V)

T^2 keeps the gradient of the first three about as large at any T. Nats; js is at most T^2 log 2.

Legend: M rows (masked positions), V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

# About 16 MiB of fp32 a panel: it stays in a CPU's cache, and is little beside a GPU's memory.
PANEL_ELEMENTS = 1 << 22

Kind = Literal["forward_kl", "reverse_kl", "js", "mse"]


def divergence(
    student_MV: Tensor, teacher_MV: Tensor, *, kind: Kind = "forward_kl", temperature: float = 1.0
) -> Tensor:
    """The distance of each row.

    Args:
        student_MV: logits with gradient, any floating dtype.
        teacher_MV: logits without gradient, the same shape.
        kind: which one, see the head of this file.
        temperature: T, above 0.

    Returns:
        [M] fp32 (fp64 for fp64 logits).

    Raises:
        ValueError: shapes differ, as with two vocabularies.
    """
    if student_MV.shape != teacher_MV.shape:
        raise ValueError(
            f"student logits {tuple(student_MV.shape)} and teacher logits {tuple(teacher_MV.shape)} differ"
        )
    return _Divergence.apply(student_MV, teacher_MV.detach(), kind, temperature)  # type: ignore[no-any-return]


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student_MV: Tensor, teacher_MV: Tensor, kind: Kind, temperature: float) -> Tensor:
        wide = torch.float64 if student_MV.dtype == torch.float64 else torch.float32
        rows, vocabulary = student_MV.shape
        losses_M = torch.empty(rows, dtype=wide, device=student_MV.device)
        gradient_MV = torch.empty_like(student_MV)
        step = max(1, PANEL_ELEMENTS // max(1, vocabulary))
        for first in range(0, rows, step):
            chunk = slice(first, first + step)
            u_s, u_t = (z[chunk].to(wide) / temperature for z in (student_MV, teacher_MV))
            losses_M[chunk], gradient = FORMS[kind](u_s, u_t)
            gradient_MV[chunk] = gradient.div_(temperature) if kind == "mse" else gradient.mul_(temperature)
        if kind != "mse":
            losses_M *= temperature**2
        ctx.save_for_backward(gradient_MV)
        return losses_M

    @staticmethod
    def backward(ctx: Any, *incoming: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient_MV,) = ctx.saved_tensors
        return gradient_MV * incoming[0].to(gradient_MV.dtype).unsqueeze(-1), None, None, None


def _forward_kl(u_s: Tensor, u_t: Tensor) -> tuple[Tensor, Tensor]:
    log_s, log_t = u_s.log_softmax(dim=-1), u_t.log_softmax(dim=-1)
    p_t = log_t.exp()
    loss = (p_t * (log_t - log_s)).sum(dim=-1)
    return loss, log_s.exp_().sub_(p_t)


def _reverse_kl(u_s: Tensor, u_t: Tensor) -> tuple[Tensor, Tensor]:
    log_s, log_t = u_s.log_softmax(dim=-1), u_t.log_softmax(dim=-1)
    return _kl_by_its_first(log_s, log_t)


def _js(u_s: Tensor, u_t: Tensor) -> tuple[Tensor, Tensor]:
    log_s, log_t = u_s.log_softmax(dim=-1), u_t.log_softmax(dim=-1)
    log_m = torch.logaddexp(log_s, log_t).sub_(math.log(2))
    of_teacher = (log_t.exp() * (log_t - log_m)).sum(dim=-1)
    of_student, gradient = _kl_by_its_first(log_s, log_m)  # m moves with the student too, but that part cancels
    return (of_student + of_teacher) / 2, gradient.div_(2)


def _mse(u_s: Tensor, u_t: Tensor) -> tuple[Tensor, Tensor]:
    apart = u_s.sub_(u_t)
    loss = apart.square().mean(dim=-1)
    return loss, apart.mul_(2 / apart.shape[-1])


def _kl_by_its_first(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """KL(p || q) of each row, and its gradient by the logits of p alone."""
    p, ratio = log_p.exp(), log_p - log_q
    loss = (p * ratio).sum(dim=-1)
    return loss, ratio.sub_(loss.unsqueeze(-1)).mul_(p)


FORMS: dict[Kind, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "forward_kl": _forward_kl,
    "reverse_kl": _reverse_kl,
    "js": _js,
    "mse": _mse,
}
