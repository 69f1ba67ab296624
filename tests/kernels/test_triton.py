"""Triton's programs without a GPU: run in its interpreter, and compiled ahead of time for three generations."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import ahead_of_time
import pytest
import torch
from ahead_of_time import compiled, faults, launches

from kernels import attention_launches
from kernels.launch import Tile, padded

HERE = Path(__file__).parent
HAS_TRITON = importlib.util.find_spec("triton") is not None
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed (Linux, extra `dev`)")
ATTENTION = ["forward", "backward_keys", "backward_queries"]


@needs_triton
@pytest.mark.parametrize("which", ["attention", "head"])
def test_in_the_interpreter(which):
    """In a process of its own: the interpreter is chosen before the programs are imported."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", HERE / f"interpreted_{which}.py", "-p", "no:cacheprovider"]
    found = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-4000:] + found.stderr[-2000:]
    assert " passed" in found.stdout and "skipped" not in found.stdout


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
    """So that something is compiled."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))


@needs_triton
@pytest.mark.parametrize("name", ATTENTION)
def test_machine_code_of_attention(name, fresh_cache, monkeypatch):
    """The sizes of the README's student and teacher on an H100; the whole grid is among the slow tests."""
    made = launches(90, lambda: ahead_of_time.attention(width=32, teacher_width=64), monkeypatch)
    assert faults(compiled(made[name], 90), 90) == []


@needs_triton
@pytest.mark.parametrize("name", ["stats", "panel"])
def test_machine_code_of_the_head(name, fresh_cache, monkeypatch):
    made = launches(90, ahead_of_time.head, monkeypatch)
    assert faults(compiled(made[name], 90), 90) == []


@needs_triton
def test_a_program_that_spills_is_caught(fresh_cache, monkeypatch):
    """A tile too large for sm_80's registers."""
    big = {key: {128: Tile(128, 64, 4, 1)} for key in attention_launches.TILES}
    monkeypatch.setattr(attention_launches, "TILES", big)
    made = launches(80, lambda: ahead_of_time.attention(width=32, teacher_width=64), monkeypatch)
    code = compiled(made["backward_keys"], 80)
    assert code.stack and any("stack" in fault for fault in faults(code, 80))


def test_what_is_missing_or_too_large_is_named():
    code = ahead_of_time.Code(registers=100, stack=0, shared=200 << 10, counts={"LDL": 0, "STL": 2, "HMMA": 0})
    assert faults(code, 80) == ["2 STL", "no HMMA", f"{200 << 10} bytes of shared memory"]


# Student's and teacher's head widths: every pair of the project's models, both ends, and one that is padded.
WIDTHS = [(32, 64), (64, 64), (16, 16), (128, 128), (16, 128), (128, 32), (48, 96)]


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize("architecture", [80, 90, 100])
@pytest.mark.parametrize(("width", "teacher_width"), WIDTHS)
@pytest.mark.parametrize("attends", [True, False])
@pytest.mark.parametrize("name", ATTENTION)
def test_all_machine_code_of_attention(name, attends, width, teacher_width, architecture, fresh_cache, monkeypatch):
    shape = {"width": width, "teacher_width": teacher_width, "attends": attends}
    made = launches(architecture, lambda: ahead_of_time.attention(**shape), monkeypatch)
    assert faults(compiled(made[name], architecture), architecture) == []


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize("architecture", [80, 90, 100])
@pytest.mark.parametrize(
    "shape",
    [{}, {"dtype": torch.float16}, {"biased": False}, {"width": 312, "teacher_width": 1024}],
    ids=["384 from 768", "fp16", "no bias", "312 from 1024"],
)
@pytest.mark.parametrize("name", ["stats", "panel"])
def test_all_machine_code_of_the_head(name, shape, architecture, fresh_cache, monkeypatch):
    made = launches(architecture, lambda: ahead_of_time.head(**shape), monkeypatch)
    assert faults(compiled(made[name], architecture), architecture) == []


def test_every_width_has_a_tile():
    for program in ATTENTION:
        for architecture in (80, 90, 100):
            found = [attention_launches.tile(program, architecture, width) for width in (16, 32, 64, 80, 128)]
            assert all(padded(tile.rows) == tile.rows and padded(tile.columns) == tile.columns for tile in found)
    with pytest.raises(ValueError, match="width 136"):
        attention_launches.tile("forward", 90, 136)


def test_without_a_gpu_the_plain_forms_are_taken():
    from kernels.distill_attention import is_fused

    query = torch.zeros(4, 2, 16, dtype=torch.bfloat16)
    assert not is_fused(query, query)
