"""Every kernel on one GPU inside eight minutes: right in bf16, how fast, and the whole step against its floor.

    python -m benchmarks.gpu_kernels [--save] [--quick] [--repeats N]

Right: losses and gradients of bf16 inputs against autograd in float64 on the same numbers, at most 1e-2 of their norm
apart; the run ends where they are not. Fast: forward and backward, median, against eager PyTorch and, where it is
installed, Liger's fused linear JSD (beta = 0, the forward KL), each with its peak memory; a side that does not fit is
shown as such. The step is that of distillation_step.py in bf16; its floor is the arithmetic that nothing can
spare, at the rate of a large bf16 product in the same run. Without a GPU only --quick is of use: it shows that the
script runs.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.distillation_step import MASKED, Sides, full_rows
from benchmarks.rows import save
from kernels import reference
from kernels.attention_maps import Form, attention_distance
from kernels.head import Rows, mlm_distill_head

MOST_APART = 1e-2
TEMPERATURE = 2.0
FACTORS = (0.5, 0.5)
Pair = tuple[Tensor, Tensor]


class Device:
    """Where it runs, and its clock."""

    def __init__(self) -> None:
        self.cuda = torch.cuda.is_available()
        self.at = torch.device("cuda" if self.cuda else "cpu")
        self.name = torch.cuda.get_device_name() if self.cuda else "CPU, no GPU"

    def randn(self, *shape: int, seed: int = 0) -> Tensor:
        generator = torch.Generator(self.at).manual_seed(seed)
        return torch.randn(shape, generator=generator, device=self.at).to(torch.bfloat16)

    def measure(self, call: Callable[[], object], *, repeats: int) -> tuple[float, float]:
        """Milliseconds, and MiB at the peak beside what was there; NaN twice where memory does not suffice."""
        try:
            call()
            seen, before = [], torch.cuda.memory_allocated() if self.cuda else 0
            if self.cuda:
                torch.cuda.reset_peak_memory_stats()
            for _ in range(repeats):
                self.wait()
                began = time.perf_counter()
                call()
                self.wait()
                seen.append(1000 * (time.perf_counter() - began))
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            return float("nan"), float("nan")
        peak = torch.cuda.max_memory_allocated() - before if self.cuda else 0
        return statistics.median(seen), peak / 2**20

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()


# --- K1: the head -----------------------------------------------------------------------------------------------------


class Head:
    def __init__(self, device: Device, *, rows: int, width: int, teacher_width: int, vocabulary: int) -> None:
        def side(size: int, seed: int) -> list[Tensor]:
            shapes = (rows, size), (vocabulary, size), (vocabulary,)
            return [device.randn(*shape, seed=seed + i) / (1, size**0.5, 1)[i] for i, shape in enumerate(shapes)]

        self.student, self.teacher = [x.requires_grad_() for x in side(width, 0)], side(teacher_width, 5)
        self.targets = torch.randint(vocabulary, (rows,), device=device.at)
        self.shape = f"M {rows}, {width} from {teacher_width}, V {vocabulary}"

    def ours(self) -> tuple[Tensor, ...]:
        given = {"targets_M": self.targets, "temperature": TEMPERATURE, "factors": FACTORS}
        found = mlm_distill_head(Rows(*self.student), teacher=Rows(*self.teacher), **given)
        total = FACTORS[0] * found.cross_entropy + FACTORS[1] * found.divergence
        return total.detach(), *torch.autograd.grad(total, self.student)

    def eager(self, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, ...]:
        student = [x.detach().to(dtype).requires_grad_() for x in self.student]
        given = {"targets_M": self.targets, "temperature": TEMPERATURE, "kind": "forward_kl"}
        ce, kd = reference.mlm_distill_head(student, teacher=[x.to(dtype) for x in self.teacher], **given)
        total = FACTORS[0] * ce + FACTORS[1] * kd
        return total.detach(), *torch.autograd.grad(total, student)

    def liger(self) -> tuple[Tensor, ...]:
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss  # type: ignore[import-not-found]

        loss = LigerFusedLinearJSDLoss(*FACTORS, beta=0.0, temperature=TEMPERATURE)
        (x, w, b), (x_t, w_t, b_t) = self.student, self.teacher
        return torch.autograd.grad(loss(x, w, x_t, w_t, self.targets, b, b_t), self.student)


# --- K2 and K3: attention ---------------------------------------------------------------------------------------------


class Attention:
    def __init__(self, device: Device, form: Form, *, rows: int, length: int, heads: int = 12) -> None:
        def side(width: int, seed: int) -> Pair:
            return device.randn(rows, heads, length, width, seed=seed), device.randn(
                rows, heads, length, width, seed=seed + 1
            )

        self.student, self.teacher, self.form = [x.requires_grad_() for x in side(32, 0)], side(64, 5), form
        self.document_RS = torch.arange(rows, device=device.at)[:, None].repeat(1, length)
        self.shape = f"{rows}x{heads}x{length}, 32 from 64 wide"

    def ours(self) -> tuple[Tensor, ...]:
        q, k = self.student
        total = attention_distance((q, k), self.teacher, document_RS=self.document_RS, form=self.form)
        return total.detach(), *torch.autograd.grad(total, self.student)

    def eager(self, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, ...]:
        student = [x.detach().to(dtype).requires_grad_() for x in self.student]
        s, t = (q @ k.mT / q.shape[-1] ** 0.5 for q, k in (student, [x.to(dtype) for x in self.teacher]))
        if self.form == "kl":
            total = F.kl_div(s.log_softmax(-1), t.log_softmax(-1), reduction="sum", log_target=True) / s.shape[1]
        else:
            total = (s - t).square().sum() / (s.shape[1] * s.shape[2])
        return total.detach(), *torch.autograd.grad(total, student)


# --- the table --------------------------------------------------------------------------------------------------------


def check(case: Head | Attention) -> float:
    """How far the furthest of the loss and its gradients is from float64, in units of its norm."""
    pairs = zip(case.ours(), case.eager(torch.float64), strict=True)
    apart = max(float((ours.double() - right).norm() / right.norm()) for ours, right in pairs)
    assert apart <= MOST_APART, f"{type(case).__name__} {case.shape}: {apart:.1e} from float64"
    return apart


def kernels(device: Device, *, quick: bool, repeats: int) -> Iterator[list[object]]:
    """Rows for results.csv."""
    small = {"rows": 64, "width": 48, "teacher_width": 96, "vocabulary": 500}
    heads = [(512, 8_192, 9_830, 119_547), (512, 8_192, 19_660, 250_000)]  # checked rows and V; timed rows and V
    sizes = {"width": 384, "teacher_width": 768}
    for rows, vocabulary, timed, whole in [(0, 0, 0, 0)] if quick else heads:
        checked = Head(device, **(small if quick else sizes | {"rows": rows, "vocabulary": vocabulary}))
        case = checked if quick else Head(device, **sizes, rows=timed, vocabulary=whole)
        yield from compared("K1 head, CE and KL", device, checked, case, repeats=repeats)
    for name, form in (("K2 attention KL", "kl"), ("K3 raw-score MSE", "scores_mse")):
        for length, rows in [(16, 2)] if quick else [(128, 256), (512, 64)]:
            checked = Attention(device, form, rows=2, length=length)
            case = checked if quick else Attention(device, form, rows=rows, length=length)
            yield from compared(name, device, checked, case, repeats=repeats)


def compared(
    name: str, device: Device, checked: Head | Attention, case: Head | Attention, *, repeats: int
) -> Iterator[list[object]]:
    """Rows of one kernel: its error, and its time and memory beside each of the others'."""
    where = f"{device.name}, bf16"
    error = "error in units of the norm (lower is better)"
    yield [name, "float64", checked.shape, where, error, f"{check(checked):.1e}", 0, 1]
    ours = device.measure(case.ours, repeats=repeats)
    others: dict[str, Callable[[], object]] = {"eager PyTorch": case.eager}
    if isinstance(case, Head) and device.cuda and importlib.util.find_spec("liger_kernel"):
        others["Liger fused linear JSD"] = case.liger
    for against, call in others.items():
        theirs = device.measure(call, repeats=repeats)
        for unit, mine, other in zip(("ms", "MiB at the peak"), ours, theirs, strict=True):
            yield [
                name,
                against,
                case.shape,
                where,
                f"{unit} (lower is better)",
                f"{mine:.2f}",
                f"{other:.2f}",
                repeats,
            ]


