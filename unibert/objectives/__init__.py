"""The objectives, one file each. OBJECTIVES maps a table of the recipe to its class; nothing registers itself."""

from __future__ import annotations

from unibert.objectives.base import MicroStep, Needs, Objective, Term, Turn
from unibert.objectives.distill_hidden import DistillHidden
from unibert.objectives.distill_logits import DistillLogits
from unibert.objectives.language_confusion import LanguageConfusion
from unibert.objectives.language_guess import LanguageGuess
from unibert.objectives.masked_lm import MaskedLM
from unibert.schema import Recipe

__all__ = ["OBJECTIVES", "MicroStep", "Needs", "Objective", "Term", "Turn", "build"]

OBJECTIVES: dict[str, type[Objective]] = {
    "masked_lm": MaskedLM,
    "distill_hidden": DistillHidden,
    "distill_logits": DistillLogits,
    "language_guess": LanguageGuess,
    "language_confusion": LanguageConfusion,
}


def build(recipe: Recipe) -> list[Objective]:
    """The objectives that are on in a recipe, in its order."""
    return [OBJECTIVES[name](table) for name, table in recipe.objectives.on().items()]
