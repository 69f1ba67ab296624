"""Small batches, made-up readings of them, and the laws every objective of single texts must keep.

A case is checked three ways: its value against a NumPy twin on ordinary and hostile batches, its gradient against
finite differences of that twin, and its total against the sum over the batch's rows, each read alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unibert.data.batches import Batch
from unibert.models.attention import Attended
from unibert.models.encoder import EncoderOutput
from unibert.models.heads import seeded
from unibert.models.wanted import Sizes
from unibert.objectives import OBJECTIVES, MicroStep, Objective, Setting, Turn
from unibert.schema import Discriminator, Recipe, Student
from unibert.table import Table

HIDDEN, VOCABULARY, LANGUAGES = 6, 11, 3
STUDENT = Sizes(layers=2, hidden=HIDDEN, heads=2, vocabulary=VOCABULARY)
TEACHER = Sizes(layers=4, hidden=HIDDEN, heads=2, vocabulary=VOCABULARY)
WIDER = Sizes(layers=4, hidden=12, heads=3, vocabulary=VOCABULARY)
RECIPE = Recipe(
    name="small", languages=("en", "de", "ru"), student=Student(start="random"), objectives={"masked_lm": {}}
)
BATCHES = {
    "two rows": {},
    "no target": {"targets": ()},
    "one document": {"lengths": ((5,),), "languages": (1,), "targets": (2,)},
    "one token": {"lengths": ((1,),), "languages": (1,), "targets": ()},
    "one language": {"languages": (2, 2, 2)},
    "a row of padding": {"lengths": ((3, 2), (4,), ()), "targets": (1,)},
    "all padding": {"lengths": ((), ()), "languages": (), "targets": ()},
}


@dataclass(frozen=True)
class Case:
    """An objective's table and its twin, and the models it is made for."""

    name: str
    table: Table
    twin: Callable[[MicroStep, Table], float]
    student: Sizes = STUDENT
    teacher: Sizes = TEACHER
    feature: str = "mean"

    def __str__(self) -> str:
        words = [f"{key}={value}" for key, value in self.table.model_dump(exclude_defaults=True).items()]
        sizes = [] if self.teacher == TEACHER else [f"teacher {self.teacher.hidden} wide"]
        return " ".join([self.name, *words, *sizes, self.feature])

    def objective(self) -> Objective:
        return make_objective(self.name, self.table, student=self.student, teacher=self.teacher, feature=self.feature)

    def step(self, batch: Batch, objective: Objective) -> MicroStep:
        at = make_step(batch, student=self.student, teacher=self.teacher, feature=self.feature)
        with seeded(1, purpose=self.name):
            module = objective.module()
        at.beside = {} if module is None else {self.name: module.double()}
        return at


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
        cls_positions=torch.tensor(first, dtype=torch.long),
        language=torch.tensor(languages[:number], dtype=torch.long),
        sample_ids=torch.arange(number) + 40,
        tokens=int((document >= 0).sum()),
    )


