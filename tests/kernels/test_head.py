"""Both losses at the head, row chunk by row chunk, against autograd's own way in float64."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kernels import head, reference
from kernels.head import Rows, mlm_distill_head

KINDS = ["forward_kl", "reverse_kl", "js", "mse"]
ROWS, WIDTH, TEACHER_WIDTH, VOCABULARY = 7, 5, 8, 23
TARGETS = torch.arange(ROWS) * 3


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def example(dtype=torch.float64) -> tuple[Rows, Rows]:
    shapes = (ROWS, WIDTH), (VOCABULARY, WIDTH), (VOCABULARY,)
    wider = (ROWS, TEACHER_WIDTH), (VOCABULARY, TEACHER_WIDTH), (VOCABULARY,)
    student = Rows(*(drawn(*shape, seed=seed).to(dtype).requires_grad_() for seed, shape in enumerate(shapes)))
    return student, Rows(*(drawn(*shape, seed=9 + seed).to(dtype) for seed, shape in enumerate(wider)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("panel", [1, 70, 1 << 23])
@pytest.mark.parametrize("factors", [(0.3, 0.06), (1.0, 1.0)], ids=["known", "guessed wrongly"])
def test_values_and_gradients_equal_the_reference(kind, temperature, panel, factors, monkeypatch):
    monkeypatch.setitem(head.PANEL_ELEMENTS, "cpu", panel)
    student, teacher = example()
    options = {"targets_M": TARGETS, "teacher": teacher, "kind": kind, "temperature": temperature}
    expected = reference.mlm_distill_head(student, **options)
    found = mlm_distill_head(student, **options, factors=factors)
    torch.testing.assert_close((found.cross_entropy, found.divergence), expected, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(1.5 * ce + 0.3 * kd, student) for ce, kd in (found[:2], expected)]
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-12)


def test_known_factors_spare_the_second_way_through(monkeypatch):
    student, teacher = example()
    options = {"targets_M": TARGETS, "teacher": teacher}
    panels = []
    distance = head._distance
    monkeypatch.setattr(head, "_distance", lambda *args, **kw: panels.append(1) or distance(*args, **kw))
    for factors, passes in (((0.5, 0.25), 1), ((0.5, 0.5), 2)):
        panels.clear()
        found = mlm_distill_head(student, **options, factors=factors)
        (4 * found.cross_entropy + 2 * found.divergence).backward()
        assert len(panels) == passes
    panels.clear()
    mlm_distill_head(student, teacher=teacher).divergence.backward()
    assert len(panels) == 1, "and so does a loss that stands alone, whatever factor the other is said to have"
    head_rows = head.head_rows
    monkeypatch.setattr(head, "head_rows", lambda *args: panels.append(1) or head_rows(*args))
    panels.clear()
    mlm_distill_head(student, targets_M=TARGETS).cross_entropy.backward()
    assert len(panels) == 1


def test_either_loss_alone():
    student, teacher = example()
    both = mlm_distill_head(student, targets_M=TARGETS, teacher=teacher)
    plain = mlm_distill_head(student, targets_M=TARGETS)
    assert torch.equal(plain.cross_entropy, both.cross_entropy) and plain.divergence == plain.agreed == 0
    unlabelled = mlm_distill_head(student, teacher=teacher, factors=(0.0, 1.0))
    assert torch.equal(unlabelled.divergence, both.divergence) and unlabelled.cross_entropy == 0
    expected = torch.autograd.grad(both.divergence, student)
    torch.testing.assert_close(torch.autograd.grad(unlabelled.divergence, student), expected)


def test_logits_instead_of_factors():
    student, teacher = example()
    expected = mlm_distill_head(student, targets_M=TARGETS, teacher=teacher, temperature=2.0)
    logits, others = student.logits, teacher.logits
    before = logits.detach().clone(), others.clone()
    found = mlm_distill_head(Rows(logits), targets_M=TARGETS, teacher=Rows(others), temperature=2.0)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(one.cross_entropy + one.divergence, student) for one in (found, expected)]
    torch.testing.assert_close(*gradients)
    assert torch.equal(logits, before[0]) and torch.equal(others, before[1]), "what was given was written to"
    assert found.agreed == (logits.argmax(-1) == others.argmax(-1)).sum()


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind):
    student, teacher = example()

    def losses(*parts):
        found = mlm_distill_head(Rows(*parts), targets_M=TARGETS, teacher=teacher, kind=kind, temperature=1.5)
        return found.cross_entropy, found.divergence

    assert torch.autograd.gradcheck(losses, tuple(student))


def test_the_operator_keeps_the_rules_of_torch_library():
    student, teacher = example()
    wanted = [True, True, True]
    arguments = (*student, *teacher, TARGETS, "forward_kl", 2.0, [1.0, 0.5], wanted)
    torch.library.opcheck(head.head_rows, arguments)
    torch.library.opcheck(
        head.head_rows, (drawn(ROWS, VOCABULARY, seed=3), *[None] * 5, TARGETS, "mse", 1.0, [1.0, 1.0], wanted)
    )


class Largest(TorchDispatchMode):
    """Elements of the largest tensor made inside."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for made in out if isinstance(out, tuple | list) else [out]:
            if isinstance(made, torch.Tensor):
                self.elements = max(self.elements, made.numel())
        return out


