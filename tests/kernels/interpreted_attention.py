"""K2's Triton programs in Triton's interpreter. Run by test_triton.py in a process of its own, with TRITON_INTERPRET=1.

bf16 is left out: the interpreter's products in it are silently wrong. A test is kept under 300 steps of a tile.
"""

import importlib.util
import os
from pathlib import Path

import pytest
import torch
from attention_cases import check, example

from kernels import attention_launches, distill_attention, launch, triton_attention
from kernels.launch import Tile

assert os.environ.get("TRITON_INTERPRET") == "1"
FP32, FP16 = 2e-6, 2e-3


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """Programs start on a CPU, with one small tile."""
    monkeypatch.setattr(distill_attention, "is_fused", lambda *_: True)
    small = {key: {128: Tile(32, 32, 4, 1)} for key in attention_launches.TILES}
    monkeypatch.setattr(attention_launches, "TILES", small)
    started = []
    start = launch.Launch.start
    monkeypatch.setattr(launch.Launch, "start", lambda self: started.append(self.program) or start(self))
    yield
    assert started, "nothing ran in Triton"


@pytest.mark.parametrize(
    ("dtype", "tolerance", "use", "values"),
    [
        (torch.float32, FP32, ("out", "kl"), True),
        (torch.float16, FP16, ("out", "kl"), True),
        (torch.float32, FP32, ("kl",), True),
        (torch.float32, FP32, ("out",), True),
        (torch.float32, FP32, ("kl",), False),
    ],
)
def test_values_and_gradients_equal_autograds(dtype, tolerance, use, values):
    shape = {"lengths": [40, 3, 0, 1], "dtype": dtype}
    check(distill_attention.distill_attention, tolerance=tolerance, use=use, values=values, **shape)


@pytest.mark.parametrize(("width", "teacher_width"), [(8, 48), (128, 16), (32, 64)])
def test_unequal_widths(width, teacher_width):
    shape = {"width": width, "teacher_width": teacher_width, "lengths": [37, 5], "heads": 1}
    check(distill_attention.distill_attention, dtype=torch.float32, tolerance=FP32, **shape)


def test_queries_with_themselves():
    options = {"use": ("kl",), "values": False, "relations": True, "lengths": [40, 9]}
    check(distill_attention.distill_attention, dtype=torch.float32, tolerance=FP32, **options)


def test_very_sharp_maps_and_large_incoming_gradients_stay_finite():
    student, teacher, places = example(lengths=[40, 3], dtype=torch.float32)
    student = [(60 * x.detach()).requires_grad_() for x in student]
    found = distill_attention.distill_attention(tuple(student), tuple(teacher), **places)
    made = torch.autograd.grad(1e6 * found.kl_HT.sum() + found.out.sum(), student)
    assert all(x.isfinite().all() for x in (*found, *made))


WRONG = {
    "kl without the log-sum-exps": ("cross / sum_t - all_t + all_s", "cross / sum_t"),
    "cross term not faded with its maximum": ("cross * fade_t", "cross"),
    "maps the wrong way round": ("(p_s - p_t) * weight[None, :]", "(p_t - p_s) * weight[None, :]"),
    "columns outside of the document": ("tl.where(seen[None, :], tl.dot(q, tl.trans(k)) * scale_s, HIDDEN)",
                                        "tl.dot(q, tl.trans(k)) * scale_s"),
    "delta left out": ("- inner[:, None]", ""),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_program_is_caught(fault, tmp_path, monkeypatch):
    source, (right, wrong) = Path(triton_attention.__file__).read_text(), WRONG[fault]
    assert source.count(right) == 1
    path = tmp_path / "wrong.py"
    path.write_text(source.replace(right, wrong))
    spec = importlib.util.spec_from_file_location("wrong", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("forward", "backward_keys", "backward_queries"):
        monkeypatch.setattr(triton_attention, name, getattr(module, name))
    with pytest.raises(AssertionError, match="from autograd's"):
        check(distill_attention.distill_attention, dtype=torch.float32, tolerance=FP32, lengths=[40], heads=1)
