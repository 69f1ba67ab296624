"""Seeking in the stream of documents: the first batch of a fresh sampler at a far position.

    python benchmarks/sampler.py [--save]

CPU milliseconds of one thread (the wall time where nothing else runs) from nothing to a drawn batch, which is what
a resumed run waits for, at 200 random positions among the first 10^9 samples, and tracemalloc's peak of such seeks.
Beside it the same at position 0, interleaved: what seeking costs is the difference, and there should be none.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import random
import statistics
import subprocess
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from unibert.data.sampler import Sampler
from unibert.plan import smoothed_shares

STREAM, LANGUAGES, BATCH, SEEKS = 10**9, 107, 256, 200
# Documents of each language, 10^9 in all; the largest has 10^7 times those of the smallest.
DOCUMENTS = np.ceil(np.logspace(0, 7, LANGUAGES) * (STREAM / np.logspace(0, 7, LANGUAGES).sum())).astype(np.int64)
SHARES = smoothed_shares(DOCUMENTS, 0.3)
RESULTS = Path(__file__).with_name("results.csv")


def seek(position: int) -> None:
    """A fresh sampler and one batch."""
    Sampler(samples_per_language=DOCUMENTS, shares=SHARES, seed=1).draw(position, position + BATCH)


def milliseconds(position: int) -> float:
    began = time.process_time()
    seek(position)
    return 1000 * (time.process_time() - began)


def peak_kib(position: int) -> float:
    tracemalloc.start()
    seek(position)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1024


def measure() -> list[tuple[str, str, float, float]]:
    """(what, unit, at a far position, at position 0)."""
    chance = random.Random(1)
    positions = [chance.randrange(STREAM) for _ in range(SEEKS)]
    seek(0)  # warm-up
    times = [(milliseconds(position), milliseconds(0)) for position in positions]
    peaks = [(peak_kib(position), peak_kib(0)) for position in positions[:20]]

    def row(name: str, unit: str, pairs: Sequence[tuple[float, float]], figure: Callable[[Sequence[float]], float]):
        far, near = zip(*pairs, strict=True)
        return f"seek and draw a batch, {name}", f"{unit} (lower is better)", figure(far), figure(near)

    return [
        row("median", "CPU ms", times, statistics.median),
        row("slowest", "CPU ms", times, max),
        row("peak memory", "KiB", peaks, max),
    ]


def main() -> None:
    """Print a row per figure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    shape = f"{STREAM:.0e} samples, {LANGUAGES} languages, batch {BATCH}"
    device = f"CPU, 1 of {os.cpu_count()} cores"
    for what, unit, far, near in measure():
        print(f"{what}: {far:.2f} at a far position, {near:.2f} at position 0, {unit}")
        if options.save:
            row = [datetime.date.today().isoformat(), commit.stdout.strip(), "sampler.py --save", what, "at position 0"]
            row += [shape, device, unit, f"{far:.2f}", f"{near:.2f}", str(20 if "memory" in what else SEEKS)]
            with RESULTS.open("a", newline="") as file:
                csv.writer(file).writerow(row)


if __name__ == "__main__":
    main()
