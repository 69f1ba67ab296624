"""Batch arithmetic and the large-batch ladder.

Steps count from 1. The batch of a step depends on the recipe alone, never on ranks or micro-batch, so that every
world size reads the same documents in the same step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from unibert.errors import ConfigError
from unibert.schema import Recipe


@dataclass(frozen=True)
class Stretch:
    """A stretch of steps with one batch: a rung of the ladder, or what comes after it."""

    first_step: int
    last_step: int
    global_batch: int
    accumulation: int
    """Micro-batches of a rank in a step."""
    rate_factor: float
    """Of the learning rate."""
    sequences: int
    """Documents from the first step of the run to last_step."""


def global_batch(recipe: Recipe, step: int) -> int:
    """Documents of a step: of the first rung with step <= until_step, else train.global_batch_sequences."""
    return next(
        (rung.global_batch_sequences for rung in recipe.train.ladder if step <= rung.until_step),
        recipe.train.global_batch_sequences,
    )


def first_sample(recipe: Recipe, step: int) -> int:
    """Position in the stream of the first document of a step: the sum of all batches before it, in O(rungs)."""
    before, done, position = step - 1, 0, 0
    for rung in recipe.train.ladder:
        until = min(rung.until_step, before)
        position += (until - done) * rung.global_batch_sequences
        done = until
    return position + (before - done) * recipe.train.global_batch_sequences


def step_of(recipe: Recipe, position: int) -> int:
    """The step, from 1, that reads a position of the stream."""
    done = begin = 0
    for rung in recipe.train.ladder:
        end = begin + (rung.until_step - done) * rung.global_batch_sequences
        if position < end:
            return done + 1 + (position - begin) // rung.global_batch_sequences
        done, begin = rung.until_step, end
    return done + 1 + (position - begin) // recipe.train.global_batch_sequences


def rate_factor(recipe: Recipe, step: int) -> float:
    """sqrt(batch of the step / train.global_batch_sequences).

    Source: square-root scaling of You et al. 2020, arXiv 1904.00962.
    """
    return math.sqrt(global_batch(recipe, step) / recipe.train.global_batch_sequences)


def accumulation_steps(recipe: Recipe, *, world: int, step: int | None = None) -> int:
    """Micro-batches of a rank in a step, batch / (micro x world); after the ladder when `step` is None.

    Raises:
        ConfigError: the batch of that step does not divide.
    """
    if world < 1:
        raise ConfigError(f"world = {world}: a run has at least one rank")
    train = recipe.train
    batch = train.global_batch_sequences if step is None else global_batch(recipe, step)
    if batch % (train.micro_batch_sequences * world):
        raise ConfigError(_does_not_divide(recipe, batch, world))
    return batch // (train.micro_batch_sequences * world)


def check_batches(recipe: Recipe, *, world: int) -> None:
    """Every rung's batch and the discriminator's turns fit this world size.

    Raises:
        ConfigError: a batch is no multiple of micro x world, or discriminator.turns does not divide the micro-batches
            of every step.
    """
    windows = [stretch.accumulation for stretch in stretches(recipe, world=world)]
    turns = recipe.discriminator.turns if recipe.discriminator else 1
    if turns == "every_micro_batch" or not any(window % turns for window in windows):
        return
    common = math.gcd(*windows)
    fitting = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
    whole, rungs = recipe.train.global_batch_sequences, ", rung by rung" if recipe.train.ladder else ""
    raise ConfigError(
        f"discriminator.turns = {turns} does not divide the {' and '.join(map(str, windows))} micro-batches of a step"
        f"{rungs} (train.global_batch_sequences {whole} / (micro {recipe.train.micro_batch_sequences} x world {world}))"
        f': choose one of {fitting}, or "every_micro_batch"'
    )


def turn_length(recipe: Recipe, *, accumulation: int) -> int:
    """Micro-steps of one turn of the discriminator in a step of `accumulation` (`check_batches`: it divides)."""
    turns = recipe.discriminator.turns if recipe.discriminator else 1
    return 1 if turns == "every_micro_batch" else accumulation // turns


def stretches(recipe: Recipe, *, world: int) -> tuple[Stretch, ...]:
    """The run cut where its batch changes: the rungs, and what comes after them.

    Raises:
        ConfigError: a batch does not divide.
    """
    ends = [*(rung.until_step for rung in recipe.train.ladder), recipe.train.steps]
    return tuple(
        Stretch(
            first_step=before + 1,
            last_step=end,
            global_batch=global_batch(recipe, end),
            accumulation=accumulation_steps(recipe, world=world, step=end),
            rate_factor=rate_factor(recipe, end),
            sequences=first_sample(recipe, end + 1),
        )
        for before, end in pairwise([0, *ends])
    )


def _does_not_divide(recipe: Recipe, batch: int, world: int) -> str:
    train, micro = recipe.train, recipe.train.micro_batch_sequences
    place, key = "", "train.global_batch_sequences"
    if batch != train.global_batch_sequences:
        until = next(rung.until_step for rung in train.ladder if rung.global_batch_sequences == batch)
        place, key = f"train.ladder, until_step {until}: ", "global_batch_sequences"
    unit = micro * world
    below, above = batch // unit * unit, (batch // unit + 1) * unit
    near = f"{below} or {above}" if below else f"{above}"
    # Another micro-batch or world size must divide the other rungs too.
    common = math.gcd(train.global_batch_sequences, *(rung.global_batch_sequences for rung in train.ladder))
    micros = [n for n in range(1, common + 1) if common % (n * world) == 0]
    others = f", or train.micro_batch_sequences = {min(micros, key=lambda n: abs(n - micro))}" if micros else ""
    worlds = [n for n in range(1, common // micro + 1) if common % (micro * n) == 0]
    ranks = f", or {min(worlds, key=lambda n: abs(n - world))} ranks" if worlds else ""
    return (
        f"{place}{key} = {batch} is not a multiple of train.micro_batch_sequences {micro} x world {world} = {unit}: "
        f"take {key} = {near}{others}{ranks}"
    )
