"""The distances of logits against their oracles, in float64 and by finite differences."""

import math

import pytest
import torch

from kernels import divergence as module
from kernels import reference
from kernels.divergence import divergence

KINDS = ["forward_kl", "reverse_kl", "js", "mse"]


def logits(*, rows: int = 7, vocabulary: int = 33, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64) * 3
    teacher = torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64) * 3
    return student.requires_grad_(), teacher


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("panel", [1, 70, 1 << 22])
def test_values_and_gradients_equal_the_reference(kind, temperature, panel, monkeypatch):
    monkeypatch.setattr(module, "PANEL_ELEMENTS", panel)
    student, teacher = logits()
    incoming = torch.linspace(-1, 2, 7, dtype=torch.float64)
    expected = reference.divergence(student, teacher, kind=kind, temperature=temperature)
    (expected_gradient,) = torch.autograd.grad((expected * incoming).sum(), student)
    found = divergence(student, teacher, kind=kind, temperature=temperature)
    (gradient,) = torch.autograd.grad((found * incoming).sum(), student)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind):
    student, teacher = logits(rows=3, vocabulary=9)
    assert torch.autograd.gradcheck(lambda z: divergence(z, teacher, kind=kind, temperature=1.5), student)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_logits_have_no_loss_and_no_gradient(kind):
    student, _ = logits()
    loss = divergence(student, student.detach(), kind=kind, temperature=2.0)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert loss.abs().max() < 1e-12
    assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows(kind):
    student = torch.zeros(0, 5, requires_grad=True)
    loss = divergence(student, torch.zeros(0, 5), kind=kind).sum()
    loss.backward()
    assert loss.item() == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_stays_near_float64(kind):
    student, teacher = logits(rows=64, vocabulary=500)
    low = divergence(student.to(torch.bfloat16), teacher.to(torch.bfloat16), kind=kind, temperature=2.0)
    exact = reference.divergence(
        student.to(torch.bfloat16).double(), teacher.to(torch.bfloat16).double(), kind=kind, temperature=2.0
    )
    torch.testing.assert_close(low.double(), exact, rtol=1e-4, atol=1e-4)


def test_two_vocabularies_are_refused():
    with pytest.raises(ValueError, match="differ"):
        divergence(torch.zeros(2, 5), torch.zeros(2, 6))


def test_js_is_bounded_and_finite_where_the_two_never_meet():
    student = torch.tensor([[300.0, -300.0, 0.0]], requires_grad=True)
    loss = divergence(student, -student.detach(), kind="js").sum()
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2), rel=1e-5)
    assert student.grad is not None and student.grad.isfinite().all()
