"""What an objective is: it says what it needs and how many targets a batch holds, and gives a sum.

Sums and counts, never means: the trainer divides by the count of the whole optimizer step over all
ranks, so that accumulation, ranks and uneven masks change nothing.

Shapes: R rows, S width, D documents, F features (of a document or a token each), M masked targets, H hidden,
V vocabulary, L languages.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unibert.data.batches import Batch
from unibert.errors import DataError
from unibert.models.discriminator import Feature, features, judged_documents
from unibert.models.encoder import Encoder, EncoderOutput, encode
from unibert.models.wanted import Sizes, Wanted
from unibert.objective_tables import Weight
from unibert.schema import Recipe, Table


@dataclass(frozen=True)
class Needs:
    """What the models have to compute, in a forward each: None where they need not read the batch at all."""

    student: Wanted | None = None
    """Of the student's reading of the masked text."""
    student_unmasked: Wanted | None = None
    """Of its reading of the text as it was before masking."""
    teacher: Wanted | None = None
    """Of the teacher's reading of the masked text."""
    teacher_unmasked: Wanted | None = None
    """Of its reading of the text as it was; of batch.foreign, in its own pieces, where it has another tokenizer."""
    joined: Wanted | None = None
    """Of the student's reading of both sides of each translation pair as one masked text (batch.joined)."""

    def __or__(self, other: Needs) -> Needs:
        return Needs(*(_both(getattr(self, name), getattr(other, name)) for name in vars(self)))

    @property
    def of_teacher(self) -> Wanted | None:
        """All that the teacher must be able to give; None where it is not needed."""
        return _both(self.teacher, self.teacher_unmasked)


def _both(a: Wanted | None, b: Wanted | None) -> Wanted | None:
    return a if b is None else b if a is None else a | b


LAST_HIDDEN = Wanted()
"""The last hidden state and nothing else."""


@dataclass
class MicroStep:
    """One micro-batch of one rank, and what the models said of it; None of what no objective needs.

    `discriminate` is the frozen discriminator [F, H] -> [F, L], through which the student learns. `beside` has what
    objectives learn beside the encoder, by their names.
    """

    batch: Batch
    student: EncoderOutput | None = None
    teacher: EncoderOutput | None = None
    feature: Feature = "cls"
    discriminate: Callable[[Tensor], Tensor] | None = None
    student_unmasked: EncoderOutput | None = None
    teacher_unmasked: EncoderOutput | None = None
    joined: EncoderOutput | None = None
    beside: Mapping[str, Any] = field(default_factory=dict)
    factors: Mapping[str, float] = field(default_factory=dict)
    """By what the total of each objective will be multiplied in the loss; speed alone depends on it."""
    shared: dict[Any, Any] = field(default_factory=dict)
    """What objectives have computed together."""

    @cached_property
    def features_FH(self) -> Tensor:
        """What the discriminator judges of the student in fp32, with gradient."""
        assert self.student is not None
        return features(self.student.last_hidden, self.batch, kind=self.feature).float()

    @cached_property
    def judged_F(self) -> Tensor:
        """The document of each feature."""
        return judged_documents(self.batch, self.feature)

    @property
    def language_F(self) -> Tensor:
        """The language of each feature."""
        return self.batch.language[self.judged_F]

    @property
    def batches(self) -> list[Batch]:
        """The micro-batch."""
        return [self.batch]


def read(
    engine: Any,
    batch: Batch,
    *,
    needs: Needs,
    answers: tuple[EncoderOutput | None, EncoderOutput | None] = (None, None),
    feature: Feature = "cls",
) -> MicroStep:
    """Let the student read a micro-batch in every way that is needed, each once.

    Args:
        engine: the student's, or an Encoder.
        batch: on its device.
        needs: what objectives want.
        answers: the teacher's readings of the masked and of the unmasked text.
        feature: what the discriminator judges.
    """
    at = MicroStep(batch, teacher=answers[0], teacher_unmasked=answers[1], feature=feature)
    if needs.student is not None:
        at.student = encode(engine, batch, needs.student)
    if needs.student_unmasked is not None:
        at.student_unmasked = encode(engine, batch.unmasked, needs.student_unmasked)
    if needs.joined is not None:
        assert batch.joined is not None, "Recipe.joined knows which objectives read pairs as one text"
        at.joined = encode(engine, batch.joined, needs.joined)
    return at


