"""How far the attention of two models is apart, with a few heads' maps of a few documents alive at a time.

Autograd's own way keeps several [R, N, S, S] of every layer from forward to backward. Here the gradients by the
student's queries and keys are formed in the forward, slice by slice of documents and heads, small enough for a cache.
With scores a_ij = q_i . k_j / sqrt(D) over the places j of i's own document (n_i of them) and p_i = softmax_j(a_ij),
the distance of row i and its gradient by a_ij are

    scores_mse  sum_j (a_ij of the student - of the teacher)^2 / n_i      2 (a_s - a_t) / n_i
    maps_mse    sum_j (p_ij of the student - of the teacher)^2 / n_i      p_s (g - sum_j p_s g), g = 2 (p_s - p_t) / n_i
    kl          sum_j p_ij of the teacher (log p_t - log p_s)             p_s - p_t

scores_mse of long documents needs no map at all (K3, kernels/gram.py). On a GPU in half precision kl is K2's, which
keeps no map and forms its gradients in the backward (kernels/distill_attention.py).

Legend: R rows, N heads, S width, D head width (each model's own), T tokens of all documents, G documents, L their
largest length.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from kernels.distill_attention import distill_attention, is_fused
from kernels.documents import Documents, Group, by_length
from kernels.gram import by_extension, gram_mse, is_cheaper, takes

Form = Literal["scores_mse", "maps_mse", "kl"]

# Elements of one map of a slice: on a CPU it and the few beside it stay in the second cache.
MAP_ELEMENTS = {"cpu": 1 << 18, "cuda": 1 << 26}
HIDDEN = -1e30  # a score that no softmax sees; finite, so that the difference of two is 0


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
    documents = Documents.of(document_RS)
    if form == "kl" and not mean_heads and is_fused(student[0], teacher[0]):
        q, k, q_t, k_t = (documents.pack(x) for x in (*student, *teacher))
        found = distill_attention((q, k), (q_t, k_t), starts=documents.starts, longest=documents.longest)
        return found.kl_HT.sum() / student[0].shape[1]
    packed = [documents.pack(x) for x in (*student, *(x.detach() for x in teacher))]
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in student)
    total, *_ = attention_rows(*packed, documents.starts, form, mean_heads, wanted)
    return total


def by_slices(
    query: Tensor,
    key: Tensor,
    teacher_query: Tensor,
    teacher_key: Tensor,
    starts: Tensor,
    form: str,
    mean_heads: bool,
    wanted: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(distance, its gradients by query and key), all of documents one after another, [T, N, D]."""
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    total = torch.zeros((), dtype=wide, device=query.device)
    gradients = [torch.zeros_like(x) if wanted else x.new_empty(0) for x in (query, key)]
    if len(query) == 0:
        return total, gradients[0], gradients[1]
    if form == "scores_mse" and not mean_heads and wanted and takes(query, teacher_query, starts):
        return by_extension(query, key, teacher_query, teacher_key, starts)
    elements, heads = MAP_ELEMENTS.get(query.device.type, 1 << 18), query.shape[1]
    step = heads if mean_heads else max(1, min(heads, elements // int(starts.diff().max()) ** 2))
    share = 1 if mean_heads else heads
    for group in by_length(starts, elements=elements // step):
        ours, theirs = (
            Pair(*(group.take(x).to(wide) for x in pair)) for pair in ((query, key), (teacher_query, teacher_key))
        )
        parts = [torch.empty_like(x) for x in ours] if wanted else []
        for first in range(0, heads, step):
            here = slice(None) if mean_heads else slice(first, first + step)
            apart, by_ours = _slice(ours.heads(here), theirs.heads(here), group, form=form, mean_heads=mean_heads)
            total += apart / share
            for part, found in zip(parts, by_ours, strict=False):
                part[:, here] = found / share
        for whole, part in zip(gradients, parts, strict=False):
            group.put(part, into=whole)
    return total, gradients[0], gradients[1]


attention_rows = torch.library.custom_op("unibert::attention_rows", by_slices, mutates_args=())


@attention_rows.register_fake
def _fake(query, key, teacher_query, teacher_key, starts, form, mean_heads, wanted):
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    made = [torch.empty_like(x) if wanted else query.new_empty(0) for x in (query, key)]
    return query.new_empty((), dtype=wide), *made


def _remember(ctx: Any, inputs: tuple, output: tuple) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[1:])


def _backward(ctx: Any, incoming: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if incoming is None:
        return (None,) * 8
    return *(made * incoming.to(made.dtype) for made in ctx.saved_tensors), *(None,) * 6


attention_rows.register_autograd(_backward, setup_context=_remember)


class Pair(NamedTuple):
    """What makes the scores of a model."""

    query: Tensor
    """[G, N, L, D]"""
    key: Tensor

    def heads(self, here: slice) -> Pair:
        return Pair(self.query[:, here], self.key[:, here])

    @property
    def scale(self) -> float:
        return self.query.shape[-1] ** -0.5

    @property
    def scores(self) -> Tensor:
        return (self.query * self.scale) @ self.key.mT


def _slice(ours: Pair, theirs: Pair, group: Group, *, form: str, mean_heads: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The distance of a slice summed over its heads, or of their mean, and its gradients [G, N, L, D]."""
    if mean_heads and form == "scores_mse":  # a mean of products is one product of all heads side by side
        total, parts = _slice(_joined(ours), _joined(theirs), group, form=form, mean_heads=False)
        heads = ours.query.shape[1]
        by_query, by_key = (part.unflatten(-1, (heads, -1)).squeeze(1).transpose(1, 2) for part in parts)
        return total, (by_query * heads**-0.5, by_key)
    length, width = ours.query.shape[-2:]
    if form == "scores_mse" and is_cheaper(length, width, theirs.query.shape[-1]):
        return _by_grams(ours, theirs, group)
    scores = ours.scores, theirs.scores
    if form == "scores_mse":
        total, ds = _scores_mse(*scores, group)
    elif form == "kl" and not mean_heads:
        total, ds = _kl(*scores, group)
    else:
        total, ds = _maps(*scores, group, form=form, mean_heads=mean_heads)
    ds = ds.mul_(ours.scale)
    return total, (ds @ ours.key, ds.mT @ ours.query)


def _joined(pair: Pair) -> Pair:
    """All heads side by side as one head whose scores are the mean of theirs."""
    query, key = (x.transpose(1, 2).flatten(2).unsqueeze(1) for x in pair)
    heads = pair.query.shape[1]
    return Pair(query * heads**-0.5, key)  # as the wider head's own scale has sqrt(heads) already


def _by_grams(ours: Pair, theirs: Pair, group: Group) -> tuple[Tensor, tuple[Tensor, ...]]:
    scaled = [(pair.query.flatten(0, 1) * pair.scale, pair.key.flatten(0, 1)) for pair in (ours, theirs)]
    apart, (by_query, by_key) = gram_mse(*scaled)
    shape, lengths = ours.query.shape, _lengths(group, by_query)
    total = (apart.view(shape[:2]) / lengths[..., 0, 0]).sum()
    by_ours = by_query.mul_(ours.scale), by_key
    return total, tuple(part.view(shape) / lengths for part in by_ours)


def _scores_mse(s: Tensor, t: Tensor, group: Group) -> tuple[Tensor, Tensor]:
    """Rows and columns of no token are zero in both."""
    apart, lengths = s.sub_(t), _lengths(group, s)
    return (apart.square() / lengths).sum(), apart.mul_(2 / lengths)


def _kl(s: Tensor, t: Tensor, group: Group) -> tuple[Tensor, Tensor]:
    log_s, log_t = _log_maps(s, group), _log_maps(t, group)
    p_t = log_t.exp()
    apart = log_t.sub_(log_s).mul_(p_t).sum(dim=-1)
    return _own_rows(apart, group).sum(), _own_rows(log_s.exp_().sub_(p_t), group)


def _maps(s: Tensor, t: Tensor, group: Group, *, form: str, mean_heads: bool) -> tuple[Tensor, Tensor]:
    """Of maps, or their means over the heads, that are compared after the softmax."""
    p_s, p_t = _log_maps(s, group).exp_(), _log_maps(t, group).exp_()
    ours, theirs = (p.mean(dim=1, keepdim=True) if mean_heads else p for p in (p_s, p_t))
    if form == "kl":
        tiny = torch.finfo(s.dtype).tiny
        rows = theirs * (theirs.clamp_min(tiny).log() - ours.clamp_min(tiny).log())
        by_map = torch.where(ours > tiny, -theirs / ours.clamp_min(tiny), 0)
    else:
        apart, lengths = ours - theirs, _lengths(group, s)
        rows, by_map = apart.square() / lengths, apart * (2 / lengths)
    by_map = by_map * (ours.shape[1] / s.shape[1])
    ds = (by_map - (p_s * by_map).sum(dim=-1, keepdim=True)).mul_(p_s)
    return _own_rows(rows, group).sum(), _own_rows(ds, group)


def _lengths(group: Group, like: Tensor) -> Tensor:
    """Tokens of each document, [G, 1, 1, 1]."""
    return group.lengths_G.to(like.dtype)[:, None, None, None]


def _log_maps(scores_GNLL: Tensor, group: Group) -> Tensor:
    if group.valid_GL is not None:
        scores_GNLL = scores_GNLL.masked_fill(~group.valid_GL[:, None, None, :], HIDDEN)
    return scores_GNLL.log_softmax(dim=-1)


def _own_rows(x: Tensor, group: Group) -> Tensor:
    """Zero in the rows of no token; x is [G, N, L] or [G, N, L, L]."""
    if group.valid_GL is None:
        return x
    return x * group.valid_GL[:, None, :].view(len(x), 1, -1, *[1] * (x.dim() - 3))
