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

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from kernels.distill_attention import distill_attention, is_fused
from kernels.documents import Documents, Group, by_length
from kernels.gram import QueryKey, by_extension, gram_mse, is_cheaper, map_mse, takes

Form = Literal["scores_mse", "maps_mse", "kl"]

# Elements of one map of a slice: on a CPU it and the few beside it stay in the second cache.
MAP_ELEMENTS = {"cpu": 1 << 18, "cuda": 1 << 26}
ROWS_FOR_MAPS = 4  # the rows that go into Grams may be so many times as many elements
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
    plan = _Plan(query, teacher_query, form=form, mean_heads=mean_heads)
    for group in by_length(starts, elements=plan.elements, each=plan.each):
        sides = (query, key), (teacher_query, teacher_key)
        ours, theirs = (Pair.of(*(group.take(x).to(wide) for x in side)) for side in sides)
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in ours[:2]]
        step = plan.heads_at_once(ours.query.shape[2])
        for first in range(0, plan.heads, step):
            here = slice(None) if mean_heads else slice(first, first + step)
            apart, by_ours = _slice(ours.heads(here), theirs.heads(here), group, form=form, mean_heads=mean_heads)
            total += apart
            if step == plan.heads:
                parts = by_ours
                break
            for part, found in zip(parts, by_ours, strict=True):
                part[:, here] = found
        for whole, part in zip(gradients, parts if wanted else [], strict=False):
            group.put(part.div_(plan.share), into=whole)
    return total / plan.share, gradients[0], gradients[1]


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