def step(device: Device, *, quick: bool, repeats: int) -> Iterator[list[object]]:
    """The whole step, in milliseconds for a million tokens, beside its floor and eager attention's."""
    layers, width = (2, 48) if quick else (6, 384)
    for length, rows, vocabulary in [(16, 2, 500)] if quick else [(128, 256, 119_547), (512, 64, 250_000)]:
        sides = Sides(layers=layers, width=width, vocabulary=vocabulary, longest=length)
        for model in (sides.student, sides.teacher):
            model.to(device.at, torch.bfloat16)
        batch = full_rows(rows, length, vocabulary=vocabulary).to(device.at)
        scale = 1e6 / batch.tokens
        ours, theirs = (
            scale * device.measure(partial(sides.step, side, batch), repeats=repeats)[0] for side in ("ours", "eager")
        )
        work = flops(layers=layers, width=width, length=length, vocabulary=vocabulary) * 1e6
        floor = work / rate(device, quick=quick) * 1000
        shape = f"{layers}x{width} from {2 * layers}x{2 * width}, V {vocabulary}, {rows}x{length}"
        what, unit = "step: masked LM + logits KL + attention KL", "ms for 1M tokens (lower is better)"
        for against, other in (
            ("floor: its products alone", floor),
            ("eager maps and all logits", theirs),
        ):
            yield [what, against, shape, f"{device.name}, bf16", unit, f"{ours:.1f}", f"{other:.1f}", repeats]


