"""Each objective against a NumPy twin, and the law that splitting a batch never changes the total."""

import numpy as np
import pytest
import torch

from unibert.data.batches import Batch
from unibert.models.encoder import EncoderOutput
from unibert.models.wanted import Sizes
from unibert.objective_tables import DistillHidden, DistillLogits, LanguageConfusion, LanguageGuess, MaskedLM
from unibert.objectives import OBJECTIVES, MicroStep, Setting, Turn
from unibert.pair_rules import ON_PAIRS
from unibert.schema import Recipe, Student

HIDDEN, VOCABULARY, LANGUAGES = 6, 11, 3
RECIPE = Recipe(
    name="small", languages=("en", "de", "ru"), student=Student(start="random"), objectives={"masked_lm": {}}
)


def make_batch(*, lengths=((3, 2), (4,)), width=6, languages=(0, 2, 1), targets=(1, 4, 7)) -> Batch:
    rows = len(lengths)
    document = torch.full((rows, width), -1)
    position = torch.zeros(rows, width, dtype=torch.long)
    first, number = [], 0
    for row, parts in enumerate(lengths):
        place = 0
        for length in parts:
            document[row, place : place + length] = number
            position[row, place : place + length] = torch.arange(length)
            first.append(row * width + place)
            place, number = place + length, number + 1
    return Batch(
        input_ids=torch.ones(rows, width, dtype=torch.long),
        position_ids=position,
        document=document,
        target_positions=torch.tensor(targets, dtype=torch.long),
        target_ids=torch.arange(len(targets)) % VOCABULARY,
        cls_positions=torch.tensor(first),
        language=torch.tensor(languages[:number]),
        sample_ids=torch.arange(number),
        tokens=int((document >= 0).sum()),
    )


def make_step(batch: Batch, *, seed=0, feature="mean") -> MicroStep:
    generator = torch.Generator().manual_seed(seed)

    def output() -> EncoderOutput:
        hidden = torch.randn(*batch.input_ids.shape, HIDDEN, generator=generator, dtype=torch.float64)
        logits = torch.randn(len(batch.target_ids), VOCABULARY, generator=generator, dtype=torch.float64)
        return EncoderOutput(hidden.requires_grad_(), logits.requires_grad_())

    weight = torch.randn(HIDDEN, LANGUAGES, generator=generator)
    return MicroStep(
        batch, student=output(), teacher=output(), feature=feature, discriminate=lambda features: features @ weight
    )


def make_objective(name, table):
    sizes = Sizes(layers=2, hidden=HIDDEN, heads=2, vocabulary=VOCABULARY)
    return OBJECTIVES[name](table, Setting(RECIPE, student=sizes, teacher=sizes))


def seen_by(objective, at: MicroStep) -> MicroStep | Turn:
    """What the objective is given: the discriminator's have a turn."""
    if objective.player == "student":
        return at
    assert at.discriminate is not None
    turn = Turn(at.discriminate)
    turn.see(at)
    return turn


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def features(at: MicroStep, kind: str) -> np.ndarray:
    hidden = at.student.last_hidden.detach().numpy().reshape(-1, HIDDEN)
    flat = at.batch.document.numpy().ravel()
    if kind == "cls":
        return hidden[at.batch.cls_positions.numpy()]
    return np.stack([hidden[flat == d].mean(0) for d in range(at.batch.documents)])


def guesses(at: MicroStep, kind: str) -> np.ndarray:
    assert at.discriminate is not None
    return softmax(at.discriminate(torch.tensor(features(at, kind), dtype=torch.float32)).numpy().astype(float))


def twin_masked_lm(at, table):
    p = softmax(at.student.masked_logits.detach().numpy())
    return -np.log(p[np.arange(len(p)), at.batch.target_ids.numpy()]).sum()


def twin_distill_hidden(at, table):
    real = at.batch.document.numpy() >= 0
    if table.positions == "unmasked":
        real.ravel()[at.batch.target_positions.numpy()] = False
    apart = at.student.last_hidden.detach().numpy() - at.teacher.last_hidden.detach().numpy()
    return (apart[real] ** 2).mean(-1).sum()


def twin_distill_logits(at, table):
    t = table.temperature
    p_t = softmax(at.teacher.masked_logits.detach().numpy() / t)
    p_s = softmax(at.student.masked_logits.detach().numpy() / t)
    return t * t * (p_t * (np.log(p_t) - np.log(p_s))).sum()


