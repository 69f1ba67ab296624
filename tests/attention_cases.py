"""What both forms of K2, the plain one and Triton's, are held against: autograd over whole maps, in float64."""

import torch

from kernels.distill_attention import Distilled

LENGTHS = [70, 3, 0, 33, 1]


def example(*, heads=2, width=16, teacher_width=24, lengths=None, dtype=torch.float64, seed=0):
    """(query, key, value) with gradient, (teacher's query, key), starts and longest."""
    lengths = LENGTHS if lengths is None else lengths
    generator = torch.Generator().manual_seed(seed)

    def drawn(size):
        return torch.randn(sum(lengths), heads, size, generator=generator, dtype=torch.float64).to(dtype)

    student = [drawn(width).requires_grad_() for _ in range(3)]
    teacher = [drawn(teacher_width) for _ in range(2)]
    starts = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)
    return student, teacher, {"starts": starts, "longest": max(lengths)}


def eager(student, teacher, *, starts, longest) -> Distilled:
    """Map by map."""
    (query, key, *rest), outs, rows = student, [], []
    for first, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        q, k, q_t, k_t = (x[first:end].transpose(0, 1) for x in (query, key, *teacher))
        p_s, p_t = ((a @ b.mT / a.shape[-1] ** 0.5).log_softmax(dim=-1) for a, b in ((q, k), (q_t, k_t)))
        rows.append((p_t.exp() * (p_t - p_s)).sum(dim=-1))
        outs += [(p_s.exp() @ rest[0][first:end].transpose(0, 1)).transpose(0, 1)] if rest else []
    return Distilled(torch.cat(outs) if rest else None, torch.cat(rows, dim=1))


def results(operator, student, teacher, places, *, use=("out", "kl")):
    """Values and gradients for incoming gradients that differ from row to row; what is not used gets none."""
    out, kl_HT = operator(tuple(student), tuple(teacher), **places)
    generator = torch.Generator().manual_seed(9)
    total = 0.0
    for name, part in (("kl", kl_HT), ("out", out)):
        if name in use and part is not None:
            weights = torch.randn(part.shape, generator=generator, dtype=torch.float64)
            total = total + (part.double() * weights).sum()
    used = student[: 3 if "out" in use and out is not None else 2]
    made = torch.autograd.grad(total, used)
    return {"kl": kl_HT, **({} if out is None else {"out": out}), **dict(zip(("dq", "dk", "dv"), made, strict=False))}


def check(operator, *, tolerance, use=("out", "kl"), values=True, relations=False, **shape) -> None:
    """AssertionError where an operator's values or gradients are further from autograd's than allowed.

    Args:
        operator: with the signature of distill_attention.
        tolerance: of the difference's norm, in units of the right answer's.
        use: which of its results have an incoming gradient.
        values: whether it attends at all.
        relations: queries in the keys' place.
        shape: see `example`.
    """
    student, teacher, places = example(**shape)
    student = student[: 3 if values else 2]
    exact = [x.detach().double().requires_grad_() for x in student]
    wide = [x.double() for x in teacher]
    if relations:
        student, teacher, exact, wide = ([x[0], x[0]] for x in (student, teacher, exact, wide))
    expected = results(eager, exact, wide, places, use=use)
    found = results(operator, student, teacher, places, use=use)
    assert found.keys() == expected.keys()
    for name, right in expected.items():
        apart = (found[name].double() - right).norm() / right.norm()
        assert apart <= tolerance, f"{name} is {apart:.1e} from autograd's"
