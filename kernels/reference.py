"""The oracles: each operator of this folder in the plainest PyTorch, materialising whatever it likes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def distill_kl(student_MV: Tensor, teacher_MV: Tensor, *, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) per row, [M]."""
    log_s = F.log_softmax(student_MV / temperature, dim=-1)
    log_t = F.log_softmax(teacher_MV / temperature, dim=-1)
    return temperature**2 * (log_t.exp() * (log_t - log_s)).sum(dim=-1)
