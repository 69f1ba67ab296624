"""Row-wise distillation KL with one vocabulary-wide fp32 panel alive at a time.

Autograd's own way keeps four fp32 tensors [M, V] (two log-softmaxes, their exponential, the product) from
forward to backward. Here the gradient is formed in the forward, a few rows at a time, in the logits' dtype:
d/dz_s of T^2 KL(p_t || p_s) = T (p_s - p_t), p the softmax of z / T.

Legend: M rows (masked positions), V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# About 16 MiB of fp32 a panel: it stays in a CPU's cache, and is little beside a GPU's memory.
PANEL_ELEMENTS = 1 << 22


def distill_kl(student_MV: Tensor, teacher_MV: Tensor, *, temperature: float = 1.0) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) of each row.

    Args:
        student_MV: logits with gradient, any floating dtype.
        teacher_MV: logits without gradient, the same shape.
        temperature: T, above 0.

    Returns:
        [M] fp32 (fp64 for fp64 logits), in nats.

    Raises:
        ValueError: shapes differ, as with two vocabularies.
    """
    if student_MV.shape != teacher_MV.shape:
        raise ValueError(
            f"student logits {tuple(student_MV.shape)} and teacher logits {tuple(teacher_MV.shape)} differ"
        )
    return _DistillKL.apply(student_MV, teacher_MV.detach(), temperature)  # type: ignore[no-any-return]


class _DistillKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student_MV: Tensor, teacher_MV: Tensor, temperature: float) -> Tensor:
        wide = torch.float64 if student_MV.dtype == torch.float64 else torch.float32
        rows, vocabulary = student_MV.shape
        losses_M = torch.empty(rows, dtype=wide, device=student_MV.device)
        gradient_MV = torch.empty_like(student_MV)
        step = max(1, PANEL_ELEMENTS // max(1, vocabulary))
        for first in range(0, rows, step):
            chunk = slice(first, first + step)
            log_s = torch.log_softmax(student_MV[chunk].to(wide) / temperature, dim=-1)
            log_t = torch.log_softmax(teacher_MV[chunk].to(wide) / temperature, dim=-1)
            p_t = log_t.exp()
            losses_M[chunk] = (p_t * (log_t - log_s)).sum(dim=-1) * temperature**2
            gradient_MV[chunk] = log_s.exp_().sub_(p_t).mul_(temperature)
        ctx.save_for_backward(gradient_MV)
        return losses_M

    @staticmethod
    def backward(ctx: Any, *incoming: Tensor) -> tuple[Tensor, None, None]:
        (gradient_MV,) = ctx.saved_tensors
        return gradient_MV * incoming[0].to(gradient_MV.dtype).unsqueeze(-1), None, None
