"""Packed attention: both ways of computing it, against float64."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from kernels import attention
from kernels.attention import packed_attention
from kernels.documents import Documents


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


def by_loop(query, key, value, *, documents, scale):
    """What varlen_attn computes, on a CPU."""
    bounds = documents.starts.tolist()
    out = []
    for first, end in pairwise(bounds):
        q, k, v = (x[first:end].transpose(0, 1) for x in (query, key, value))
        out.append(F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(0, 1))
    return torch.cat(out)


def test_documents_one_after_another_are_the_rows(monkeypatch):
    monkeypatch.setattr(attention, "_varlen", by_loop)
    parts, mask = example(dtype=torch.float64)
    document = torch.tensor([[0] * 9 + [1] * 4 + [-1] * 11, [2] * 24, list(range(3, 27))])
    sources, expected = exact(parts, mask)
    found = attention.document_attention(*parts, documents=Documents.of(document))
    there = (document >= 0)[:, None, :, None]
    assert found.shape == expected.shape and not (found * ~there).any()
    incoming = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * there
    expected.backward(incoming)
    found.backward(incoming)
    torch.testing.assert_close(found * there, expected * there)
    for part, source in zip(parts, sources, strict=True):
        torch.testing.assert_close(part.grad, source.grad)


def test_documents_are_read_so_where_flash_attention_can(monkeypatch):
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert attention.by_documents(gpu, torch.bfloat16, width=32, dropout=0.0)
    assert not attention.by_documents(gpu, torch.bfloat16, width=32, dropout=0.1)
    assert not attention.by_documents(gpu, torch.bfloat16, width=26, dropout=0.0), "312 wide, 12 heads"
    assert not attention.by_documents(gpu, torch.float32, width=32, dropout=0.0)
    assert not attention.by_documents(cpu, torch.bfloat16, width=32, dropout=0.0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 0))
    assert not attention.by_documents(gpu, torch.float16, width=32, dropout=0.0)


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
