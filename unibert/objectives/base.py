"""What an objective is: it says what it needs and how many targets a batch holds, and gives a sum.

Sums and counts, never means: the trainer divides by the count of the whole optimizer step over all
ranks, so that accumulation, ranks and uneven masks change nothing.

Shapes: R rows, S width, D documents, M masked targets, H hidden, V vocabulary, L languages.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from unibert.data.batches import Batch
from unibert.models.discriminator import sentence_features
from unibert.models.encoder import EncoderOutput
from unibert.schema import Ramp, Table


@dataclass(frozen=True)
class Needs:
    """What student and teacher have to compute: any of `last_hidden`, `masked_logits`."""

    student: frozenset[str] = frozenset()
    teacher: frozenset[str] = frozenset()

    def __or__(self, other: Needs) -> Needs:
        return Needs(self.student | other.student, self.teacher | other.teacher)


@dataclass
class MicroStep:
    """One micro-batch of one rank, and what the models said of it.

    `discriminate` is the frozen discriminator [D, H] -> [D, L], through which the student learns.
    """

    batch: Batch
    student: EncoderOutput
    teacher: EncoderOutput | None
    feature: Literal["cls", "mean"]
    discriminate: Callable[[Tensor], Tensor] | None = None

    @cached_property
    def features_DH(self) -> Tensor:
        """The student's sentence features in fp32, with gradient."""
        return sentence_features(self.student.last_hidden, self.batch, kind=self.feature).float()

    @property
    def batches(self) -> list[Batch]:
        """The micro-batch."""
        return [self.batch]

    @property
    def language_D(self) -> Tensor:
        """Language of each document."""
        return self.batch.language


@dataclass
class Turn:
    """What the discriminator has seen since its last turn: features without gradient, from one rank's micro-steps.

    `discriminate` is the discriminator's own engine.
    """

    discriminate: Callable[[Tensor], Tensor]
    batches: list[Batch] = field(default_factory=list)
    features: list[Tensor] = field(default_factory=list)

    def see(self, at: MicroStep) -> None:
        """Remember a micro-step's features."""
        self.batches.append(at.batch)
        self.features.append(at.features_DH.detach())

    @property
    def features_DH(self) -> Tensor:
        """All of them."""
        return torch.cat(self.features)

    @property
    def language_D(self) -> Tensor:
        """Language of each document."""
        return torch.cat([batch.language for batch in self.batches])


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


class Objective(ABC):
    """One loss. Its class names the recipe's table, the TensorBoard tag, the player and the needs."""

    name: ClassVar[str]
    player: ClassVar[str]
    needs: ClassVar[Needs]

    def __init__(self, table: Table) -> None:
        self.table = table

    @property
    def weight(self) -> float | Ramp:
        """Weight of the term, constant or over the run."""
        return self.table.weight  # type: ignore[attr-defined]

    @abstractmethod
    def count(self, batch: Batch) -> int:
        """Number of targets in a batch; known before any forward."""

    @abstractmethod
    def term(self, at: Any) -> Term:
        """The sum over the targets of a MicroStep (the student's objectives) or a Turn (the discriminator's)."""
