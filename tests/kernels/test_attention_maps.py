"""The distances of attention maps against their oracle, in float64 and by finite differences."""

import pytest
import torch

from kernels import reference
from kernels.attention_maps import attention_distance

FORMS = ["scores_mse", "maps_mse", "kl"]
DOCUMENTS = torch.tensor([[0, 0, 0, 1, 1, -1], [2, 2, 2, 2, 2, 2], [-1, -1, -1, -1, -1, -1], [3, -1, -1, -1, -1, -1]])


def attended(*, heads: int, width: int, seed: int, gradient: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (*DOCUMENTS.shape[:1], heads, DOCUMENTS.shape[1], width)
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_(gradient) for _ in range(2)]
    return drawn[0], drawn[1]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("mean_heads", "heads"), [(False, 3), (True, 3), (True, 5)])
def test_values_and_gradients_equal_the_reference(form, mean_heads, heads):
    student, teacher = attended(heads=3, width=4, seed=0, gradient=True), attended(heads=heads, width=7, seed=1)
    options = {"document_RS": DOCUMENTS, "form": form, "mean_heads": mean_heads}
    expected = reference.attention_distance(student, teacher, **options)
    found = attention_distance(student, teacher, **options)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(1.7 * total, student) for total in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mean_heads", [False, True])
def test_gradcheck(form, mean_heads):
    student, teacher = attended(heads=2, width=2, seed=0, gradient=True), attended(heads=2, width=3, seed=1)

    def total(query, key):
        options = {"document_RS": DOCUMENTS[:2], "form": form, "mean_heads": mean_heads}
        return attention_distance((query, key), tuple(part[:2] for part in teacher), **options)

    assert torch.autograd.gradcheck(total, [part[:2].detach().clone().requires_grad_() for part in student])


@pytest.mark.parametrize("form", FORMS)
def test_queries_with_themselves_get_both_gradients(form):
    """MiniLM's relations give one tensor twice."""
    (query, _), teacher = attended(heads=2, width=4, seed=0, gradient=True), attended(heads=2, width=4, seed=1)
    options = {"document_RS": DOCUMENTS, "form": form, "mean_heads": False}
    gradients = [
        torch.autograd.grad(distance((query, query), (teacher[0], teacher[0]), **options), query)
        for distance in (attention_distance, reference.attention_distance)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_padding_and_other_documents_count_nothing(form):
    student, teacher = attended(heads=2, width=4, seed=0, gradient=True), attended(heads=2, width=4, seed=1)
    options = {"document_RS": DOCUMENTS, "form": form}
    before = attention_distance(student, teacher, **options)
    gradient = torch.autograd.grad(before, student)
    assert all(not part.transpose(1, 2)[DOCUMENTS < 0].any() for part in gradient)
    with torch.no_grad():
        for part in student:
            part.transpose(1, 2)[DOCUMENTS < 0] = 1e6
    assert torch.equal(attention_distance(student, teacher, **options), before)
    document = DOCUMENTS == 2
    with torch.no_grad():
        for part in student:
            part.transpose(1, 2)[document] += 3.0
    others = {"document_RS": torch.where(document, -1, DOCUMENTS), "form": form}
    own = attention_distance(student, teacher, **options) - attention_distance(student, teacher, **others)
    alone = {"document_RS": torch.where(document, DOCUMENTS, -1), "form": form}
    torch.testing.assert_close(own, attention_distance(student, teacher, **alone))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mean_heads", [False, True])
def test_very_sharp_maps_stay_finite(form, mean_heads):
    student, teacher = attended(heads=2, width=4, seed=0), attended(heads=2, width=4, seed=1)
    student = tuple((100 * part).float().requires_grad_() for part in student)
    teacher = tuple((100 * part).to(torch.bfloat16) for part in teacher)
    total = attention_distance(student, teacher, document_RS=DOCUMENTS, form=form, mean_heads=mean_heads)
    total.backward()
    assert total.dtype == torch.float32 and total.isfinite()
    assert all(part.grad.isfinite().all() for part in student)


def test_no_map_lives_on_for_the_backward_pass():
    student, teacher = attended(heads=2, width=4, seed=0, gradient=True), attended(heads=2, width=4, seed=1)
    total = attention_distance(student, teacher, document_RS=DOCUMENTS, form="kl")
    assert [kept.shape for kept in total.grad_fn.saved_tensors] == [part.shape for part in student]


def test_uneven_heads_are_refused():
    student, teacher = attended(heads=2, width=4, seed=0), attended(heads=3, width=4, seed=1)
    with pytest.raises(ValueError, match="2 heads of the student and 3"):
        attention_distance(student, teacher, document_RS=DOCUMENTS, form="kl")