def test_no_logits_of_all_rows_are_ever_there(monkeypatch):
    monkeypatch.setitem(head.PANEL_ELEMENTS, "cpu", 2 * VOCABULARY)
    student, teacher = (rows._replace(inputs=rows.inputs.repeat(9, 1)) for rows in example())
    with Largest() as seen:
        head.by_chunks(*student, *teacher, TARGETS.repeat(9), "forward_kl", 2.0, [1.0, 0.5], [True] * 3)
    assert 0 < seen.elements < len(student.inputs) * VOCABULARY // 2


def test_frozen_weights_get_no_gradient_and_cost_none():
    student, teacher = example()
    frozen = Rows(student.inputs, student.weight.detach(), student.bias.detach())
    total = mlm_distill_head(frozen, targets_M=TARGETS, teacher=teacher).cross_entropy
    total.backward()
    assert student.inputs.grad is not None
    with torch.no_grad():
        assert not mlm_distill_head(student, targets_M=TARGETS).cross_entropy.requires_grad


def test_no_rows():
    student, teacher = example()
    none = [rows._replace(inputs=rows.inputs[:0]) for rows in (student, teacher)]
    found = mlm_distill_head(none[0], targets_M=TARGETS[:0], teacher=none[1])
    (found.cross_entropy + found.divergence).backward()
    assert found.cross_entropy == found.divergence == 0 and not student.weight.grad.any()


def test_bf16_stays_near_float64():
    student, teacher = example(torch.bfloat16)
    exact = Rows(*(part.detach().double().requires_grad_() for part in student))
    expected = reference.mlm_distill_head(
        exact, targets_M=TARGETS, teacher=[part.double() for part in teacher], kind="forward_kl", temperature=2.0
    )
    found = mlm_distill_head(student, targets_M=TARGETS, teacher=teacher, temperature=2.0)
    gradients = [torch.autograd.grad(sum(pair[:2]), of) for pair, of in ((found, student), (expected, exact))]
    torch.testing.assert_close(found.cross_entropy.double(), expected[0], rtol=1e-2, atol=1e-2)
    for ours, theirs in zip(*gradients, strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.double() - theirs).norm() <= 2e-2 * theirs.norm()


def test_two_vocabularies_are_refused():
    student, teacher = example()
    with pytest.raises(ValueError, match="23 pieces of the student and 22"):
        mlm_distill_head(student, teacher=Rows(teacher.inputs, teacher.weight[:22], teacher.bias[:22]))
