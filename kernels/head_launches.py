"""K1 on a GPU: panels of the vocabulary instead of chunks of rows, with the programs of triton_head.py.

`by_panels` has the arguments and results of head.py's `by_chunks`, which it replaces where `is_fused` says so. Logits
are multiplied out twice and never stored; one panel of their gradient lives at a time, and dW is written once.

Legend: M rows, V vocabulary, D and E the widths of student and teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernels.launch import Launch, Tile, generation, takes

PANEL_ELEMENTS = 1 << 28  # of the gradient by the logits, alive at a time
PROGRAMS = 1024  # of `stats`, at least, where there is work for them: several for each multiprocessor
DEPTH = 64  # of one step of a product

# By GPU generation: what the ahead-of-time tests found to need no stack.
TILES: dict[tuple[str, int], Tile] = {
    ("stats", 80): Tile(64, 128, 8, 3),
    ("stats", 90): Tile(128, 64, 8, 3),
    ("stats", 100): Tile(128, 64, 8, 3),
    ("panel", 80): Tile(64, 128, 8, 3),
    ("panel", 90): Tile(128, 64, 8, 3),
    ("panel", 100): Tile(128, 64, 8, 3),
}


class Statistics(NamedTuple):
    """Of each row, [M] each, fp32."""

    lse_1: Tensor
    """log sum e^z of the student."""
    lse_s: Tensor
    """log sum e^(z / T) of the student."""
    lse_t: Tensor
    """log sum e^(z / T) of the teacher."""
    kl: Tensor
    """KL(teacher || student) at T, nats."""
    agree: Tensor
    """bool: both find the same piece likeliest."""


def is_fused(
    inputs: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    teacher: Tensor | None,
    teacher_weight: Tensor | None,
    teacher_bias: Tensor | None,
    targets: Tensor | None,
    kind: str,
    *_: Any,
) -> bool:
    """Whether Triton's programs are meant for these arguments of `by_panels`."""
    if weight is None or teacher is None or teacher_weight is None or kind != "forward_kl":
        return False
    return takes(inputs, weight, teacher, teacher_weight)