def make_reading(batch: Batch, sizes: Sizes, *, generator: torch.Generator, gradient: bool) -> EncoderOutput:
    """What an encoder of this shape might say of a batch: everything, at random, in float64."""

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_(gradient)

    rows, width = batch.input_ids.shape
    heads = (rows, sizes.heads, width, sizes.hidden // sizes.heads)
    return EncoderOutput(
        drawn(rows, width, sizes.hidden),
        drawn(len(batch.target_ids), sizes.vocabulary),
        drawn(batch.tokens, sizes.vocabulary),
        {layer: drawn(rows, width, sizes.hidden) for layer in range(sizes.layers)},
        {layer: Attended(drawn(*heads), drawn(*heads), drawn(*heads)) for layer in range(1, sizes.layers + 1)},
    )


def make_step(batch: Batch, *, student=STUDENT, teacher=TEACHER, seed=0, feature="mean") -> MicroStep:
    generator = torch.Generator().manual_seed(seed)
    read_by_student = make_reading(batch, student, generator=generator, gradient=True)
    read_by_teacher = make_reading(batch, teacher, generator=generator, gradient=False)
    weight = torch.randn(student.hidden, LANGUAGES, generator=generator)
    return MicroStep(
        batch,
        student=read_by_student,
        teacher=read_by_teacher,
        feature=feature,
        discriminate=lambda features: features @ weight,
    )


def make_setting(
    *, student=STUDENT, teacher: Sizes | None = TEACHER, feature="mean", recipe_student: Student = RECIPE.student
) -> Setting:
    tables = {"discriminator": Discriminator(feature=feature), "student": recipe_student}
    recipe = RECIPE.model_copy(update=tables)
    return Setting(recipe, student=student, teacher=teacher)


def make_objective(name: str, table: Table, **setting) -> Objective:
    return OBJECTIVES[name](table, make_setting(**setting))


def seen_by(objective: Objective, at: MicroStep) -> MicroStep | Turn:
    """What the objective is given: the discriminator's have a turn."""
    if objective.player == "student":
        return at
    assert at.discriminate is not None
    turn = Turn(at.discriminate)
    turn.see(at)
    return turn


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def array(tensor: Tensor | None) -> np.ndarray:
    assert tensor is not None
    return tensor.detach().numpy()


def leaves(out: EncoderOutput) -> list[Tensor]:
    """Every tensor of a reading."""
    attended = [part for layer in out.attention.values() for part in layer]
    return [out.last_hidden, out.masked_logits, out.token_logits, *out.hidden.values(), *attended]


def rows_alone(at: MicroStep) -> Iterator[MicroStep]:
    """Each row of a micro-batch as a micro-batch of its own, read as it was in the whole."""
    batch, width = at.batch, at.batch.input_ids.shape[1]
    for row in range(len(batch.document)):
        targets = batch.target_positions // width == row
        documents = batch.cls_positions // width == row
        first = int(documents.nonzero()[0]) if documents.any() else 0
        document = torch.where(batch.document[row] >= 0, batch.document[row] - first, -1)[None]
        alone = replace(
            batch,
            input_ids=batch.input_ids[row : row + 1],
            position_ids=batch.position_ids[row : row + 1],
            document=document,
            target_positions=batch.target_positions[targets] - row * width,
            target_ids=batch.target_ids[targets],
            cls_positions=batch.cls_positions[documents] - row * width,
            language=batch.language[documents],
            sample_ids=batch.sample_ids[documents],
            tokens=int((document >= 0).sum()),
        )
        tokens = batch.token_positions // width == row
        readings = (_row(out, row, targets=targets, tokens=tokens) for out in (at.student, at.teacher))
        yield MicroStep(alone, *readings, at.feature, at.discriminate, beside=at.beside)


def _row(out: EncoderOutput, row: int, *, targets: Tensor, tokens: Tensor) -> EncoderOutput:
    here = slice(row, row + 1)
    return EncoderOutput(
        out.last_hidden[here],
        out.masked_logits[targets],
        out.token_logits[tokens],
        {layer: states[here] for layer, states in out.hidden.items()},
        {layer: Attended(*(part[here] for part in parts)) for layer, parts in out.attention.items()},
    )


def check_value(case: Case, shape: str) -> None:
    """The objective's total is its twin's."""
    objective = case.objective()
    at = case.step(make_batch(**BATCHES[shape]), objective)
    found = objective.term(seen_by(objective, at)).total.item()
    assert found == pytest.approx(case.twin(at, case.table), rel=1e-5, abs=1e-5)


def check_gradient(case: Case) -> None:
    """The gradient of everything the student said is that of the twin; the discriminator's own loss has none."""
    objective = case.objective()
    at = case.step(make_batch(), objective)
    total = objective.term(seen_by(objective, at)).total
    if objective.player != "student":
        assert not total.requires_grad, "the discriminator's loss must not reach the student"
        return
    total.backward()
    chance = np.random.default_rng(0)
    touched = 0
    for leaf in leaves(at.student):
        flat, gradient = leaf.detach().view(-1), torch.zeros(leaf.numel()) if leaf.grad is None else leaf.grad.view(-1)
        touched += bool(gradient.any())
        for place in chance.choice(leaf.numel(), size=4, replace=False):
            slope = _slope(case, at, flat, int(place))
            assert gradient[place].item() == pytest.approx(slope, rel=2e-3, abs=1e-4)
    assert touched, "no gradient at all"
    for module in at.beside.values():
        assert all(parameter.grad is not None for parameter in module.parameters()), "what is beside does not learn"


def _slope(case: Case, at: MicroStep, flat: Tensor, place: int) -> float:
    before, step = flat[place].item(), 1e-3
    flat[place] = before + step
    up = case.twin(at, case.table)
    flat[place] = before - step
    down = case.twin(at, case.table)
    flat[place] = before
    return (up - down) / (2 * step)


def check_splitting(case: Case) -> None:
    """The rows one by one have the sum and the count of all together."""
    objective = case.objective()
    whole = case.step(make_batch(lengths=((3, 2), (4,), (), (1, 5)), languages=(0, 2, 1, 1, 0)), objective)
    parts = list(rows_alone(whole))
    totals = [objective.term(seen_by(objective, part)).total.item() for part in parts]
    assert sum(totals) == pytest.approx(objective.term(seen_by(objective, whole)).total.item(), rel=1e-5)
    assert sum(objective.count(part.batch) for part in parts) == objective.count(whole.batch)


def parameters(cases: list[Case]) -> list:
    """Cases for pytest.mark.parametrize, by their words."""
    return [pytest.param(case, id=str(case)) for case in cases]


def linear(module: nn.Module, x: np.ndarray) -> np.ndarray:
    """A linear layer, in NumPy."""
    return x @ array(module.weight).T + array(module.bias)
