"""What bf16 is worth on a CPU with AMX: the head's losses, the attention maps and their products, against fp32.

    python -m benchmarks.bf16 [--save] [--quick] [--repeats N]

CPU seconds of one thread, forward and backward, interleaved, medians. The head is K1 over 384 and 768 wide inputs of 64
targets and 119,547 pieces; the maps are the KL of 12 heads of 32 and 64 wide queries and keys over a document of 512
tokens, which is computed in fp32 whatever is given. What bf16 products alone would gain there is the last row, and what
they would lose is printed: the error of the distance when the scores are rounded to bf16.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.rows import save
from kernels.attention_maps import attention_distance
from kernels.head import Rows, mlm_distill_head

DTYPES = torch.bfloat16, torch.float32


def drawn(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def head(dtype: torch.dtype, *, targets: int, vocabulary: int) -> Callable[[], object]:
    """Both losses and all gradients."""
    student, teacher = (
        [x.to(dtype) for x in (drawn(targets, width, seed=width), drawn(vocabulary, width, seed=1, scale=0.02))]
        for width in (384, 768)
    )
    student = [x.requires_grad_() for x in student]
    wanted = torch.randint(vocabulary, (targets,), generator=torch.Generator().manual_seed(0))

    def step() -> object:
        found = mlm_distill_head(Rows(*student), targets_M=wanted, teacher=Rows(*teacher), temperature=2.0)
        return torch.autograd.grad(found.cross_entropy + found.divergence, student)

    return step


def queries_and_keys(tokens: int) -> tuple[list[Tensor], list[Tensor]]:
    return tuple([drawn(1, 12, tokens, width, seed=width + n) for n in range(2)] for width in (32, 64))  # type: ignore[return-value]


def maps(dtype: torch.dtype, *, tokens: int) -> Callable[[], object]:
    """The KL of the maps, and its gradients."""
    student, teacher = ([x.to(dtype) for x in side] for side in queries_and_keys(tokens))
    student = [x.requires_grad_() for x in student]
    document_RS = torch.zeros(1, tokens, dtype=torch.int64)

    def step() -> object:
        total = attention_distance(tuple(student), tuple(teacher), document_RS=document_RS, form="kl")
        return torch.autograd.grad(total, student)

    return step


def products(dtype: torch.dtype, *, tokens: int) -> Callable[[], object]:
    """Of both models' scores, and of the gradients by queries and keys."""
    (q, k), (q_t, k_t) = ([x[0].to(dtype) for x in side] for side in queries_and_keys(tokens))

    def step() -> object:
        scores = q @ k.mT
        return q_t @ k_t.mT, scores @ k, scores.mT @ q

    return step


def lost(tokens: int) -> float:
    """Relative error of the KL when bf16 products give the scores of bf16 queries and keys."""
    sides = [[x.bfloat16() for x in side] for side in queries_and_keys(tokens)]
    found = []
    for dtype in (torch.bfloat16, torch.float64):
        s, t = ((q.to(dtype) @ k.to(dtype).mT).double() / q.shape[-1] ** 0.5 for q, k in sides)
        found.append((t.softmax(-1) * (t.log_softmax(-1) - s.log_softmax(-1))).sum())
    return float((found[0] / found[1] - 1).abs())


def measure(make: Callable[..., Callable[[], object]], *, repeats: int, **sizes: int) -> tuple[float, float]:
    """CPU ms in bf16 and in fp32."""
    steps = [make(dtype, **sizes) for dtype in DTYPES]
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats + 1):
        for step, seen in zip(steps, times, strict=True):
            began = time.process_time()
            step()
            if turn:  # the first is the warm-up
                seen.append(1000 * (time.process_time() - began))
    return statistics.median(times[0]), statistics.median(times[1])


def main(words: list[str] | None = None) -> list[list[object]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="append the rows to results.csv")
    parser.add_argument("--quick", action="store_true", help="small sizes, which show that it runs and nothing else")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    targets, vocabulary, tokens = (4, 50, 16) if options.quick else (64, 119_547, 512)
    print(f"the KL is {lost(tokens):.1e} off when bf16 products give the scores")
    cases = (
        ("K1 head, bf16", head, {"targets": targets, "vocabulary": vocabulary}, f"{targets} targets, V {vocabulary}"),
        ("attention KL, bf16", maps, {"tokens": tokens}, f"1x12x{tokens}, 32 from 64 wide"),
        ("products of attention KL, bf16", products, {"tokens": tokens}, f"1x12x{tokens}, 32 from 64 wide"),
    )
    device, rows = f"CPU {torch.backends.cpu.get_cpu_capability()}, 1 thread, machine shared", []
    for what, make, sizes, shape in cases:
        ours, plain = measure(make, repeats=options.repeats, **sizes)
        unit = "CPU ms (lower is better)"
        rows.append([what, "the same in fp32", shape, device, unit, f"{ours:.2f}", f"{plain:.2f}", options.repeats])
        print(*rows[-1], f"ratio {plain / ours:.2f}", sep=" | ", flush=True)
    if options.save:
        save([["bf16.py", *row] for row in rows])
    return rows


if __name__ == "__main__":
    main()
