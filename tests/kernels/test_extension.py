"""K3 in CUDA C++, without a GPU: its arithmetic on a CPU, its machine code, and its library in this torch."""

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kernels import extension
from kernels.attention_maps import by_slices

HERE = Path(__file__).parent / "cuda_on_cpu"
has_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on the path")
has_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not on the path")


def on_cpu(folder: Path, source: str) -> ctypes.CDLL:
    (folder / "gram_mse.cu").write_text(source)
    library = folder / "on_cpu.so"
    flags = ["-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", "-w", f"-I{folder}", f"-I{HERE}"]
    subprocess.run(["g++", *flags, "-o", library, HERE / "gram_mse.cpp"], check=True)
    return ctypes.CDLL(str(library))


def run(library: ctypes.CDLL, lengths: list[int], *, width: int, teacher_width: int, heads: int = 2):
    """(what the kernels find, what the plain form finds) of distance and gradients."""
    generator, tokens = torch.Generator().manual_seed(0), sum(lengths)
    parts = [torch.randn(tokens, heads, w, generator=generator) for w in (width, width, teacher_width, teacher_width)]
    starts = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)
    both, tiles = width + teacher_width, (width + teacher_width + 31) // 32
    grams = [torch.zeros(len(lengths), heads, both, both) for _ in range(2)]
    sums, made = torch.zeros(len(lengths), heads, tiles**2), [torch.zeros_like(part) for part in parts[:2]]
    pointers = [ctypes.c_void_p(x.data_ptr()) for x in (*parts, starts)]
    sizes = (len(lengths), heads, width, teacher_width, max(lengths))
    library.gram_mse(*pointers, *sizes, *(ctypes.c_void_p(x.data_ptr()) for x in (*grams, sums, *made)))
    expected = by_slices(*(x.double() for x in parts), starts, "scores_mse", False, True)
    lengths_D = torch.tensor(lengths)
    total = (sums.double().sum(-1) / lengths_D[:, None]).sum() / heads
    share = torch.repeat_interleave(lengths_D, lengths_D)[:, None, None] * heads
    return (total, *(x.double() / share for x in made)), expected


@has_compiler
def test_the_kernels_equal_the_plain_form_and_a_wrong_one_is_caught(tmp_path):
    source = extension.SOURCE.read_text()
    library = on_cpu(tmp_path, source)
    for lengths, width, teacher_width in (([40, 3], 16, 24), ([1], 4, 40)):
        found, expected = run(library, lengths, width=width, teacher_width=teacher_width)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    wrong = source.replace("(i < side.width ? 1.f : -1.f)", "1.f")
    assert wrong != source
    (tmp_path / "wrong").mkdir()
    found, expected = run(on_cpu(tmp_path / "wrong", wrong), [5], width=4, teacher_width=6)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@has_nvcc
@pytest.mark.parametrize("architecture", extension.ARCHITECTURES)
def test_machine_code_for_each_architecture_has_no_stack(tmp_path, architecture):
    cubin = tmp_path / "gram_mse.cubin"
    words = ["-std=c++20", "-O3", f"-arch=sm_{architecture}", "-cubin", "-Xptxas", "-v", "-DUNIBERT_KERNELS_ALONE"]
    found = subprocess.run(
        [extension.nvcc(), *words, "-o", cubin, extension.SOURCE], capture_output=True, text=True, check=True
    )
    stacks = [line for line in found.stderr.splitlines() if "bytes stack frame" in line]
    clean = "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"
    assert len(stacks) == 6 and all(line.strip() == clean for line in stacks)
    assert cubin.read_bytes()[:4] == b"\x7fELF"


@has_nvcc
def test_the_library_loads_beside_this_torch(tmp_path):
    library = extension.build(tmp_path, architectures=("80",))
    assert extension.build(tmp_path, architectures=("80",)) == library, "built once"
    code = "import sys, torch as t; t.ops.load_library(sys.argv[1]); print(t.ops.unibert.gram_mse_cuda.default._schema)"
    found = subprocess.run([sys.executable, "-c", code, library], capture_output=True, text=True, check=True)
    assert "int stream) -> (Tensor, Tensor, Tensor)" in found.stdout


def test_without_a_compiler_the_reason_is_told_and_nothing_breaks(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setenv("UNIBERT_KERNELS", str(tmp_path / "empty"))
    extension.loaded.cache_clear()
    assert not extension.loaded()
    assert "no nvcc" in caplog.text
    extension.loaded.cache_clear()
