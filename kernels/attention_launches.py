"""How K2's programs (triton_attention.py) are started: tiles, grids, and the tensors that they fill.

Arguments and results are those of distill_attention.py's plain forms, which they replace on a GPU.

Legend: T tokens, H heads, D and E the head widths of student and teacher.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kernels.launch import Launch, Tile, generation, padded

WIDEST = 128
"""The widest head that the programs take."""

# By GPU generation and the wider head, the first entry that is wide enough: what the ahead-of-time tests found to need
# no stack. On sm_80 the accumulators are registers of the threads themselves, so its tiles are smaller.
TILES: dict[tuple[str, int], dict[int, Tile]] = {
    ("forward", 80): {64: Tile(64, 64, 4, 2), 128: Tile(64, 32, 8, 2)},
    ("forward", 90): {64: Tile(64, 64, 4, 2), 128: Tile(64, 64, 8, 2)},
    ("forward", 100): {64: Tile(64, 64, 4, 2), 128: Tile(64, 32, 8, 2)},
    ("backward_keys", 80): {64: Tile(32, 64, 4, 2), 128: Tile(32, 64, 8, 2)},
    ("backward_keys", 90): {64: Tile(64, 64, 4, 2), 128: Tile(32, 64, 8, 2)},
    ("backward_keys", 100): {64: Tile(64, 64, 4, 2), 128: Tile(64, 64, 8, 2)},
    ("backward_queries", 80): {64: Tile(64, 32, 4, 2), 128: Tile(64, 32, 8, 2)},
    ("backward_queries", 90): {64: Tile(64, 64, 4, 2), 128: Tile(64, 64, 8, 2)},
    ("backward_queries", 100): {64: Tile(64, 64, 4, 2), 128: Tile(64, 64, 4, 2)},
}


def tile(program: str, generation: int, widest: int) -> Tile:
    """Of a program on a GPU, for heads of which the wider one is so wide.

    Raises:
        ValueError: too wide a head.
    """
    for most, found in TILES[program, generation].items():
        if widest <= most:
            return found
    raise ValueError(f"a head of width {widest}: at most {WIDEST} is taken")


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    teacher_query: Tensor,
    teacher_key: Tensor,
    starts: Tensor,
    longest: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(out, kl, lse_s, lse_t); see distill_attention.py."""
    given = _given(query, key, value, teacher_query, teacher_key, starts)
    tokens, heads, _ = query.shape
    out = query.new_empty(0) if value is None else torch.empty_like(given["query"])
    kl, lse_s, lse_t = (query.new_empty(heads, tokens, dtype=torch.float32) for _ in range(3))
    if tokens:
        launch_forward(given, out, (kl, lse_s, lse_t), longest=longest).start()
    return out, kl, lse_s, lse_t


def backward(
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
    """(d_query, d_key, d_value); see distill_attention.py."""
    attends = value is not None and d_out is not None
    given = _given(query, key, value if attends else None, teacher_query, teacher_key, starts)
    given |= {"d_out": given["query"], "delta": lse_s}  # not read unless it attends
    if value is not None and d_out is not None:
        given["d_out"] = d_out.contiguous()
        given["delta"] = (d_out.float() * out.float()).sum(dim=-1).T.contiguous()
    weights = torch.zeros_like(lse_s) if weights is None else weights.float().contiguous()
    given |= {"lse_s": lse_s, "lse_t": lse_t, "weights": weights}
    made = [torch.empty_like(given["query"]) for _ in range(3 if attends else 2)]
    if len(query):
        for launch in launch_backward(given, *made, longest=longest):
            launch.start()
    d_value = made[2] if attends else query.new_zeros(0) if value is None else torch.zeros_like(value)
    return made[0], made[1], d_value


def launch_forward(
    given: dict[str, Tensor], out: Tensor, rows: tuple[Tensor, Tensor, Tensor], *, longest: int
) -> Launch:
    """Not yet started; `rows` are kl, lse_s and lse_t."""
    filled = dict(zip(("kl", "lse_s", "lse_t"), rows, strict=True))
    return _launch("forward", {**given, **filled, "out": out}, longest=longest, attends=out.numel() > 0)


def launch_backward(
    given: dict[str, Tensor], d_query: Tensor, d_key: Tensor, d_value: Tensor | None = None, *, longest: int
) -> tuple[Launch, Launch]:
    """Not yet started: by keys and values, and by queries."""
    attends = d_value is not None
    filled = {"d_key": d_key, "d_value": d_value if attends else d_key}
    return (
        _launch("backward_keys", given | filled, longest=longest, attends=attends),
        _launch("backward_queries", {**given, "d_query": d_query}, longest=longest, attends=attends),
    )


def _given(
    query: Tensor, key: Tensor, value: Tensor | None, teacher_query: Tensor, teacher_key: Tensor, starts: Tensor
) -> dict[str, Tensor]:
    """The programs' inputs by name; where there is no value the query stands in its place and is not read."""
    named = {"query": query, "key": key, "value": query if value is None else value}
    named |= {"teacher_query": teacher_query, "teacher_key": teacher_key, "starts": starts.to(torch.int32)}
    return {name: x.contiguous() for name, x in named.items()}


def _launch(name: str, tensors: dict[str, Tensor], *, longest: int, attends: bool) -> Launch:
    from kernels import triton_attention

    query = tensors["query"]
    tokens, heads, width = query.shape
    wider = tensors["teacher_query"].shape[-1]
    chosen = tile(name, generation(query.device), max(width, wider))
    blocks = -(-longest // (chosen.columns if name == "backward_keys" else chosen.rows))
    scales = {"scale_s": width**-0.5 * math.log2(math.e), "scale_t": wider**-0.5 * math.log2(math.e)}
    if name != "forward":
        scales["scale"] = width**-0.5
    constants: dict[str, Any] = {"HEADS": heads, "WIDTH": width, "PADDED": padded(width), "ATTENDS": attends}
    constants |= {"T_WIDTH": wider, "T_PADDED": padded(wider), "ROWS": chosen.rows, "COLUMNS": chosen.columns}
    grid = (blocks * (len(tensors["starts"]) - 1), heads)
    program = getattr(triton_attention, name)
    return Launch(program, grid, {**tensors, "tokens": tokens, "blocks": blocks, **scales}, constants, chosen)
