"""The distillation KL against its oracle, in float64 and by finite differences."""

import pytest
import torch

from kernels import distill_kl as module
from kernels import reference
from kernels.distill_kl import distill_kl


def logits(*, rows: int = 7, vocabulary: int = 33, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64) * 3
    teacher = torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64) * 3
    return student.requires_grad_(), teacher


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("panel", [1, 70, 1 << 22])
def test_values_and_gradients_equal_the_reference(temperature, panel, monkeypatch):
    monkeypatch.setattr(module, "PANEL_ELEMENTS", panel)
    student, teacher = logits()
    incoming = torch.linspace(-1, 2, 7, dtype=torch.float64)
    expected = reference.distill_kl(student, teacher, temperature=temperature)
    (expected_gradient,) = torch.autograd.grad((expected * incoming).sum(), student)
    found = distill_kl(student, teacher, temperature=temperature)
    (gradient,) = torch.autograd.grad((found * incoming).sum(), student)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-12)


def test_gradcheck():
    student, teacher = logits(rows=3, vocabulary=9)
    assert torch.autograd.gradcheck(lambda z: distill_kl(z, teacher, temperature=1.5), student)


def test_equal_logits_have_no_loss_and_no_gradient():
    student, _ = logits()
    loss = distill_kl(student, student.detach(), temperature=2.0)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert loss.abs().max() < 1e-12
    assert gradient.abs().max() < 1e-12


def test_no_rows():
    student = torch.zeros(0, 5, requires_grad=True)
    loss = distill_kl(student, torch.zeros(0, 5)).sum()
    loss.backward()
    assert loss.item() == 0.0


def test_bf16_stays_near_float64():
    student, teacher = logits(rows=64, vocabulary=500)
    low = distill_kl(student.to(torch.bfloat16), teacher.to(torch.bfloat16), temperature=2.0)
    exact = reference.distill_kl(
        student.to(torch.bfloat16).double(), teacher.to(torch.bfloat16).double(), temperature=2.0
    )
    torch.testing.assert_close(low.double(), exact, rtol=1e-4, atol=1e-4)


def test_two_vocabularies_are_refused():
    with pytest.raises(ValueError, match="differ"):
        distill_kl(torch.zeros(2, 5), torch.zeros(2, 6))
