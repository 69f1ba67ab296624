"""K1 `mlm_distill_head`: both losses at the masked positions, with no logits [M, V] on either side.

The logits z = x W^T + b of student and teacher are made a few rows at a time, in the forward, and so is the gradient

    dz = f_ce (softmax(z_s) - 1_y) + f_kd d(divergence of kernels/divergence.py) / dz_s
    dx = dz W,  dW = dz^T x,  db = sum of dz

for the factors f by which the two sums will go into the loss. They are a guess that costs nothing when it is right up
to one common factor (the trainer knows them before the forward); when it is wrong, as under an unexpected schedule, the
rows are gone through once more in the backward. So the product with W is computed five times in units of the student's
width where autograd needs as many, and the most that lives is dW, which has to be there anyway, beside one panel.

On a GPU in half precision with both losses, or the forward KL alone, no logits are stored at all: panels of the
vocabulary take the place of chunks of rows (kernels/head_launches.py).

Where no W is given the inputs are logits already (a cached or remote teacher's, or ZeRO-3's student); their gradient is
dz, and the rest holds as it is.

Sources: Hinton et al. 2015 for the sum; the chunked form follows Liger-Kernel (arXiv 2410.10989), written anew here.

Legend: M rows (masked positions), H width of a model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.divergence import FORMS, Kind
from kernels.head_launches import by_panels, is_fused

# Elements of one panel of logits. Few rows read and write dW often; many rows leave the cache.
PANEL_ELEMENTS = {"cpu": 1 << 23, "cuda": 1 << 28}


class Rows(NamedTuple):
    """Logits [M, V] as their factors."""

    inputs: Tensor
    """[M, H]; the logits themselves when there is no weight."""
    weight: Tensor | None = None
    """[V, H]"""
    bias: Tensor | None = None
    """[V]"""

    @property
    def logits(self) -> Tensor:
        """[M, V], multiplied out."""
        return self.inputs if self.weight is None else F.linear(self.inputs, self.weight, self.bias)


class HeadLosses(NamedTuple):
    """What the two losses are; the sums have a gradient, fp32 (fp64 of fp64)."""

    cross_entropy: Tensor
    """Scalar: sum over the rows of -log softmax(z_s)[y]; zero without targets."""
    divergence: Tensor
    """Scalar: sum over the rows of the distance from the teacher; zero without one."""
    cross_entropy_M: Tensor
    """Of each row, without gradient."""
    agreed: Tensor
    """Scalar: rows in which both find the same piece likeliest."""


def mlm_distill_head(
    student: Rows,
    *,
    targets_M: Tensor | None = None,
    teacher: Rows | None = None,
    kind: Kind = "forward_kl",
    temperature: float = 1.0,
    factors: tuple[float, float] = (1.0, 1.0),
) -> HeadLosses:
    """Sums of the cross-entropy and of the distance from the teacher.

    Args:
        student: with gradient; weight and inputs of one dtype.
        targets_M: int64 pieces to be found; None for no cross-entropy.
        teacher: without gradient, of any width, the same vocabulary.
        kind: which distance, see kernels/divergence.py.
        temperature: of both distributions in the distance.
        factors: what the two sums will be multiplied by in the loss, up to one common factor; speed alone.

    Raises:
        ValueError: the vocabularies differ.
    """
    if teacher is not None and (ours := _vocabulary(student)) != (theirs := _vocabulary(teacher)):
        raise ValueError(f"{ours} pieces of the student and {theirs} of the teacher differ")
    theirs = (None,) * 3 if teacher is None else tuple(x if x is None else x.detach() for x in teacher)
    # What is not computed has no gradient: told otherwise, the backward pass would form all of it anew.
    factors = (factors[0] if targets_M is not None else 0.0, factors[1] if teacher is not None else 0.0)
    wanted = [torch.is_grad_enabled() and x is not None and x.requires_grad for x in student]
    largest = max(map(abs, factors)) or 1.0  # fp16 would lose a gradient that is divided by the number of targets
    totals, cross_entropy_M, agreed, *_ = head_rows(
        *student, *theirs, targets_M, kind, temperature, [factor / largest for factor in factors], wanted
    )
    return HeadLosses(totals[0], totals[1], cross_entropy_M, agreed)


def _vocabulary(rows: Rows) -> int:
    return (rows.inputs if rows.weight is None else rows.weight.T).shape[1]


def by_chunks(
    inputs: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    teacher: Tensor | None,
    teacher_weight: Tensor | None,
    teacher_bias: Tensor | None,
    targets: Tensor | None,
    kind: str,
    temperature: float,
    factors: Sequence[float],
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(sums [2], cross-entropy [M], rows that agree, dx, dW, db); gradients that are not wanted are empty."""
    student, theirs = Rows(inputs, weight, bias), None
    if teacher is not None:
        theirs = Rows(teacher, teacher_weight, teacher_bias)
    wide, gradients = _wide(inputs), _Gradients(student, wanted)
    totals = torch.zeros(2, dtype=wide, device=inputs.device)
    cross_entropy_M = torch.zeros(len(inputs), dtype=wide, device=inputs.device)
    agreed = torch.zeros((), dtype=torch.int64, device=inputs.device)
    step = max(1, PANEL_ELEMENTS.get(inputs.device.type, 1 << 23) // max(1, _vocabulary(student)))
    for first in range(0, len(inputs), step):
        here = slice(first, first + step)
        z = student._replace(inputs=inputs[here]).logits.to(wide)
        dz = None
        if theirs is not None:
            z_t = theirs._replace(inputs=theirs.inputs[here]).logits.to(wide)
            agreed += (z.argmax(dim=-1) == z_t.argmax(dim=-1)).sum()
            losses, dz = _distance(z, z_t, kind=cast(Kind, kind), temperature=temperature)
            totals[1] += losses.sum()
            dz.mul_(factors[1])
        if targets is not None:
            cross_entropy_M[here], dz = _cross_entropy(z, targets[here], factor=factors[0], beside=dz)
        if dz is not None:
            gradients.add(here, dz)
    totals[0] = cross_entropy_M.sum()
    return totals, cross_entropy_M, agreed, *gradients.result()


head_rows = torch.library.custom_op("unibert::head_rows", by_chunks, mutates_args=())


@head_rows.register_kernel("cuda")
def _on_gpu(*given: Any) -> tuple[Tensor, ...]:
    return by_panels(*given) if is_fused(*given) else by_chunks(*given)


def _distance(z: Tensor, z_t: Tensor, *, kind: Kind, temperature: float) -> tuple[Tensor, Tensor]:
    """Of each row, and its gradient by z."""
    losses, gradient = FORMS[kind](z / temperature, z_t / temperature)
    if kind == "mse":
        return losses, gradient.div_(temperature)
    return losses.mul_(temperature**2), gradient.mul_(temperature)


def _cross_entropy(z: Tensor, targets: Tensor, *, factor: float, beside: Tensor | None) -> tuple[Tensor, Tensor]:
    """Of each row, and its gradient by z times the factor, plus `beside`."""
    log_p, here = z.log_softmax(dim=-1), targets.unsqueeze(-1)
    losses = -log_p.gather(-1, here).squeeze(-1)
    p = log_p.exp_()
    dz = p.mul_(factor) if beside is None else beside.add_(p, alpha=factor)
    return losses, dz.scatter_add_(-1, here, dz.new_full(here.shape, -factor))


class _Gradients:
    """dx, dW and db, from one panel after another."""

    def __init__(self, student: Rows, wanted: Sequence[bool]) -> None:
        self.student, wide = student, _wide(student.inputs)
        # Rows are written once, in their own dtype; the other two are sums over panels.
        kinds = (student.inputs.dtype, wide, wide)
        self.sums = [
            torch.zeros_like(x, dtype=kind) if want and x is not None else None
            for x, want, kind in zip(student, wanted, kinds, strict=True)
        ]

    def add(self, here: slice, dz: Tensor) -> None:
        of_inputs, of_weight, of_bias = self.sums
        inputs, weight, _ = self.student
        low = dz.to(inputs.dtype)
        if of_inputs is not None:
            of_inputs[here] = low if weight is None else low @ weight
        if of_weight is not None and low.dtype == of_weight.dtype:
            of_weight.addmm_(low.T, inputs[here])
        elif of_weight is not None:
            of_weight.add_(low.T @ inputs[here])
        if of_bias is not None:
            of_bias.add_(dz.sum(dim=0))

    def result(self) -> tuple[Tensor, Tensor, Tensor]:
        inputs = self.student.inputs
        made = [
            inputs.new_empty(0) if total is None else total.to(cast(Tensor, x).dtype)
            for total, x in zip(self.sums, self.student, strict=True)
        ]
        return made[0], made[1], made[2]


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


@torch.library.custom_op("unibert::head_rows_backward", mutates_args=())
def head_rows_backward(
    incoming: Tensor,
    inputs: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    teacher: Tensor | None,
    teacher_weight: Tensor | None,
    teacher_bias: Tensor | None,
    targets: Tensor | None,
    dx: Tensor,
    dw: Tensor,
    db: Tensor,
    kind: str,
    temperature: float,
    factors: Sequence[float],
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """What was formed in the forward times the common factor; formed anew where there is none."""
    actual = incoming.tolist()
    which = max((0, 1), key=lambda number: abs(factors[number]))
    common = actual[which] / factors[which] if factors[which] else 0.0
    if any(abs(a - common * f) > 1e-6 * max(map(abs, actual)) for a, f in zip(actual, factors, strict=True)):
        given = inputs, weight, bias, teacher, teacher_weight, teacher_bias, targets
        largest = max(map(abs, actual))
        factors = [factor / largest for factor in actual]
        *_, dx, dw, db = head_rows(*given, kind, temperature, factors, wanted)
        common = largest
    return dx * common, dw * common, db * common


@head_rows.register_fake
def _fake(inputs, weight, bias, teacher, teacher_weight, teacher_bias, targets, kind, temperature, factors, wanted):
    wide = _wide(inputs)
    made = [
        torch.empty_like(x) if want and x is not None else inputs.new_empty(0)
        for x, want in zip((inputs, weight, bias), wanted, strict=True)
    ]
    rows = inputs.new_empty(len(inputs), dtype=wide)
    return inputs.new_empty(2, dtype=wide), rows, inputs.new_empty((), dtype=torch.int64), *made


@head_rows_backward.register_fake
def _fake_backward(*given: Any) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(x) for x in given[8:11])


def _remember(ctx: Any, inputs: tuple, output: tuple) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*inputs[:7], *output[3:])
    ctx.options = inputs[7:]


def _backward(ctx: Any, incoming: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if incoming is None:
        return (None,) * 11
    wanted = ctx.options[-1]
    made = head_rows_backward(incoming, *ctx.saved_tensors, *ctx.options)
    return *((x if want else None) for x, want in zip(made, wanted, strict=True)), *(None,) * 8


head_rows.register_autograd(_backward, setup_context=_remember)
