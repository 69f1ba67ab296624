"""The `[objectives.*]` tables of a recipe, one class each. What they mean is said in objectives/, one file each."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from unibert.table import Table


class Ramp(Table):
    """A weight over the run: `max` times (2 / (1 + exp(-steepness p)) - 1), p the fraction of steps done (DANN)."""

    max: Annotated[float, Field(ge=0)]
    """Weight the ramp tends to."""
    steepness: Annotated[float, Field(gt=0)] = 10.0
    """Steepness of the ramp."""


class MaskedLM(Table):
    """Cross-entropy at the masked positions."""

    weight: float | Ramp = 1.0
    """Weight of the term."""


class DistillHidden(Table):
    """Squared distance of the last hidden states, student to teacher, token by token."""

    weight: float | Ramp = 1.0
    """Weight of the term."""
    positions: Literal["all", "unmasked"] = "all"
    """`unmasked` leaves the targets of the masked LM out: what both models say of a mask is then the head's matter."""


class DistillLogits(Table):
    """T^2 KL(teacher || student) of the masked-LM distributions at the masked positions."""

    weight: float | Ramp = 1.0
    """Weight of the term."""
    temperature: Annotated[float, Field(gt=0)] = 2.0
    """Temperature of both distributions."""


class LanguageGuess(Table):
    """The discriminator's own loss: cross-entropy of the language, on detached features."""

    weight: float | Ramp = 1.0
    """Weight of the term."""


class LanguageConfusion(Table):
    """What the student gets through the frozen discriminator."""

    weight: float | Ramp = Ramp(max=0.1)
    """Weight of the term (lambda)."""
    form: Literal["uniform", "reversal"] = "uniform"
    """`uniform`: KL to the uniform distribution, bounded; `reversal`: minus the cross-entropy (gradient reversal)."""


class Objectives(Table):
    """An absent table means off."""

    masked_lm: MaskedLM | None = None
    distill_hidden: DistillHidden | None = None
    distill_logits: DistillLogits | None = None
    language_guess: LanguageGuess | None = None
    language_confusion: LanguageConfusion | None = None

    def on(self) -> dict[str, Table]:
        """The objectives that are on, in the order of this class."""
        return {name: table for name in type(self).model_fields if (table := getattr(self, name)) is not None}
