"""One launch of a Triton program, told before it is made, so that it can be compiled without a GPU as it would be run.

Triton is optional: it comes with torch's CUDA builds. Nothing here imports it except `available`.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Tile(NamedTuple):
    """How much of the work one step of one program takes."""

    rows: int
    columns: int
    warps: int
    stages: int


class Launch(NamedTuple):
    """A program and everything that it is started with."""

    program: Any
    """A function under triton.jit."""
    grid: tuple[int, ...]
    arguments: dict[str, Tensor | int | float]
    constants: dict[str, Any]
    """Compiled into it."""
    tile: Tile

    def start(self) -> None:
        with torch.cuda.device_of(next(x for x in self.arguments.values() if isinstance(x, Tensor))):
            self.program[self.grid](**self.arguments, **self.constants, **self.options)

    @property
    def options(self) -> dict[str, Any]:
        """The compiler's."""
        return {"num_warps": self.tile.warps, "num_stages": self.tile.stages, "enable_fp_fusion": True}


@cache
def available() -> bool:
    """Whether Triton is installed."""
    return find_spec("triton") is not None


def takes(*tensors: Tensor) -> bool:
    """Whether Triton's programs are meant for these: in half precision, of one dtype, on a GPU with bf16 products."""
    first = tensors[0]
    if not first.is_cuda or torch.version.cuda is None or not available():
        return False
    if first.dtype not in (torch.float16, torch.bfloat16) or any(x.dtype != first.dtype for x in tensors):
        return False
    return torch.cuda.get_device_capability(first.device) >= (8, 0)


def generation(device: torch.device) -> int:
    """80, 90 or 100: whose tiles are taken. Other GPUs have little shared memory, as some of the first have."""
    major = torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else 9
    return {9: 90, 10: 100}.get(major, 80)


def padded(width: int) -> int:
    """The power of two that holds it, at least 16, the least that a tensor core multiplies."""
    return max(16, 1 << (width - 1).bit_length())
