"""The objectives, one file each. OBJECTIVES maps a table of the recipe to its class; nothing registers itself.

A table with several forms has a class for each of them.
"""

from __future__ import annotations

from unibert.errors import ConfigError
from unibert.objectives.align_byol import BootstrapPairs
from unibert.objectives.align_momentum import Momentum
from unibert.objectives.align_mse import MeanSquaredPairs
from unibert.objectives.align_sentences import InBatch
from unibert.objectives.align_words import WordsByDictionary, WordsByIndex
from unibert.objectives.base import MicroStep, Moved, Needs, Objective, Setting, Term, Turn, read
from unibert.objectives.distill_attention import DistillAttention
from unibert.objectives.distill_hidden import DistillHidden
from unibert.objectives.distill_logits import DistillLogits
from unibert.objectives.distill_relations import DistillRelations
from unibert.objectives.language_confusion import LanguageConfusion
from unibert.objectives.language_guess import LanguageGuess
from unibert.objectives.masked_lm import MaskedLM
from unibert.objectives.structure import Structure
from unibert.objectives.translation_lm import TranslationLM
from unibert.schema import Table

__all__ = [
    "OBJECTIVES",
    "MicroStep",
    "Moved",
    "Needs",
    "Objective",
    "Setting",
    "Term",
    "Turn",
    "build",
    "kind_of",
    "read",
]

OBJECTIVES: dict[str, type[Objective] | dict[str, type[Objective]]] = {
    "masked_lm": MaskedLM,
    "distill_hidden": DistillHidden,
    "distill_logits": DistillLogits,
    "distill_attention": DistillAttention,
    "distill_relations": DistillRelations,
    "language_guess": LanguageGuess,
    "language_confusion": LanguageConfusion,
    "translation_lm": TranslationLM,
    "align_sentences": {
        "info_nce": InBatch,
        "momentum": Momentum,
        "byol": BootstrapPairs,
        "mse": MeanSquaredPairs,
    },
    "align_words": {"index": WordsByIndex, "dictionary": WordsByDictionary},
    "structure": Structure,
}


def kind_of(name: str, table: Table) -> type[Objective]:
    """The class of an objective; of some there is one for each `form`."""
    kind = OBJECTIVES[name]
    return kind[table.form] if isinstance(kind, dict) else kind  # type: ignore[attr-defined]


def build(setting: Setting) -> list[Objective]:
    """The objectives that are on in a recipe, in its order.

    Raises:
        ConfigError: one of them cannot be right with these models; all such are named.
    """
    made, problems = [], []
    for name, table in setting.recipe.objectives.on().items():
        try:
            made.append(_checked(kind_of(name, table)(table, setting)))
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
