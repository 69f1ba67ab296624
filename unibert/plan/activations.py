"""Bytes that the student's forwards of one micro-batch keep for the backward pass. No torch here.

A forward over T places (padding too) of rows S wide keeps, in a layer of width H and inner width F,
    8 H + 2 F numbers a place: input, query, key, value, attention's output, the two sums before the norms, the norm's
    output, and the inner state before and after its activation; and S of the mask, which every layer makes anew;
before the layers H, and for each of M targets 2 V, logits and their log-probabilities, and the head's states: 3 H, or
4 H where the decoder moves. All
readings of a micro-batch are kept until it goes back, so a run with the masked text, the unmasked one and pairs as one
text has all three. With train.recompute_activations a layer keeps H, and one layer at a time all of it. The formula is
that of torch's fused attention and without dropouts; masks and norms' statistics of lower order are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from unibert.plan.memory import Dimensions
from unibert.schema import Recipe

READINGS = ("masked", "unmasked", "joined")


@dataclass(frozen=True)
class Activations:
    """Of one reading of a micro-batch by the student."""

    reading: str
    """`masked`, `unmasked`, or `joined`: both sides of each translation pair as one masked text."""
    tokens: int
    """Expected, of a micro-batch, without padding."""
    kept_bytes: int


def readings(recipe: Recipe) -> tuple[str, ...]:
    """What the student reads of a micro-batch for the recipe's objectives."""
    found = {"joined"} if recipe.joined is not None else set()
    for name, table in recipe.objectives.on().items():
        if name != "translation_lm" and not (name == "align_words" and table.form == "index"):  # type: ignore[attr-defined]
            found.add(getattr(table, "reading", "masked"))
    return tuple(name for name in READINGS if name in found)


def activations_of(
    recipe: Recipe, *, student: Dimensions, mean_tokens: float, padding: float, half: bool
) -> tuple[Activations, ...]:
    """Of every reading.

    Args:
        recipe: its objectives, micro-batch and width of a row.
        student: its sizes.
        mean_tokens: of a document; a side of a pair is taken to be as long, but no longer than half a row.
        padding: share of a micro-batch that is padding.
        half: whether it computes in 16 bits.
    """
    micro, width = recipe.train.micro_batch_sequences, recipe.data.max_sequence_tokens
    heads = _heads(recipe)
    out = []
    for reading in readings(recipe):
        tokens = micro * mean_tokens
        if reading == "joined":
            tokens = micro / 2 * recipe.data.parallel_ratio * (2 * min(mean_tokens, width / 2) - 1)
        places = width * max(1, -(-tokens // ((1 - padding) * width)))
        targets = tokens * recipe.masking.fraction if reading in heads else 0
        numbers = kept_numbers(recipe, student=student, places=places, targets=targets)
        out.append(Activations(reading, round(tokens), round((2 if half else 4) * numbers)))
    return tuple(out)


def kept_numbers(recipe: Recipe, *, student: Dimensions, places: float, targets: float) -> float:
    """Numbers that a forward keeps."""
    hidden, layers = student.hidden, student.layers
    layer = 8 * hidden + 2 * student.intermediate + recipe.data.max_sequence_tokens
    head = targets * ((4 if recipe.student.trainable == "all" else 3) * hidden + 2 * student.vocabulary)
    if recipe.student.trainable == "head":
        return head
    if recipe.train.recompute_activations:
        return places * ((layers + 1) * hidden + layer) + head
    return places * (hidden + layers * layer) + head


def _heads(recipe: Recipe) -> set[str]:
    """The readings at whose targets the masked-LM head runs."""
    on = recipe.objectives
    found = {"masked"} if on.masked_lm or on.distill_logits else set()
    return found | ({"joined"} if on.translation_lm else set())