def by_panels(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    teacher: Tensor,
    teacher_weight: Tensor,
    teacher_bias: Tensor | None,
    targets: Tensor | None,
    kind: str,
    temperature: float,
    factors: Sequence[float],
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(sums [2], cross-entropy [M], rows that agree, dx, dW, db); gradients that are not wanted are empty."""
    given = _given(inputs, weight, bias, teacher, teacher_weight, teacher_bias)
    found = statistics(given, temperature=temperature)
    cross_entropy_M = torch.zeros_like(found.kl)
    if targets is not None:
        chosen = (inputs.float() * weight[targets].float()).sum(dim=-1)
        cross_entropy_M = found.lse_1 - chosen - (0.0 if bias is None else bias[targets].float())
    totals = torch.stack([cross_entropy_M.sum(), temperature**2 * found.kl.sum()])
    given["targets"] = torch.full_like(found.agree, -1, dtype=torch.int64) if targets is None else targets
    given |= {"lse_1": found.lse_1, "lse_s": found.lse_s, "lse_t": found.lse_t}
    by_label = 0.0 if targets is None else factors[0]
    scales = {"per_temperature": 1 / temperature, "by_label": by_label, "by_teacher": factors[1] * temperature}
    wanted = wanted[0], wanted[1], wanted[2] and bias is not None
    return totals, cross_entropy_M, found.agree.sum(), *_gradients(given, bias, scales, wanted=wanted)


def statistics(given: dict[str, Tensor], *, temperature: float) -> Statistics:
    """Of all rows, from what the parts of the vocabulary say."""
    number, vocabulary = len(given["inputs"]), len(given["weight"])
    tile = TILES["stats", generation(given["inputs"].device)]
    blocks = -(-number // tile.rows)
    steps = -(-vocabulary // tile.columns)
    part = -(-steps // min(steps, -(-PROGRAMS // max(1, blocks)))) * tile.columns
    parts = -(-vocabulary // part)
    sums = given["inputs"].new_empty(parts, 6, number, dtype=torch.float32)
    likeliest = given["inputs"].new_empty(parts, 2, number, dtype=torch.int32)
    numbers = {"number": number, "vocabulary": vocabulary, "part": part, "per_temperature": 1 / temperature}
    if number:
        _launch("stats", tile, (blocks, parts), given | {"sums": sums, "likeliest": likeliest}, numbers).start()
    top_s, sum_1, sum_s, top_t, sum_t, cross = sums.unbind(dim=1)
    lse_1 = torch.logsumexp(top_s + sum_1.log(), dim=0)
    lse_s = torch.logsumexp(top_s / temperature + sum_s.log(), dim=0)
    lse_t = torch.logsumexp(top_t + sum_t.log(), dim=0)
    kl = (cross * (top_t - lse_t).exp()).sum(dim=0) - lse_t + lse_s
    best_s, best_t = (
        best.gather(0, top.argmax(dim=0, keepdim=True))[0]
        for top, best in ((top_s, likeliest[:, 0]), (top_t, likeliest[:, 1]))
    )
    return Statistics(lse_1, lse_s, lse_t, kl, best_s == best_t)


def _gradients(
    given: dict[str, Tensor], bias: Tensor | None, scales: dict[str, float], *, wanted: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """dx, dW and db."""
    inputs, weight = given["inputs"], given["weight"]
    dx = inputs.new_zeros(inputs.shape if wanted[0] else 0, dtype=torch.float32)
    dw = torch.empty_like(weight) if wanted[1] else weight.new_empty(0)
    db = torch.empty_like(bias) if wanted[2] and bias is not None else inputs.new_empty(0)
    number, vocabulary = len(inputs), len(weight)
    step = min(vocabulary, max(1, PANEL_ELEMENTS // max(1, number)))
    tile = TILES["panel", generation(inputs.device)]
    for first in range(0, vocabulary if any(wanted) else 0, step):
        here = slice(first, min(first + step, vocabulary))
        width = here.stop - first
        dz = inputs.new_empty(number, width)
        if number:
            grid = -(-number // tile.rows), -(-width // tile.columns)
            numbers = {"number": number, "first": first, "width": width, **scales}
            _launch("panel", tile, grid, given | {"dz": dz}, numbers).start()
        if wanted[0]:
            dx += dz @ weight[here]
        if wanted[1]:
            torch.mm(dz.T, inputs, out=dw[here])
        if wanted[2]:
            db[here] = dz.sum(dim=0, dtype=torch.float32)
    return dx.to(inputs.dtype), dw, db


def _given(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    teacher: Tensor,
    teacher_weight: Tensor,
    teacher_bias: Tensor | None,
) -> dict[str, Tensor]:
    """The programs' inputs by name; the weight stands in a missing bias's place and is not read."""
    named = {"inputs": inputs, "weight": weight, "teacher_inputs": teacher, "teacher_weight": teacher_weight}
    named |= {"bias": weight if bias is None else bias}
    named |= {"teacher_bias": teacher_weight if teacher_bias is None else teacher_bias}
    return {name: x.contiguous() for name, x in named.items()}


def _launch(
    name: str, tile: Tile, grid: tuple[int, int], tensors: dict[str, Tensor], numbers: dict[str, float]
) -> Launch:
    from kernels import triton_head

    constants: dict[str, Any] = {"ROWS": tile.rows, "COLUMNS": tile.columns, "DEPTH": DEPTH}
    for prefix, of, bias in (("", "weight", "bias"), ("T_", "teacher_weight", "teacher_bias")):
        constants |= {f"{prefix}WIDTH": tensors[of].shape[1], f"{prefix}BIASED": tensors[bias].dim() == 1}
    widths = {"width_s": constants["WIDTH"], "width_t": constants["T_WIDTH"]}
    return Launch(getattr(triton_head, name), grid, {**tensors, **numbers, **widths}, constants, tile)
