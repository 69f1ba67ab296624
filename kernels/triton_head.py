"""The two programs of K1 in Triton: statistics of all logits, and a panel of their gradient.

What they compute is told in head.py; here is how. `stats` walks over a part of the vocabulary with a block of rows:
both models' tiles of logits are multiplied out, folded into running maxima and sums, and forgotten, so logits are never
written. z / T has its maximum where z has, so one running maximum serves both of the student's sums. `panel` multiplies
the tiles out once more and writes the gradient by the logits of a panel of the vocabulary; the products with it that
give the gradients by weight and inputs are the library's.

Sources: online softmax (Milakov and Gimelshein, arXiv 1805.02867); two passes over logits that are never stored, as in
cut cross-entropy (Wijmans et al., arXiv 2411.09009); the teacher's side beside it is ours.

Legend: M rows, V vocabulary, D and E the widths of student and teacher.
"""

from __future__ import annotations

import triton
import triton.language as tl

HIDDEN = tl.constexpr(-1.0e30)


@triton.jit
def logits(
    inputs, weight, bias, rows, valid, columns, seen, end,
    WIDTH: tl.constexpr, BIASED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """A tile of inputs @ weight.T + bias, fp32. `end` is WIDTH, told at run time, lest the loop be unrolled."""
    z = tl.zeros([ROWS, COLUMNS], tl.float32)
    at_rows = inputs + rows.to(tl.int64)[:, None] * WIDTH
    at_columns = weight + columns.to(tl.int64)[:, None] * WIDTH
    for begin in range(0, end, DEPTH):
        depth = begin + tl.arange(0, DEPTH)
        within_rows, within_columns = valid[:, None], seen[:, None]
        if WIDTH % DEPTH != 0:
            within_rows, within_columns = within_rows & (depth < WIDTH), within_columns & (depth < WIDTH)
        x = tl.load(at_rows + depth[None, :], mask=within_rows, other=0.0)
        w = tl.load(at_columns + depth[None, :], mask=within_columns, other=0.0)
        z = tl.dot(x, tl.trans(w), z)
    if BIASED:
        z += tl.load(bias + columns, mask=seen, other=0.0).to(tl.float32)[None, :]
    return z


@triton.jit
def stats(
    inputs, weight, bias, teacher_inputs, teacher_weight, teacher_bias, sums, likeliest,
    number, vocabulary, part, width_s, width_t, per_temperature,
    WIDTH: tl.constexpr, BIASED: tl.constexpr, T_WIDTH: tl.constexpr, T_BIASED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Of a block of rows and a part of the vocabulary: into sums [parts, 6, M] and likeliest [parts, 2, M].

    The six are max z_s, sum e^(z_s - max), sum e^((z_s - max) / T), max z_t / T, sum e^(z_t / T - max), and the cross
    term sum e^(z_t / T - max) (z_t - z_s) / T.
    """
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    valid = rows < number
    first = tl.program_id(1) * part
    end = tl.minimum(first + part, vocabulary)
    top_s = tl.full([ROWS], HIDDEN, tl.float32)
    top_t = tl.full([ROWS], HIDDEN, tl.float32)
    sum_1 = tl.zeros([ROWS], tl.float32)
    sum_s = tl.zeros([ROWS], tl.float32)
    sum_t = tl.zeros([ROWS], tl.float32)
    cross = tl.zeros([ROWS], tl.float32)
    best_s = tl.zeros([ROWS], tl.int32)
    best_t = tl.zeros([ROWS], tl.int32)
    for begin in range(first, end, COLUMNS):
        columns = begin + tl.arange(0, COLUMNS)
        seen = columns < end
        s = logits(inputs, weight, bias, rows, valid, columns, seen, width_s, WIDTH, BIASED, ROWS, COLUMNS, DEPTH)
        t = logits(
            teacher_inputs, teacher_weight, teacher_bias, rows, valid, columns, seen, width_t,
            T_WIDTH, T_BIASED, ROWS, COLUMNS, DEPTH,
        )  # fmt: skip
        s = tl.where(seen[None, :], s, HIDDEN)
        t = tl.where(seen[None, :], t * per_temperature, HIDDEN)
        new_s, new_t = tl.maximum(top_s, tl.max(s, 1)), tl.maximum(top_t, tl.max(t, 1))
        best_s = tl.where(new_s > top_s, tl.min(tl.where(s == new_s[:, None], columns[None, :], end), 1), best_s)
        best_t = tl.where(new_t > top_t, tl.min(tl.where(t == new_t[:, None], columns[None, :], end), 1), best_t)
        fade_t = tl.exp(top_t - new_t)
        e_t = tl.exp(t - new_t[:, None])
        apart = s - new_s[:, None]
        sum_1 = sum_1 * tl.exp(top_s - new_s) + tl.sum(tl.exp(apart), 1)
        sum_s = sum_s * tl.exp((top_s - new_s) * per_temperature) + tl.sum(tl.exp(apart * per_temperature), 1)
        sum_t = sum_t * fade_t + tl.sum(e_t, 1)
        cross = cross * fade_t + tl.sum(e_t * (t - s * per_temperature), 1)
        top_s, top_t = new_s, new_t
    at = sums + tl.program_id(1).to(tl.int64) * 6 * number + rows
    tl.store(at, top_s, mask=valid)
    tl.store(at + number, sum_1, mask=valid)
    tl.store(at + 2 * number, sum_s, mask=valid)
    tl.store(at + 3 * number, top_t, mask=valid)
    tl.store(at + 4 * number, sum_t, mask=valid)
    tl.store(at + 5 * number, cross, mask=valid)
    at_best = likeliest + tl.program_id(1).to(tl.int64) * 2 * number + rows
    tl.store(at_best, best_s, mask=valid)
    tl.store(at_best + number, best_t, mask=valid)


@triton.jit
def panel(
    inputs, weight, bias, teacher_inputs, teacher_weight, teacher_bias, targets, lse_1, lse_s, lse_t, dz,
    number, first, width, width_s, width_t, per_temperature, by_label, by_teacher,
    WIDTH: tl.constexpr, BIASED: tl.constexpr, T_WIDTH: tl.constexpr, T_BIASED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """A tile of dz [M, width] of the vocabulary from `first` on.

    by_label (softmax(z_s) - 1_target) + by_teacher (softmax(z_s / T) - softmax(z_t / T)); a target of -1 is none.
    """
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    valid = rows < number
    places = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    seen = places < width
    columns = first + places
    s = logits(inputs, weight, bias, rows, valid, columns, seen, width_s, WIDTH, BIASED, ROWS, COLUMNS, DEPTH)
    t = logits(
        teacher_inputs, teacher_weight, teacher_bias, rows, valid, columns, seen, width_t,
        T_WIDTH, T_BIASED, ROWS, COLUMNS, DEPTH,
    )  # fmt: skip
    all_1 = tl.load(lse_1 + rows, mask=valid, other=0.0)
    all_s = tl.load(lse_s + rows, mask=valid, other=0.0)
    all_t = tl.load(lse_t + rows, mask=valid, other=0.0)
    target = tl.load(targets + rows, mask=valid, other=-1)
    p_s = tl.exp(s * per_temperature - all_s[:, None])
    gradient = by_teacher * (p_s - tl.exp(t * per_temperature - all_t[:, None]))
    gradient += by_label * tl.exp(s - all_1[:, None])
    gradient = tl.where(target[:, None] == columns[None, :], gradient - by_label, gradient)
    at = dz + rows.to(tl.int64)[:, None] * width + places[None, :]
    tl.store(at, gradient.to(dz.dtype.element_ty), mask=valid[:, None] & seen[None, :])
