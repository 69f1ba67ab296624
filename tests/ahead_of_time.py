"""Triton programs compiled without a GPU, exactly as they would be started on one, and what their machine code holds.

The compiler and the disassembler are in Triton's wheel. Launches are recorded from the real calls, so types, tiles,
constants and compiler options are those of a run.
"""

import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch

from kernels import attention_launches, head_launches
from kernels.launch import Launch

TENSOR_CORES = {80: "HMMA", 90: "HGMMA", 100: "UTCHMMA"}
SHARED_BYTES = {80: 99 << 10, 90: 227 << 10, 100: 227 << 10}  # of sm_86, the least of those that take sm_80's tiles
KINDS = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.int32: "*i32",
    torch.int64: "*i64",
    int: "i32",
    float: "fp32",
}


class Code(NamedTuple):
    registers: int
    stack: int
    shared: int
    counts: dict[str, int]


def launches(architecture: int, call, monkeypatch) -> dict[str, Launch]:
    """What a call would start on a GPU of that generation, by name."""
    recorded = []

    def record(self: Launch) -> None:
        recorded.append(self)

    monkeypatch.setattr(Launch, "start", record)
    for module in (attention_launches, head_launches):
        monkeypatch.setattr(module, "generation", lambda _: architecture)
    call()
    return {launch.program.__name__: launch for launch in recorded}


def attention(*, width: int, teacher_width: int, attends: bool = True, dtype=torch.bfloat16) -> None:
    """K2's three programs."""
    starts = torch.tensor([0, 4], dtype=torch.int32)
    query, key, value = (torch.zeros(4, 12, width, dtype=dtype) for _ in range(3))
    given = query, key, value if attends else None, *(torch.zeros(4, 12, teacher_width, dtype=dtype) for _ in range(2))
    found = attention_launches.forward(*given, starts, 4)
    attention_launches.backward(query if attends else None, found[1], *given, starts, found[0], *found[2:], 4)


def head(*, width: int = 384, teacher_width: int = 768, biased: bool = True, dtype=torch.bfloat16) -> None:
    """K1's two."""
    parts = []
    for size in (width, teacher_width):
        bias = torch.zeros(300, dtype=dtype) if biased else None
        parts += [torch.zeros(5, size, dtype=dtype), torch.zeros(300, size, dtype=dtype), bias]
    head_launches.by_panels(*parts, torch.zeros(5, dtype=torch.int64), "forward_kl", 2.0, [1.0, 0.5], [True] * 3)


def compiled(launch: Launch, architecture: int) -> Code:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = launch.program.arg_names
    kinds = {name: KINDS[x.dtype if isinstance(x, torch.Tensor) else type(x)] for name, x in launch.arguments.items()}
    signature = {name: "constexpr" if name in launch.constants else kinds[name] for name in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name].startswith("*")}
    source = ASTSource(fn=launch.program, signature=signature, constexprs=launch.constants, attrs=aligned)
    made = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=launch.options)
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.TemporaryDirectory() as scratch:
        cubin = Path(scratch) / "program.cubin"
        cubin.write_bytes(made.asm["cubin"])
        usage, machine = (
            subprocess.run([tool, flag, cubin], capture_output=True, text=True, check=True).stdout
            for flag in ("--dump-resource-usage", "--dump-sass")
        )
    found = {name: int(re.search(rf"\b{name}:(\d+)", usage)[1]) for name in ("REG", "STACK")}
    counts = {word: len(re.findall(rf"\b{word}\b", machine)) for word in ("LDL", "STL", TENSOR_CORES[architecture])}
    return Code(found["REG"], found["STACK"], made.metadata.shared, counts)


def faults(code: Code, architecture: int) -> list[str]:
    """What must not be in a program's machine code, or is missing in it."""
    found = [f"{code.counts[word]} {word}" for word in ("LDL", "STL") if code.counts[word]]
    if code.stack:
        found.append(f"a stack of {code.stack} bytes")
    if not code.counts[TENSOR_CORES[architecture]]:
        found.append(f"no {TENSOR_CORES[architecture]}")
    if code.shared > SHARED_BYTES[architecture]:
        found.append(f"{code.shared} bytes of shared memory")
    return found
