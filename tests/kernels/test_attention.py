"""Packed attention: both ways of computing it, against float64."""

import pytest
import torch

from kernels import attention
from kernels.attention import packed_attention


def example(*, dtype, rows=3, heads=2, width=24, head_width=8):
    generator = torch.Generator().manual_seed(0)
    shape = (rows, heads, width, head_width)
    parts = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for _ in range(3)]
    document = torch.tensor([[0] * 9 + [1] * 4 + [-1] * 11, [2] * 24, list(range(3, 27))])
    return parts, document[:, None, :, None] == document[:, None, None, :]


def exact(parts, mask):
    q, k, v = (part.detach().double().requires_grad_() for part in parts)
    scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(~mask, float("-inf"))
    return (q, k, v), scores.softmax(-1) @ v


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_gradients_are_near_float64(dtype):
    parts, mask = example(dtype=dtype)
    sources, expected = exact(parts, mask)
    found = packed_attention(*parts, mask=mask)
    incoming = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected.backward(incoming)
    found.backward(incoming.to(dtype))
    near = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 5e-2, "atol": 5e-2}
    torch.testing.assert_close(found.double(), expected, **near)
    for part, source in zip(parts, sources, strict=True):
        torch.testing.assert_close(part.grad.double(), source.grad, **near)


def test_nothing_of_another_document_comes_in():
    parts, mask = example(dtype=torch.bfloat16)
    before = packed_attention(*parts, mask=mask)[0, :, :9]
    with torch.no_grad():
        for part in parts[1:]:
            part[0, :, 9:] += 100
    assert torch.equal(packed_attention(*parts, mask=mask)[0, :, :9], before)


def test_the_products_are_for_training_in_bf16_on_a_cpu_alone():
    parts, _ = example(dtype=torch.bfloat16)
    assert attention._fused_backward_is_slow(*parts)
    with torch.no_grad():
        assert not attention._fused_backward_is_slow(*parts)
    assert not attention._fused_backward_is_slow(*(part.detach() for part in parts))
    assert not attention._fused_backward_is_slow(*(part.float() for part in parts))