class _Plan:
    """How much is alive at a time."""

    def __init__(self, query: Tensor, teacher_query: Tensor, *, form: str, mean_heads: bool) -> None:
        self.elements, self.by_grams = MAP_ELEMENTS.get(query.device.type, 1 << 18), form == "scores_mse"
        self.heads, self.together = query.shape[1], mean_heads
        self.share = 1 if mean_heads else self.heads  # maps that the distance is a mean of; side by side heads are one
        self.widths = [x.shape[1] * x.shape[2] if mean_heads else x.shape[2] for x in (query, teacher_query)]

    def heads_at_once(self, length: int) -> int:
        """Of documents of this length."""
        if self.together or self._without_maps(length):
            return self.heads
        return max(1, min(self.heads, self.elements // length**2))

    def each(self, length: int) -> int:
        """Elements that a document of this length brings to a group."""
        if self._without_maps(length):
            return max(1, self.share * length * sum(self.widths) // ROWS_FOR_MAPS)
        return self.heads_at_once(length) * length**2

    def _without_maps(self, length: int) -> bool:
        return self.by_grams and is_cheaper(length, *self.widths)


class Pair(NamedTuple):
    """What makes the scores of a model."""

    query: Tensor
    """[G, N, L, D]"""
    key: Tensor
    scale: float

    @classmethod
    def of(cls, query: Tensor, key: Tensor) -> Pair:
        """With the scale of its width."""
        return cls(query, key, query.shape[-1] ** -0.5)

    def heads(self, here: slice) -> Pair:
        return Pair(self.query[:, here], self.key[:, here], self.scale)

    @property
    def joined(self) -> Pair:
        """All heads side by side as one head, whose scores are the mean of theirs."""
        query, key = (x.transpose(1, 2).flatten(2).unsqueeze(1) for x in self[:2])
        return Pair(query, key, self.scale / self.query.shape[1])

    def compare(self, theirs: Pair, of: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, QueryKey]:
        """The distance of each row by `of` both scores, and its gradients by query and key."""
        query, key = self.query.contiguous() * self.scale, self.key.contiguous()
        rows_GNL, ds = of(query @ key.mT, (theirs.query.contiguous() * theirs.scale) @ theirs.key.contiguous().mT)
        return rows_GNL, ((ds @ key).mul_(self.scale), ds.mT @ query)


def _slice(ours: Pair, theirs: Pair, group: Group, *, form: str, mean_heads: bool) -> tuple[Tensor, QueryKey]:
    """The distance of a slice summed over its heads, or of their mean, and its gradients [G, N, L, D]."""
    if mean_heads and form == "scores_mse":  # a mean of products is one product of all heads side by side
        total, parts = _slice(ours.joined, theirs.joined, group, form=form, mean_heads=False)
        heads = ours.query.shape[1]
        by_query, by_key = (part.unflatten(-1, (heads, -1)).squeeze(1).transpose(1, 2) for part in parts)
        return total, (by_query, by_key)
    if form == "scores_mse":
        apart_GN, gradients = _scores_mse(ours, theirs)
    else:
        of = _means if mean_heads else COMPARED[form]
        rows_GNL, gradients = ours.compare(theirs, lambda s, t: of(s, t, group, form))
        if group.valid_GL is not None:  # a query of no token is zero, so that its row gives its keys nothing
            rows_GNL = rows_GNL * group.valid_GL[:, None, :]
        apart_GN = rows_GNL.sum(dim=-1)
    if form == "kl":
        return apart_GN.sum(), gradients
    lengths_G = group.lengths_G.to(apart_GN.dtype)
    by_query, by_key = (x.div_(lengths_G[:, None, None, None]) for x in gradients)
    return (apart_GN / lengths_G[:, None]).sum(), (by_query, by_key)


def _scores_mse(ours: Pair, theirs: Pair) -> tuple[Tensor, QueryKey]:
    """Rows and columns of no token are zero on both sides."""
    length, width = ours.query.shape[-2:]
    compare = gram_mse if is_cheaper(length, width, theirs.query.shape[-1]) else map_mse
    return compare(ours[:2], theirs[:2], scales=(ours.scale, theirs.scale))


def _kl(s: Tensor, t: Tensor, group: Group, _: str) -> tuple[Tensor, Tensor]:
    log_s, log_t = (_hidden(x, group).log_softmax(dim=-1) for x in (s, t))
    p_t = log_t.exp()
    rows = log_t.sub_(log_s).mul_(p_t).sum(dim=-1)
    return rows, log_s.exp_().sub_(p_t)


def _maps_mse(s: Tensor, t: Tensor, group: Group, _: str) -> tuple[Tensor, Tensor]:
    p, p_t = (_hidden(x, group).softmax(dim=-1) for x in (s, t))
    apart = p_t.sub_(p)
    rows = torch.linalg.vector_norm(apart, dim=-1).square_()
    return rows, apart.sub_((p * apart).sum(dim=-1, keepdim=True)).mul_(p).mul_(-2)


COMPARED = {"kl": _kl, "maps_mse": _maps_mse}
"""Of scores (s, t, group, form): the distance of each row [G, N, L], and its gradient by s. They may destroy both."""


def _means(s: Tensor, t: Tensor, group: Group, form: str) -> tuple[Tensor, Tensor]:
    """Means of the maps over the heads, which the gradient goes through to each head."""
    p, p_t = (_hidden(x, group).softmax(dim=-1) for x in (s, t))
    ours, theirs = (x.mean(dim=1, keepdim=True) for x in (p, p_t))
    if form == "kl":
        tiny = torch.finfo(s.dtype).tiny
        rows = theirs * (theirs.clamp_min(tiny).log() - ours.clamp_min(tiny).log())
        by_map = torch.where(ours > tiny, -theirs / ours.clamp_min(tiny), 0)
    else:
        apart = ours - theirs
        rows, by_map = apart.square(), 2 * apart
    by_map /= s.shape[1]
    ds = (by_map - (p * by_map).sum(dim=-1, keepdim=True)).mul_(p)
    return rows.sum(dim=-1), ds


def _hidden(scores_GNLL: Tensor, group: Group) -> Tensor:
    """Columns of no token out of the softmax's sight."""
    if group.valid_GL is None:
        return scores_GNLL
    return scores_GNLL.masked_fill_(~group.valid_GL[:, None, None, :], HIDDEN)
