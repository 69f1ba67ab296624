"""The distances of attention maps against their oracle, in float64 and by finite differences."""

import pytest
import torch

from kernels import attention_maps as module
from kernels import reference
from kernels.attention_maps import attention_distance
from kernels.documents import MOST_PADDING, Documents, by_length
from kernels.gram import gram_mse

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
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape) or x, lambda x: x):
        attention_distance(student, teacher, document_RS=DOCUMENTS, form="kl").backward()
    tokens = int((DOCUMENTS >= 0).sum())
    assert [shape for shape in kept if len(shape) > 1] == [(tokens, 2, 4)] * 2


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mean_heads", [False, True])
@pytest.mark.parametrize("elements", [1, 40, 1 << 18])
def test_any_slices_give_the_same(form, mean_heads, elements, monkeypatch):
    student, teacher = attended(heads=3, width=4, seed=0, gradient=True), attended(heads=3, width=7, seed=1)
    options = {"document_RS": DOCUMENTS, "form": form, "mean_heads": mean_heads}
    expected = reference.attention_distance(student, teacher, **options)
    monkeypatch.setitem(module.MAP_ELEMENTS, "cpu", elements)
    found = attention_distance(student, teacher, **options)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(total, student) for total in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-12)


def packed(*, dtype=torch.float64, heads=2):
    """An operator's arguments: both models' packed queries and keys, and where documents start."""
    documents = Documents.of(DOCUMENTS)
    parts = [*attended(heads=heads, width=4, seed=0), *attended(heads=heads, width=6, seed=1)]
    student, teacher = [documents.pack(part).to(dtype) for part in parts[:2]], parts[2:]
    return *(x.requires_grad_() for x in student), *(documents.pack(x).to(dtype) for x in teacher), documents.starts


@pytest.mark.parametrize("form", FORMS)
def test_the_operator_keeps_the_rules_of_torch_library(form):
    torch.library.opcheck(module.attention_rows, (*packed(), form, False, True))


@pytest.mark.parametrize("mean_heads", [False, True])
def test_grams_equal_maps(mean_heads, monkeypatch):
    """Both ways of comparing raw scores, whatever the lengths that each is for."""
    found = []
    for cheaper in (False, True):
        monkeypatch.setattr(module, "is_cheaper", lambda *_, cheaper=cheaper: cheaper)
        found.append(module.by_slices(*packed(), "scores_mse", mean_heads, True))
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-12)


def test_grams_of_bf16_keep_a_gradient_near_the_teacher():
    """Where maps in bf16 lose it: the Grams are fp32, and the gradient is no difference of rounded scores."""
    generator = torch.Generator().manual_seed(0)
    teacher = [torch.randn(3, 256, 32, generator=generator).to(torch.bfloat16) for _ in range(2)]
    student = [(x + 0.02 * torch.randn(x.shape, generator=generator)).to(torch.bfloat16) for x in teacher]

    def gradients(dtype):
        _, made = gram_mse(*([x.to(dtype) for x in pair] for pair in (student, teacher)))
        return torch.cat([x.double().flatten() for x in made])

    exact = gradients(torch.float64)
    assert (gradients(torch.float32) - exact).norm() <= 1e-4 * exact.norm()
    apart = student[0] @ student[1].mT - teacher[0] @ teacher[1].mT  # in bf16
    by_maps = torch.cat([(2 * apart @ student[1]).double().flatten(), (2 * apart.mT @ student[0]).double().flatten()])
    assert (by_maps - exact).norm() > 1e-2 * exact.norm()


def test_a_distance_that_cancels_is_not_negative():
    same = tuple(torch.randn(4, 64, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    apart, _ = gram_mse(same, same)
    assert (apart >= 0).all()


def test_documents_are_grouped_with_little_padding():
    lengths = torch.tensor([3, 100, 0, 99, 7, 60, 3, 3, 4])
    starts = torch.cat([torch.zeros(1), lengths.cumsum(0)]).to(torch.int32)
    groups = list(by_length(starts, elements=3 * 60**2))
    assert sorted(int(n) for group in groups for n in group.lengths_G) == sorted(lengths[lengths > 0].tolist())
    seen = torch.cat([g.tokens_GL.flatten() if g.valid_GL is None else g.tokens_GL[g.valid_GL] for g in groups])
    assert sorted(seen.tolist()) == list(range(int(lengths.sum())))
    for group in groups:
        assert int(group.lengths_G.min()) * MOST_PADDING >= group.tokens_GL.shape[1] == int(group.lengths_G.max())


def test_uneven_heads_are_refused():
    student, teacher = attended(heads=2, width=4, seed=0), attended(heads=3, width=4, seed=1)
    with pytest.raises(ValueError, match="2 heads of the student and 3"):
        attention_distance(student, teacher, document_RS=DOCUMENTS, form="kl")
