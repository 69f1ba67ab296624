"""Training attention on packed rows: the project's choice against torch's fused kernel, forward and backward.

    python benchmarks/attention.py [--save]

CPU seconds of one thread, the two sides interleaved, medians.
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

ROWS, HEADS, HEAD_WIDTH, DOCUMENT_TOKENS = 14, 12, 32, 25
RESULTS = Path(__file__).with_name("results.csv")


def cpu_milliseconds(run: Callable[[], Tensor], incoming: Tensor) -> float:
    """Forward and backward once."""
    began = time.process_time()
    run().backward(incoming)
    return 1000 * (time.process_time() - began)


def measure(width: int, dtype: torch.dtype, *, repeats: int) -> tuple[float, float]:
    """(ours, torch's) in milliseconds."""
    shape = (ROWS, HEADS, width, HEAD_WIDTH)
    query, key, value = (torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3))
    document = torch.arange(width) // DOCUMENT_TOKENS
    mask = (document[:, None] == document[None, :]).expand(ROWS, 1, width, width)
    incoming = torch.randn(shape, dtype=dtype)
    sides = (
        lambda: packed_attention(query, key, value, mask=mask),
        lambda: F.scaled_dot_product_attention(query, key, value, attn_mask=mask),
    )
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats + 1):
        for side, run in enumerate(sides):
            took = cpu_milliseconds(run, incoming)
            if turn:  # the first is the warm-up
                times[side].append(took)
    return statistics.median(times[0]), statistics.median(times[1])


def main() -> None:
    """Print a row per width and dtype."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    for width in (64, 128, 256):
        for dtype in (torch.bfloat16, torch.float32):
            ours, theirs = measure(width, dtype, repeats=options.repeats)
            name = str(dtype).removeprefix("torch.")
            print(f"S={width} {name}: ours {ours:.1f} ms, torch {theirs:.1f} ms, ratio {theirs / ours:.2f}")
            if options.save:
                shape = f"{ROWS}x{HEADS}x{width}x{HEAD_WIDTH}, documents of {DOCUMENT_TOKENS}"
                row = [datetime.date.today().isoformat(), commit.stdout.strip(), "attention.py --save"]
                row += ["packed attention, forward + backward", "torch scaled_dot_product_attention", shape]
                row += [f"CPU {torch.backends.cpu.get_cpu_capability()}, 1 thread, {name}", "CPU ms (lower is better)"]
                row += [f"{ours:.2f}", f"{theirs:.2f}", str(options.repeats)]
                with RESULTS.open("a", newline="") as file:
                    csv.writer(file).writerow(row)


if __name__ == "__main__":
    main()