@dataclass
class Turn:
    """What the discriminator has seen since its last turn: features without gradient, from one rank's micro-steps.

    `discriminate` is the discriminator's own engine.
    """

    discriminate: Callable[[Tensor], Tensor]
    batches: list[Batch] = field(default_factory=list)
    features: list[Tensor] = field(default_factory=list)
    languages: list[Tensor] = field(default_factory=list)

    def see(self, at: MicroStep) -> None:
        """Remember a micro-step's features."""
        self.batches.append(at.batch)
        self.features.append(at.features_FH.detach())
        self.languages.append(at.language_F)

    @property
    def features_FH(self) -> Tensor:
        """All of them."""
        return torch.cat(self.features)

    @property
    def language_F(self) -> Tensor:
        """The language of each."""
        return torch.cat(self.languages)


@dataclass(frozen=True)
class Term:
    """An objective's sum over a micro-batch, and what else is worth seeing.

    Attributes:
        total: scalar fp32 with gradient, the sum over the targets.
        observed: name -> (sum, count), metrics without gradient.
        per_target: [M] the loss of each masked target, without gradient, for the losses per language.
    """

    total: Tensor
    observed: Mapping[str, tuple[Tensor, float]] = field(default_factory=dict)
    per_target: Tensor | None = None


@dataclass(frozen=True)
class Moved:
    """The student after one of its moves. Every rank is there: what is called here may wait for the others.

    Attributes:
        weights: names -> (name, whole weight), one after the other; valid until the next one is asked for.
        everyone: this rank's value -> every rank's, by rank.
    """

    weights: Callable[[Collection[str]], Iterator[tuple[str, Tensor]]]
    everyone: Callable[[Any], list[Any]]


@dataclass(frozen=True)
class Setting:
    """What an objective is made for. `recipe` is whole and checked."""

    recipe: Recipe
    student: Sizes
    teacher: Sizes | None = None


class Objective(ABC):
    """One loss. Its class names the recipe's table, the TensorBoard tag and the player.

    Args:
        table: its table in the recipe.
        setting: the shapes it is made for.

    Raises:
        ConfigError: it cannot be right with these models; names the keys and the fix.
    """

    name: ClassVar[str]
    player: ClassVar[str] = "student"
    needs: Needs
    """Set by the class, or by its __init__ where it depends on the setting."""

    def __init__(self, table: Table, setting: Setting) -> None:
        self.table = table
        self.setting = setting

    @property
    def teacher_sizes(self) -> Sizes:
        """The teacher's shape; DataError when its folder could not be read."""
        if self.setting.teacher is None:
            raise DataError(f"[objectives.{self.name}] needs the teacher, and there is none to be read yet")
        return self.setting.teacher

    @property
    def weight(self) -> Weight:
        """Weight of the term, constant or over the run."""
        return self.table.weight  # type: ignore[attr-defined]

    def module(self) -> nn.Module | None:
        """What is learnt beside the encoder: made once a run, with the same weights for a seed; at.beside[name]."""
        return None

    def begin(self, student: Encoder) -> None:  # noqa: B027  (most have nothing to do)
        """See the student as it starts, whole and on its device, with `module()` in student.beside; called once."""

    def after_move(self, moved: Moved) -> None:  # noqa: B027  (most have nothing to do)
        """Called on every rank after each move of the student; what changes here must be the same on all of them."""

    def state(self) -> dict[str, Tensor]:
        """What it has to know to go on, besides `module()`, the same on every rank; the first one saves it."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:  # noqa: B027  (most have nothing to do)
        """Go on from what `state()` gave, whatever the number of ranks that saved it."""

    @abstractmethod
    def count(self, batch: Batch) -> int:
        """Number of targets in a batch; known before any forward."""

    @abstractmethod
    def term(self, at: Any) -> Term:
        """The sum over the targets of a MicroStep (the student's objectives) or a Turn (the discriminator's)."""
