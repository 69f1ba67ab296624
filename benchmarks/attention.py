"""Training attention on packed rows: the project's choice against torch's fused kernel with a mask, and by documents as
jagged tensors; forward and backward.

    python benchmarks/attention.py [--save]

CPU seconds of one thread, the sides interleaved, medians.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.attention import packed_attention
from kernels.documents import Documents

PEERS = ("torch scaled_dot_product_attention", "torch scaled_dot_product_attention of jagged tensors")
ROWS, HEADS, HEAD_WIDTH, DOCUMENT_TOKENS = 14, 12, 32, 25
RESULTS = Path(__file__).with_name("results.csv")


def cpu_milliseconds(run: Callable[[], Tensor], incoming: Tensor) -> float:
    """Forward and backward once."""
    began = time.process_time()
    run().backward(incoming)
    return 1000 * (time.process_time() - began)


def jagged(query: Tensor, key: Tensor, value: Tensor, documents: Documents) -> Tensor:
    """Documents one after another, of a row that has no padding."""
    starts, longest = documents.starts.long(), documents.longest
    parts = [
        torch.nested.nested_tensor_from_jagged(documents.pack(x), starts, min_seqlen=1, max_seqlen=longest)
        for x in (query, key, value)
    ]
    out_TND = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in parts)).transpose(1, 2).values()
    return out_TND.unflatten(0, (query.shape[0], query.shape[2])).transpose(1, 2)


def measure(width: int, dtype: torch.dtype, *, repeats: int) -> list[float]:
    """Milliseconds: ours, then of each of PEERS."""
    shape = (ROWS, HEADS, width, HEAD_WIDTH)
    query, key, value = (torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3))
    of_row = torch.arange(width) // DOCUMENT_TOKENS
    mask = (of_row[:, None] == of_row[None, :]).expand(ROWS, 1, width, width)
    documents = Documents.of(of_row + torch.arange(ROWS)[:, None] * (int(of_row[-1]) + 1))
    incoming = torch.randn(shape, dtype=dtype)
    sides = (
        lambda: packed_attention(query, key, value, mask=mask),
        lambda: F.scaled_dot_product_attention(query, key, value, attn_mask=mask),
        lambda: jagged(query, key, value, documents),
    )
    times: tuple[list[float], ...] = ([], [], [])
    for turn in range(repeats + 1):
        for side, run in enumerate(sides):
            took = cpu_milliseconds(run, incoming)
            if turn:  # the first is the warm-up
                times[side].append(took)
    return [statistics.median(side) for side in times]


def main() -> None:
    """Print a row per width and dtype."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    for width in (64, 128, 256, 512):
        for dtype in (torch.bfloat16, torch.float32):
            ours, *others = measure(width, dtype, repeats=options.repeats)
            name = str(dtype).removeprefix("torch.")
            ratios = ", ".join(
                f"{peer} {took:.1f} ms ({took / ours:.2f})" for peer, took in zip(PEERS, others, strict=True)
            )
            print(f"S={width} {name}: ours {ours:.1f} ms, {ratios}")
            if options.save:
                shape = f"{ROWS}x{HEADS}x{width}x{HEAD_WIDTH}, documents of {DOCUMENT_TOKENS}"
                begin = [datetime.date.today().isoformat(), commit.stdout.strip(), "attention.py --save"]
                begin += ["packed attention, forward + backward"]
                device = f"CPU {torch.backends.cpu.get_cpu_capability()}, 1 thread, {name}"
                with RESULTS.open("a", newline="") as file:
                    for peer, took in zip(PEERS, others, strict=True):
                        row = [*begin, peer, shape, device, "CPU ms (lower is better)", f"{ours:.2f}", f"{took:.2f}"]
                        csv.writer(file).writerow([*row, str(options.repeats)])


if __name__ == "__main__":
    main()
