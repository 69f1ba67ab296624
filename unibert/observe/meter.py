"""Sums of one optimizer step, kept on the device and added over the ranks by one all-reduce.

How a step uses it:
    >>> meter.start()
    >>> with meter.waiting():
    >>>     micros = next(steps)
    >>> for micro in micros:
    >>>     meter.count(tokens=micro.tokens, places=micro.input_ids.numel(), samples=micro.documents)
    >>>     with meter.teaching():
    >>>         hints = teacher(micro)
    >>>     meter.add("loss/masked_lm", total, count, by_language=(totals_L, counts_L))
    >>> meter.note("optim/lr", rate)
    >>> reading = meter.reduce()  # reading.values goes to RunLogger.log

Letters: L languages, W ranks, N names of sums.
"""

from __future__ import annotations

import resource
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from unibert.data.batches import Batch


@dataclass(frozen=True)
class Reading:
    """What a step came to, over all ranks.

    Attributes:
        values: tag to number; a ratio whose count is 0 is absent.
        nonfinite: names of sums that are not finite.
        nonfinite_ranks: the ranks whose own sums were not finite.
    """

    values: dict[str, float]
    nonfinite: tuple[str, ...]
    nonfinite_ranks: tuple[int, ...]


class Meter:
    """Adds up a step; `reduce` gives its numbers and begins the next.

    Args:
        languages: codes, in the order of the language index.
        device: where the sums are kept, this rank's device.
        tokens: tokens trained on before (from the checkpoint).
        samples: documents trained on before.
        flops_per_token: by observe/flops.py; with `peak_flops` it gives speed/mfu_percent.
        peak_flops: peak FLOP/s of one device, None when it is not known.

    Attributes:
        tokens: tokens of the run so far, over all ranks.
        samples: documents of the run so far.
    """

    def __init__(
        self,
        *,
        languages: Sequence[str],
        device: torch.device,
        tokens: int = 0,
        samples: int = 0,
        flops_per_token: float | None = None,
        peak_flops: float | None = None,
    ) -> None:
        self.languages, self.device = tuple(languages), device
        self.tokens, self.samples = tokens, samples
        self._flops = (flops_per_token, peak_flops)
        self._grouped = dist.is_available() and dist.is_initialized()
        self._rank = dist.get_rank() if self._grouped else 0
        self._world = dist.get_world_size() if self._grouped else 1
        self.start()

    def start(self) -> None:
        """Forget what was added and start the clock: the top of a step, before its batch is asked for."""
        self._sums: dict[str, Tensor] = {}  # [2]: total, count
        self._by_language: dict[str, Tensor] = {}  # [2, L]
        self._notes: dict[str, float] = {}
        self._tokens = self._places = self._samples = 0
        self._waited = self._taught = 0.0
        self._teacher_ran = False
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._began = time.perf_counter()

    def add(
        self,
        name: str,
        total: Tensor | float,
        count: Tensor | float = 1.0,
        *,
        by_language: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Add to the ratio sum(total) / sum(count) over micro-batches and ranks; every rank adds the same names.

        Nothing waits for the device here. Sums are float64, so their order does not show in the last digits.

        Args:
            name: a tag, such as "loss/masked_lm".
            total: sum of the terms, a scalar.
            count: number of the terms.
            by_language: (totals_L, counts_L) by language index, which become `<group>_by_language/<code>`.
        """
        if name not in self._sums:
            self._sums[name] = torch.zeros(2, dtype=torch.float64, device=self.device)
        for place, part in enumerate((total, count)):
            self._sums[name][place] += part.detach().double() if isinstance(part, Tensor) else part
        if by_language is not None:
            group = f"{name.partition('/')[0]}_by_language"
            both = torch.stack([part.detach().to(self.device, torch.float64) for part in by_language])
            before = self._by_language.get(group)
            self._by_language[group] = both if before is None else before + both

    def note(self, name: str, value: float) -> None:
        """A number that is the same on every rank (a rate, a weight, a gradient norm); it is not summed."""
        self._notes[name] = float(value)

    def count(self, *, tokens: int, places: int, samples: int) -> None:
        """Count a micro-batch: tokens without padding, places with it, documents."""
        self._tokens += tokens
        self._places += places
        self._samples += samples

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent here is waiting for data."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._waited += time.perf_counter() - began

    @contextmanager
    def teaching(self) -> Iterator[None]:
        """Time spent here, on the device where there is one, is the teacher's."""
        self._teacher_ran = True
        if self.device.type == "cuda":  # kernels run later than the host asks for them: let the device say when
            pair = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            pair[0].record()
            yield
            pair[1].record()
            self._events.append(pair)
            return
        began = time.perf_counter()
        yield
        self._taught += time.perf_counter() - began

    def reduce(self) -> Reading:
        """One all-reduce over the ranks, the step's numbers, and a fresh start. Every rank calls it.

        Raises:
            AssertionError: the ranks did not add the same names.
        """
        names, groups = sorted(self._sums), sorted(self._by_language)
        vector = torch.cat(self._parts(names, groups))
        if self._grouped:
            dist.all_reduce(vector)
        numbers = iter(vector.tolist())

        def take(count: int) -> list[float]:
            return [next(numbers) for _ in range(count)]

        check, tokens, places, samples, wall, waited, taught = take(7)
        if check != self._world * _checksum(names, groups):
            raise AssertionError(f"rank {self._rank} added {names} and {groups}; another rank added other names")
        memory, broken = take(self._world), take(self._world)
        sums = {name: take(2) for name in names}
        by_language = {group: (take(len(self.languages)), take(len(self.languages))) for group in groups}

        self.tokens += round(tokens)
        self.samples += round(samples)
        values = {name: total / count for name, (total, count) in sums.items() if count}
        for group, (totals, counts) in by_language.items():
            codes = zip(self.languages, totals, counts, strict=True)
            values |= {f"{group}/{code}": total / count for code, total, count in codes if count}
        values |= self._notes | self._speed(tokens, places, wall, waited, taught)
        values |= {"memory/peak_gib": max(memory) / 2**30}
        values |= {"progress/tokens": float(self.tokens), "progress/samples": float(self.samples)}
        nonfinite = [name for name, (total, count) in sums.items() if not _finite(total, count)]
        nonfinite += [name for name, value in self._notes.items() if not _finite(value)]
        reading = Reading(values, tuple(nonfinite), tuple(rank for rank, flag in enumerate(broken) if flag))
        self.start()
        return reading

    def _parts(self, names: list[str], groups: list[str]) -> list[Tensor]:
        """The vector's pieces: 7 sums of the host, 2 W slots of which a rank fills its own, 2 N, 2 L per group."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # the clock stops when the device has finished the step
            self._taught += sum(first.elapsed_time(last) for first, last in self._events) / 1000
        wall = time.perf_counter() - self._began
        host = [_checksum(names, groups), self._tokens, self._places, self._samples, wall, self._waited, self._taught]
        device = [self._sums[name] for name in names] + [self._by_language[group].flatten() for group in groups]
        slots_2W = torch.zeros(2, self._world, dtype=torch.float64, device=self.device)
        slots_2W[0, self._rank] = peak_memory_bytes(self.device)
        if device:
            slots_2W[1, self._rank] = (~torch.isfinite(torch.cat(device))).any()
        return [torch.tensor(host, dtype=torch.float64, device=self.device), slots_2W.flatten(), *device]

    def _speed(self, tokens: float, places: float, wall: float, waited: float, taught: float) -> dict[str, float]:
        """The speed/ tags; the times are sums over ranks."""
        per_second = tokens * self._world / wall
        values = {
            "speed/tokens_per_second": per_second,
            "speed/tokens_per_second_per_device": per_second / self._world,
            "speed/data_wait_percent": 100 * waited / wall,
        }
        if self._teacher_ran:
            values["speed/teacher_percent"] = 100 * taught / wall
        if places:
            values["speed/padding_percent"] = 100 * (1 - tokens / places)
        flops_per_token, peak_flops = self._flops
        if flops_per_token and peak_flops:
            values["speed/mfu_percent"] = 100 * flops_per_token * per_second / (self._world * peak_flops)
        return values


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory this process has had: allocated on the device, or resident when the device is the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def _checksum(names: list[str], groups: list[str]) -> float:
    """A number of the names; 32 bits, so that its sum over ranks is exact in float64."""
    return float(zlib.crc32("\n".join([*names, "", *groups]).encode()))


def _finite(*values: float) -> bool:
    return all(abs(value) < float("inf") for value in values)


def sum_by_language(per_target_M: Tensor, batch: Batch, *, languages: int) -> tuple[Tensor, Tensor]:
    """Sum and count [L] of a value per masked target, by the language of its document."""
    language_M = batch.language[batch.document.flatten()[batch.target_positions]]
    sums_L = torch.zeros(languages, dtype=torch.float64, device=per_target_M.device)
    sums_L.index_add_(0, language_M, per_target_M.double())
    return sums_L, torch.bincount(language_M, minlength=languages).double()
