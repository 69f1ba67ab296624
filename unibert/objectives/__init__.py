"""The objectives, one file each. OBJECTIVES maps a table of the recipe to its class; nothing registers itself."""

from __future__ import annotations

from unibert.errors import ConfigError
from unibert.objectives.base import MicroStep, Needs, Objective, Setting, Term, Turn
from unibert.objectives.distill_attention import DistillAttention
from unibert.objectives.distill_hidden import DistillHidden
from unibert.objectives.distill_logits import DistillLogits
from unibert.objectives.distill_relations import DistillRelations
from unibert.objectives.language_confusion import LanguageConfusion
from unibert.objectives.language_guess import LanguageGuess
from unibert.objectives.masked_lm import MaskedLM

__all__ = ["OBJECTIVES", "MicroStep", "Needs", "Objective", "Setting", "Term", "Turn", "build"]

OBJECTIVES: dict[str, type[Objective]] = {
    "masked_lm": MaskedLM,
    "distill_hidden": DistillHidden,
    "distill_logits": DistillLogits,
    "distill_attention": DistillAttention,
    "distill_relations": DistillRelations,
    "language_guess": LanguageGuess,
    "language_confusion": LanguageConfusion,
}


def build(setting: Setting) -> list[Objective]:
    """The objectives that are on in a recipe, in its order.

    Raises:
        ConfigError: one of them cannot be right with these models; all such are named.
    """
    made, problems = [], []
    for name, table in setting.recipe.objectives.on().items():
        try:
            made.append(_checked(OBJECTIVES[name](table, setting)))
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("; ".join(problems))
    return made


def _checked(objective: Objective) -> Objective:
    """The objective, when there is something that it can move."""
    if objective.player == "student" and objective.setting.recipe.student.trainable == "head":
        wanted = objective.needs.student
        if wanted is None or not (wanted.masked_logits or wanted.token_logits):
            raise ConfigError(
                f'student.trainable = "head" freezes all that [objectives.{objective.name}] could move: '
                'take it out, or set student.trainable = "all"'
            )
    return objective
