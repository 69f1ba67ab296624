"""K2's plain form: the twin of Triton's programs, and what a CPU runs."""

import pytest
import torch
from attention_cases import check, example

from kernels import attention_maps
from kernels import distill_attention as module
from kernels.distill_attention import attention_and_kl, distill_attention


@pytest.mark.parametrize(
    ("use", "values"), [(("out", "kl"), True), (("kl",), True), (("out",), True), (("kl",), False)]
)
@pytest.mark.parametrize("elements", [1, 1 << 21])
def test_values_and_gradients_equal_autograds(use, values, elements, monkeypatch):
    monkeypatch.setattr(module, "GROUP_ELEMENTS", elements)
    check(distill_attention, tolerance=1e-12, use=use, values=values)


def test_queries_with_themselves():
    check(distill_attention, tolerance=1e-12, use=("kl",), values=False, relations=True)


def test_gradcheck():
    student, teacher, places = example(heads=1, width=3, teacher_width=2, lengths=[4, 1, 3])

    def both(*parts):
        return tuple(distill_attention(parts, tuple(teacher), **places))

    assert torch.autograd.gradcheck(both, student)


@pytest.mark.parametrize("values", [True, False])
def test_the_operator_keeps_the_rules_of_torch_library(values):
    (query, key, value), teacher, places = example(lengths=[5, 2], width=4, teacher_width=6)
    torch.library.opcheck(attention_and_kl, (query, key, value if values else None, *teacher, *places.values()))


def test_a_teacher_that_is_the_student_is_at_no_distance():
    student, _, places = example(width=8)
    for dtype, most in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        query, key, value = (x.detach().to(dtype).requires_grad_() for x in student)
        found = distill_attention((query, key, value), (query, key), **places)
        assert found.kl_HT.abs().max() < most
        assert all(x.abs().max() < most for x in torch.autograd.grad(found.kl_HT.sum(), (query, key)))


def test_documents_know_nothing_of_each_other():
    student, teacher, places = example(lengths=[9, 4], width=8)
    before = distill_attention(tuple(student), tuple(teacher), **places)
    with torch.no_grad():
        for x in (*student, *teacher):
            x[9:] += 1.0
    after = distill_attention(tuple(student), tuple(teacher), **places)
    assert torch.equal(before.out[:9], after.out[:9]) and not torch.equal(before.out[9:], after.out[9:])
    assert torch.equal(before.kl_HT[:, :9], after.kl_HT[:, :9])


def test_the_objectives_distance_is_its_sum_on_a_gpu(monkeypatch):
    """Both ways by which the KL of maps is reached, and the gradient through packing."""
    generator = torch.Generator().manual_seed(0)
    document_RS = torch.tensor([[0, 0, 1, 1, 1, -1], [2, 2, 2, 2, 2, 2]])
    parts = [torch.randn(2, 3, 6, w, generator=generator, dtype=torch.float64) for w in (4, 4, 6, 6)]
    student, teacher = tuple(x.requires_grad_() for x in parts[:2]), tuple(parts[2:])
    found = []
    for fused in (False, True):
        monkeypatch.setattr(attention_maps, "is_fused", lambda *_, fused=fused: fused)
        total = attention_maps.attention_distance(student, teacher, document_RS=document_RS, form="kl")
        found.append((total, *torch.autograd.grad(1.5 * total, student)))
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-12)


def test_nothing_of_a_map_is_kept():
    student, teacher, places = example(lengths=[64], heads=1, width=4, teacher_width=4)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        distill_attention(tuple(student), tuple(teacher), **places).kl_HT.sum().backward()
    assert max(kept) == 64 * 4


def test_uneven_heads_are_refused():
    student, _, places = example(heads=2)
    _, teacher, _ = example(heads=3)
    with pytest.raises(ValueError, match="2 heads of the student and 3"):
        distill_attention(tuple(student), tuple(teacher), **places)
