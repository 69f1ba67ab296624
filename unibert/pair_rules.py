"""What a recipe's objectives on translation pairs demand of the rest of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from unibert.table import Table

if TYPE_CHECKING:
    from unibert.schema import Recipe

PIVOT = "en"
"""The language whose side of a pair the teacher reads."""
ON_PAIRS = ("translation_lm", "align_sentences", "align_words", "structure")
RATIO_BITS = 20
"""data.parallel_ratio is read in units of 2 ** -20 (plan.pairs_before)."""


def reads_teacher(name: str, table: Table) -> bool:
    """Whether an objective on pairs learns from the teacher's reading of the English side."""
    learns = name == "structure" or getattr(table, "form", None) in ("byol", "mse", "index")
    return name in ON_PAIRS and learns


def pair_problems(recipe: Recipe) -> Iterator[str]:
    """What cannot be right, each with its fix."""
    on = {name: table for name, table in recipe.objectives.on().items() if name in ON_PAIRS}
    if recipe.data.code_switch_fraction and not recipe.data.parallel_ratio:
        yield "data.code_switch_fraction switches between the sides of translation pairs: set data.parallel_ratio"
    learn_by_language = [name for name, table in on.items() if reads_teacher(name, table)]
    if recipe.data.code_switch_fraction and (recipe.discriminator or learn_by_language):
        who = "the discriminator" if recipe.discriminator else f"[objectives.{learn_by_language[0]}]"
        yield (
            f"data.code_switch_fraction leaves half of a switched text in the other language, and {who} would take all "
            "of it for its first one: set it to 0, or take that out"
        )
    if recipe.data.parallel_english_fraction and not (recipe.data.parallel_ratio and PIVOT in recipe.languages):
        yield f"data.parallel_english_fraction is of pairs with English: set data.parallel_ratio, and have {PIVOT!r}"
    for name, table in on.items():
        where = f"[objectives.{name}]"
        if not recipe.data.parallel_ratio:
            yield f"{where} learns from translation pairs: set data.parallel_ratio, the share of them in the stream"
        if reads_teacher(name, table):
            if recipe.teacher is None:
                yield f"{where} needs a [teacher] table"
            if PIVOT not in recipe.languages:
                yield f"{where} compares with the English side of pairs: add {PIVOT!r} to languages"
        if size := getattr(table, "group_pairs", 0):
            yield from _group_problems(recipe, where, size)


def _group_problems(recipe: Recipe, where: str, size: int) -> Iterator[str]:
    """A group must never be cut by the end of a micro-batch, at any step: then ranks and micro-batch change nothing."""
    micro, ratio = recipe.train.micro_batch_sequences, recipe.data.parallel_ratio
    pairs = micro // 2 * round(ratio * (1 << RATIO_BITS))
    if ratio and (not pairs or pairs % (size << RATIO_BITS)):
        yield (
            f"{where} group_pairs = {size}, but a micro-batch of {micro} documents has {micro / 2 * ratio:g} pairs: "
            "let train.micro_batch_sequences / 2 x data.parallel_ratio be a multiple of it, and the ratio a multiple "
            "of a power of 1/2 (0.25, 0.5, 1)"
        )