def twin_language_guess(at, table):
    p = guesses(at, at.feature)
    return -np.log(p[np.arange(len(p)), at.batch.language.numpy()]).sum()


def twin_language_confusion(at, table):
    p = guesses(at, at.feature)
    if table.form == "reversal":
        return np.log(p[np.arange(len(p)), at.batch.language.numpy()]).sum()
    return (np.log(LANGUAGES) + (p * np.log(p)).sum(-1)).sum()


CASES = [
    ("masked_lm", MaskedLM(), twin_masked_lm),
    ("distill_hidden", DistillHidden(), twin_distill_hidden),
    ("distill_hidden", DistillHidden(positions="unmasked"), twin_distill_hidden),
    ("distill_logits", DistillLogits(temperature=2.0), twin_distill_logits),
    ("language_guess", LanguageGuess(), twin_language_guess),
    ("language_confusion", LanguageConfusion(form="uniform"), twin_language_confusion),
    ("language_confusion", LanguageConfusion(form="reversal"), twin_language_confusion),
]
BATCHES = {
    "two rows": {},
    "no target": {"targets": ()},
    "one document": {"lengths": ((5,),), "languages": (1,), "targets": (2,)},
    "one language": {"languages": (2, 2, 2)},
    "a row of padding": {"lengths": ((3, 2), (4,), ()), "targets": (1,)},
}


def test_every_objective_is_covered():
    assert {name for name, _, _ in CASES} | set(ON_PAIRS) == set(OBJECTIVES), "those on pairs are in test_pairs.py"


@pytest.mark.parametrize("feature", ["cls", "mean"])
@pytest.mark.parametrize("shape", BATCHES)
@pytest.mark.parametrize(("name", "table", "twin"), CASES)
def test_value_equals_its_numpy_twin(name, table, twin, shape, feature):
    at = make_step(make_batch(**BATCHES[shape]), feature=feature)
    objective = make_objective(name, table)
    total = objective.term(seen_by(objective, at)).total
    assert total.item() == pytest.approx(twin(at, table), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(("name", "table", "twin"), CASES)
def test_gradient_equals_finite_differences_of_the_twin(name, table, twin):
    at = make_step(make_batch())
    objective = make_objective(name, table)
    objective.term(at).total.backward() if objective.player == "student" else None
    tensor = at.student.masked_logits if objective.needs.student.masked_logits else at.student.last_hidden
    assert tensor is not None
    if objective.player != "student":
        total = objective.term(seen_by(objective, at)).total
        assert not total.requires_grad, "the discriminator's loss must not reach the student"
        return
    flat, gradient = tensor.detach().view(-1), tensor.grad.view(-1)
    for place in (0, 5, 13):
        before, step = flat[place].item(), 1e-3
        flat[place] = before + step
        up = twin(at, table)
        flat[place] = before - step
        down = twin(at, table)
        flat[place] = before
        assert gradient[place].item() == pytest.approx((up - down) / (2 * step), rel=2e-3, abs=1e-4)


@pytest.mark.parametrize(("name", "table", "twin"), CASES)
def test_two_halves_add_up_to_the_whole(name, table, twin):
    """Documents of row 0 and of row 1 alone give the same sum and count as both together."""
    whole = make_step(make_batch())
    objective = make_objective(name, table)
    parts = []
    for row, targets in ((0, (1, 4)), (1, (7 - 6,))):
        lengths = (((3, 2),), ((4,),))[row]
        batch = make_batch(lengths=lengths, languages=((0, 2), (1,))[row], targets=targets)
        chosen = slice(0, 2) if row == 0 else slice(2, 3)
        batch = Batch(**{**vars(batch), "target_ids": whole.batch.target_ids[chosen]})

        def cut(out, row=row, chosen=chosen):
            return EncoderOutput(out.last_hidden[row : row + 1], out.masked_logits[chosen])

        at = MicroStep(batch, student=cut(whole.student), teacher=cut(whole.teacher), feature="mean")
        at.discriminate = whole.discriminate
        parts.append(at)
    assert sum(objective.term(part).total.item() for part in parts) == pytest.approx(
        objective.term(whole).total.item(), rel=1e-5
    )
    assert sum(objective.count(part.batch) for part in parts) == objective.count(whole.batch)