def flops(*, layers: int, width: int, length: int, vocabulary: int) -> float:
    """Of a token, in products that nothing spares: a map's scores of either model are made once in each direction."""

    def encoder(layers: int, width: int) -> int:
        return layers * 2 * (12 * width**2 + 2 * length * width)

    student, teacher = encoder(layers, width), encoder(2 * layers, 2 * width)
    head = MASKED * 2 * (2 * width + 3 * width) * vocabulary  # the teacher's, of twice the width; the student's thrice
    maps = layers * 2 * length * (2 * 2 * width + 3 * width)
    return 3 * student + teacher + head + maps


def rate(device: Device, *, quick: bool) -> float:
    """Operations a second of a large bf16 product, here and now."""
    size = 256 if quick else 8192
    a, b = device.randn(size, size), device.randn(size, size, seed=1)
    return 2 * size**3 / (device.measure(lambda: a @ b, repeats=10)[0] / 1000)


def main(words: list[str] | None = None) -> list[list[object]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="append the rows to results.csv")
    parser.add_argument("--quick", action="store_true", help="small sizes, which show that it runs and nothing else")
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args(words)
    device, repeats = Device(), 1 if options.quick else options.repeats
    if not device.cuda and not options.quick:
        parser.error("there is no GPU here; --quick runs anywhere")
    rows = []
    for part in (kernels, step):
        for row in part(device, quick=options.quick, repeats=repeats):
            rows.append(row)
            print(*rows[-1], sep=" | ", flush=True)
    if options.save:
        save([["gpu_kernels.py", *row] for row in rows])
    return rows


if __name__ == "__main__":
    main()
