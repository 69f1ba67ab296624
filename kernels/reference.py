"""The oracles: each operator of this folder in the plainest PyTorch, materialising whatever it likes."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def divergence(student_MV: Tensor, teacher_MV: Tensor, *, kind: str, temperature: float) -> Tensor:
    """The distance of student and teacher per row, [M]; see divergence.py."""
    student, teacher = student_MV / temperature, teacher_MV / temperature
    if kind == "mse":
        return (student - teacher).square().mean(dim=-1)
    log_s, log_t = F.log_softmax(student, dim=-1), F.log_softmax(teacher, dim=-1)
    log_m = ((log_s.exp() + log_t.exp()) / 2).log()
    kl = {
        "forward_kl": _kl(log_t, log_s),
        "reverse_kl": _kl(log_s, log_t),
        "js": (_kl(log_s, log_m) + _kl(log_t, log_m)) / 2,
    }
    return temperature**2 * kl[kind]


def mlm_distill_head(
    student: Sequence[Tensor],
    *,
    targets_M: Tensor,
    teacher: Sequence[Tensor],
    kind: str,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """The sums of the cross-entropy and of the distance from the teacher, of (inputs, weight, bias); see head.py."""
    z, z_t = F.linear(*student), F.linear(*teacher)
    distance = divergence(z, z_t, kind=kind, temperature=temperature).sum()
    return F.cross_entropy(z, targets_M, reduction="sum"), distance


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def attention_distance(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], *, document_RS: Tensor, form: str, mean_heads: bool
) -> Tensor:
    """The distance of the maps, document by document; see attention_maps.py."""
    total = student[0].new_zeros(())
    for row, documents_S in enumerate(document_RS):
        for document in documents_S[documents_S >= 0].unique():
            here = documents_S == document
            ours, theirs = (_scores(query[row, :, here], key[row, :, here]) for query, key in (student, teacher))
            if form != "scores_mse":
                ours, theirs = ours.softmax(dim=-1), theirs.softmax(dim=-1)
            if mean_heads:
                ours, theirs = ours.mean(dim=0), theirs.mean(dim=0)
            apart = theirs * (theirs.log() - ours.log()) if form == "kl" else (ours - theirs).square() / here.sum()
            total = total + apart.sum() / (1 if mean_heads else len(ours))
    return total


def _scores(query_NSD: Tensor, key_NSD: Tensor) -> Tensor:
    return query_NSD @ key_NSD.transpose(-1, -2) / query_NSD.shape[-1] ** 0.5
