"""The three programs of K2 in Triton: forward, and backward by keys and values and by queries.

What they compute is told in distill_attention.py; here is how. A program has one block of one document's rows (forward,
by queries) or columns (by keys) for one head and walks over the other side, so that no S x S tile leaves its registers.
Logarithms are to base 2 inside (exp2 is one instruction), so scale_s and scale_t have log2(e) in them; what is stored
is in nats. A head is padded with zeros to a power of two. Running maxima make the sums safe, and masked columns get
HIDDEN, finite, in both models' scores, so that their difference is 0.

The sums over columns are accumulated in fp32 whatever the inputs. Maps are rounded to the inputs' dtype for products
alone, after the difference of the two maps is taken in fp32.

Sources: online softmax (Milakov and Gimelshein, arXiv 1805.02867), FlashAttention-2 (arXiv 2307.08691) for the
structure; the running cross term sum e^(t - max t) (t - s) is ours.

Legend: T tokens, H heads, D and E the head widths of student and teacher.
"""

from __future__ import annotations

import triton
import triton.language as tl

HIDDEN = tl.constexpr(-1.0e30)
LN_2 = tl.constexpr(0.6931471805599453)
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def places(first, head, rows, HEADS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Offsets [rows, PADDED] of one head's rows from token `first` on, in [T, H, WIDTH]."""
    begin = (first.to(tl.int64) * HEADS + head) * WIDTH
    return begin + rows[:, None] * (HEADS * WIDTH) + tl.arange(0, PADDED)[None, :]


@triton.jit
def inside(valid, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Which of those are there."""
    return valid[:, None] & (tl.arange(0, PADDED) < WIDTH)[None, :]


@triton.jit
def forward(
    query, key, value, teacher_query, teacher_key, starts, out, lse_s, lse_t, kl,
    tokens, blocks, scale_s, scale_t,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, T_WIDTH: tl.constexpr, T_PADDED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, ATTENDS: tl.constexpr,
):  # fmt: skip
    """Rows of `out` [T, H, D] (where ATTENDS) and of `kl`, `lse_s`, `lse_t` [H, T]."""
    document, block, head = tl.program_id(0) // blocks, tl.program_id(0) % blocks, tl.program_id(1)
    first = tl.load(starts + document)
    length = tl.load(starts + document + 1) - first
    if block * ROWS < length:
        rows = block * ROWS + tl.arange(0, ROWS)
        valid = rows < length
        own = places(first, head, rows, HEADS, WIDTH, PADDED)
        there = inside(valid, WIDTH, PADDED)
        q = tl.load(query + own, mask=there, other=0.0)
        own_t = places(first, head, rows, HEADS, T_WIDTH, T_PADDED)
        q_t = tl.load(teacher_query + own_t, mask=inside(valid, T_WIDTH, T_PADDED), other=0.0)
        top_s = tl.full([ROWS], -float("inf"), tl.float32)
        top_t = tl.full([ROWS], -float("inf"), tl.float32)
        sum_s = tl.zeros([ROWS], tl.float32)
        sum_t = tl.zeros([ROWS], tl.float32)
        cross = tl.zeros([ROWS], tl.float32)
        attended = tl.zeros([ROWS, PADDED], tl.float32)
        for begin in range(0, length, COLUMNS):
            columns = begin + tl.arange(0, COLUMNS)
            seen = columns < length
            at = places(first, head, columns, HEADS, WIDTH, PADDED)
            here = inside(seen, WIDTH, PADDED)
            k = tl.load(key + at, mask=here, other=0.0)
            at_t = places(first, head, columns, HEADS, T_WIDTH, T_PADDED)
            k_t = tl.load(teacher_key + at_t, mask=inside(seen, T_WIDTH, T_PADDED), other=0.0)
            s = tl.where(seen[None, :], tl.dot(q, tl.trans(k)) * scale_s, HIDDEN)
            t = tl.where(seen[None, :], tl.dot(q_t, tl.trans(k_t)) * scale_t, HIDDEN)
            new_s, new_t = tl.maximum(top_s, tl.max(s, 1)), tl.maximum(top_t, tl.max(t, 1))
            fade_s, fade_t = tl.exp2(top_s - new_s), tl.exp2(top_t - new_t)
            e_s, e_t = tl.exp2(s - new_s[:, None]), tl.exp2(t - new_t[:, None])
            sum_s = sum_s * fade_s + tl.sum(e_s, 1)
            sum_t = sum_t * fade_t + tl.sum(e_t, 1)
            cross = cross * fade_t + tl.sum(e_t * (t - s), 1)
            if ATTENDS:
                v = tl.load(value + at, mask=here, other=0.0)
                attended = attended * fade_s[:, None] + tl.dot(e_s.to(v.dtype), v)
            top_s, top_t = new_s, new_t
        all_s, all_t = top_s + tl.log2(sum_s), top_t + tl.log2(sum_t)
        row = head.to(tl.int64) * tokens + first + rows
        tl.store(lse_s + row, all_s * LN_2, mask=valid)
        tl.store(lse_t + row, all_t * LN_2, mask=valid)
        tl.store(kl + row, (cross / sum_t - all_t + all_s) * LN_2, mask=valid)
        if ATTENDS:
            tl.store(out + own, (attended / sum_s[:, None]).to(out.dtype.element_ty), mask=there)


@triton.jit
def backward_keys(
    query, key, value, teacher_query, teacher_key, starts, d_out, delta, lse_s, lse_t, weights, d_key, d_value,
    tokens, blocks, scale_s, scale_t, scale,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, T_WIDTH: tl.constexpr, T_PADDED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, ATTENDS: tl.constexpr,
):  # fmt: skip
    """Rows of d_key and (where ATTENDS) d_value [T, H, D]: dK = scale dS^T Q, dV = P_s^T dO."""
    document, block, head = tl.program_id(0) // blocks, tl.program_id(0) % blocks, tl.program_id(1)
    first = tl.load(starts + document)
    length = tl.load(starts + document + 1) - first
    if block * COLUMNS < length:
        columns = block * COLUMNS + tl.arange(0, COLUMNS)
        seen = columns < length
        own = places(first, head, columns, HEADS, WIDTH, PADDED)
        there = inside(seen, WIDTH, PADDED)
        k = tl.load(key + own, mask=there, other=0.0)
        own_t = places(first, head, columns, HEADS, T_WIDTH, T_PADDED)
        k_t = tl.load(teacher_key + own_t, mask=inside(seen, T_WIDTH, T_PADDED), other=0.0)
        by_key = tl.zeros([COLUMNS, PADDED], tl.float32)
        by_value = tl.zeros([COLUMNS, PADDED], tl.float32)
        if ATTENDS:
            v = tl.load(value + own, mask=there, other=0.0)
        for begin in range(0, length, ROWS):
            rows = begin + tl.arange(0, ROWS)
            valid = rows < length
            at = places(first, head, rows, HEADS, WIDTH, PADDED)
            here = inside(valid, WIDTH, PADDED)
            q = tl.load(query + at, mask=here, other=0.0)
            at_t = places(first, head, rows, HEADS, T_WIDTH, T_PADDED)
            q_t = tl.load(teacher_query + at_t, mask=inside(valid, T_WIDTH, T_PADDED), other=0.0)
            row = head.to(tl.int64) * tokens + first + rows
            all_s = tl.load(lse_s + row, mask=valid, other=float("inf")) * LOG2_E  # maps of no row are 0
            all_t = tl.load(lse_t + row, mask=valid, other=float("inf")) * LOG2_E
            weight = tl.load(weights + row, mask=valid, other=0.0)
            p_s = tl.exp2(tl.dot(k, tl.trans(q)) * scale_s - all_s[None, :])
            p_t = tl.exp2(tl.dot(k_t, tl.trans(q_t)) * scale_t - all_t[None, :])
            d_score = (p_s - p_t) * weight[None, :]
            if ATTENDS:
                d_o = tl.load(d_out + at, mask=here, other=0.0)
                by_value += tl.dot(p_s.to(d_o.dtype), d_o)
                d_score += p_s * (tl.dot(v, tl.trans(d_o)) - tl.load(delta + row, mask=valid, other=0.0)[None, :])
            by_key += tl.dot(d_score.to(q.dtype), q)
        tl.store(d_key + own, (by_key * scale).to(d_key.dtype.element_ty), mask=there)
        if ATTENDS:
            tl.store(d_value + own, by_value.to(d_value.dtype.element_ty), mask=there)


@triton.jit
def backward_queries(
    query, key, value, teacher_query, teacher_key, starts, d_out, delta, lse_s, lse_t, weights, d_query,
    tokens, blocks, scale_s, scale_t, scale,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, T_WIDTH: tl.constexpr, T_PADDED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, ATTENDS: tl.constexpr,
):  # fmt: skip
    """Rows of d_query [T, H, D]: dQ = scale dS K."""
    document, block, head = tl.program_id(0) // blocks, tl.program_id(0) % blocks, tl.program_id(1)
    first = tl.load(starts + document)
    length = tl.load(starts + document + 1) - first
    if block * ROWS < length:
        rows = block * ROWS + tl.arange(0, ROWS)
        valid = rows < length
        own = places(first, head, rows, HEADS, WIDTH, PADDED)
        there = inside(valid, WIDTH, PADDED)
        q = tl.load(query + own, mask=there, other=0.0)
        own_t = places(first, head, rows, HEADS, T_WIDTH, T_PADDED)
        q_t = tl.load(teacher_query + own_t, mask=inside(valid, T_WIDTH, T_PADDED), other=0.0)
        row = head.to(tl.int64) * tokens + first + rows
        all_s = tl.load(lse_s + row, mask=valid, other=float("inf")) * LOG2_E
        all_t = tl.load(lse_t + row, mask=valid, other=float("inf")) * LOG2_E
        weight = tl.load(weights + row, mask=valid, other=0.0)
        if ATTENDS:
            d_o = tl.load(d_out + own, mask=there, other=0.0)
            inner = tl.load(delta + row, mask=valid, other=0.0)
        by_query = tl.zeros([ROWS, PADDED], tl.float32)
        for begin in range(0, length, COLUMNS):
            columns = begin + tl.arange(0, COLUMNS)
            seen = columns < length
            at = places(first, head, columns, HEADS, WIDTH, PADDED)
            here = inside(seen, WIDTH, PADDED)
            k = tl.load(key + at, mask=here, other=0.0)
            at_t = places(first, head, columns, HEADS, T_WIDTH, T_PADDED)
            k_t = tl.load(teacher_key + at_t, mask=inside(seen, T_WIDTH, T_PADDED), other=0.0)
            p_s = tl.exp2(tl.dot(q, tl.trans(k)) * scale_s - all_s[:, None])
            p_t = tl.exp2(tl.dot(q_t, tl.trans(k_t)) * scale_t - all_t[:, None])
            d_score = (p_s - p_t) * weight[:, None]
            if ATTENDS:
                v = tl.load(value + at, mask=here, other=0.0)
                d_score += p_s * (tl.dot(d_o, tl.trans(v)) - inner[:, None])
            d_score = tl.where(seen[None, :], d_score, 0.0)  # a score of no column is 0, not hidden: exp2 may overflow
            by_query += tl.dot(d_score.to(k.dtype), k)
        tl.store(d_query + own, (by_query * scale).to(d_query.dtype.element_ty), mask=there)
