"""K1's Triton programs in Triton's interpreter. Run by test_triton.py in a process of its own, with TRITON_INTERPRET=1.

bf16 is left out: the interpreter's products in it are silently wrong. A test is kept under 300 steps of a tile.
"""

import importlib.util
import os
from pathlib import Path

import pytest
import torch

from kernels import head, head_launches, launch, reference, triton_head
from kernels.head import Rows, mlm_distill_head
from kernels.launch import Tile

assert os.environ.get("TRITON_INTERPRET") == "1"
ROWS, WIDTH, TEACHER_WIDTH, VOCABULARY = 37, 24, 40, 150
FP32, FP16 = 3e-6, 3e-3

head.head_rows.register_kernel("cpu")(head_launches.by_panels)


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """One small tile, several parts of the vocabulary in `stats` and several panels of the gradient."""
    monkeypatch.setattr(head_launches, "TILES", {key: Tile(32, 32, 4, 1) for key in head_launches.TILES})
    monkeypatch.setattr(head_launches, "DEPTH", 16)
    monkeypatch.setattr(head_launches, "PROGRAMS", 4)
    monkeypatch.setattr(head_launches, "PANEL_ELEMENTS", 70 * ROWS)
    started = []
    start = launch.Launch.start
    monkeypatch.setattr(launch.Launch, "start", lambda self: started.append(self.program) or start(self))
    yield
    assert started, "nothing ran in Triton"


def example(*, dtype, biased=True, sharp=1.0):
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).mul(sharp).to(dtype)

    student = [drawn(ROWS, WIDTH), drawn(VOCABULARY, WIDTH), drawn(VOCABULARY)]
    teacher = [drawn(ROWS, TEACHER_WIDTH), drawn(VOCABULARY, TEACHER_WIDTH), drawn(VOCABULARY)]
    targets = torch.randint(VOCABULARY, (ROWS,), generator=generator)
    if not biased:
        student[2] = teacher[2] = None
    return student, teacher, targets


def check(*, tolerance, dtype=torch.float32, temperature=2.0, biased=True, labelled=True, factors=(0.3, 0.1)):
    """AssertionError where losses or gradients are further from autograd's in float64, in units of their norm."""
    student, teacher, targets = example(dtype=dtype, biased=biased)
    exact = [None if x is None else x.double().requires_grad_() for x in student]
    ours = [None if x is None else x.requires_grad_() for x in student]
    options = {"kind": "forward_kl", "temperature": temperature}
    wide = [None if x is None else x.double() for x in teacher]
    ce, kd = reference.mlm_distill_head(exact, targets_M=targets, teacher=wide, **options)
    found = mlm_distill_head(
        Rows(*ours), targets_M=targets if labelled else None, teacher=Rows(*teacher), factors=factors, **options
    )
    rows = torch.nn.functional.linear(*exact), torch.nn.functional.linear(*wide)
    assert int(found.agreed) == int((rows[0].argmax(-1) == rows[1].argmax(-1)).sum())
    by_label = 1.5 * factors[0] if labelled else 0.0
    expected = torch.autograd.grad(by_label * ce + 1.5 * factors[1] * kd, [x for x in exact if x is not None])
    total = 1.5 * (factors[0] * found.cross_entropy + factors[1] * found.divergence)
    made = torch.autograd.grad(total, [x for x in ours if x is not None])
    pairs = {
        "kd": (found.divergence, kd),
        **dict(zip(("dx", "dw", "db"), zip(made, expected, strict=True), strict=False)),
    }
    if labelled:
        pairs["ce"] = found.cross_entropy, ce
    for name, (got, right) in pairs.items():
        apart = (got.double() - right).norm() / right.norm()
        assert apart <= tolerance, f"{name} is {apart:.1e} from autograd's"


@pytest.mark.parametrize(
    "case",
    [
        {"tolerance": FP32},
        {"tolerance": FP16, "dtype": torch.float16},
        {"tolerance": FP32, "biased": False, "temperature": 1.0},
        {"tolerance": FP32, "labelled": False, "factors": (0.0, 1.0)},
    ],
)
def test_values_and_gradients_equal_autograds(case):
    check(**case)


def test_very_sharp_logits_stay_finite():
    student, teacher, targets = example(dtype=torch.float32, sharp=10.0)
    student = [x.requires_grad_() for x in student]
    found = mlm_distill_head(Rows(*student), targets_M=targets, teacher=Rows(*teacher), temperature=0.5)
    made = torch.autograd.grad(found.cross_entropy + found.divergence, student)
    assert all(x.isfinite().all() for x in (*found[:2], *made))


def test_no_gradient_is_made_for_what_is_frozen():
    student, teacher, targets = example(dtype=torch.float32)
    student[0].requires_grad_()
    found = mlm_distill_head(Rows(*student), targets_M=targets, teacher=Rows(*teacher))
    (found.cross_entropy + found.divergence).backward()
    assert student[0].grad is not None and student[1].grad is None


WRONG = {
    "one maximum not faded": ("sum_t = sum_t * fade_t", "sum_t = sum_t"),
    "temperature forgotten in the cross term": ("(t - s * per_temperature)", "(t - s)"),
    "label left out of the gradient": ("gradient - by_label, gradient)", "gradient, gradient)"),
    "columns beyond the vocabulary": ("tl.where(seen[None, :], s, HIDDEN)", "s"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_program_is_caught(fault, tmp_path, monkeypatch):
    source, (right, wrong) = Path(triton_head.__file__).read_text(), WRONG[fault]
    assert source.count(right) == 1
    path = tmp_path / "wrong.py"
    path.write_text(source.replace(right, wrong))
    spec = importlib.util.spec_from_file_location("wrong", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("stats", "panel"):
        monkeypatch.setattr(triton_head, name, getattr(module, name))
    with pytest.raises(AssertionError):
        check(tolerance=FP32)
