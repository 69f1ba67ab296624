"""Batch arithmetic and language shares."""

from __future__ import annotations

import numpy as np

from unibert.errors import ConfigError
from unibert.schema import Recipe


def smoothed_shares(tokens_per_language: np.ndarray, exponent: float) -> np.ndarray:
    """Share of each language in the stream: tokens ** exponent, normalised; [L] to float64 [L].

    1 keeps the languages as found, 0 makes them equal. Source: multilingual BERT (exponent 0.7), XLM-R (0.3).
    """
    weights = np.asarray(tokens_per_language, dtype=np.float64) ** exponent
    return weights / weights.sum()


def accumulation_steps(recipe: Recipe, *, world: int) -> int:
    """Micro-batches of a rank in one optimizer step: global / (micro x world).

    Raises:
        ConfigError: it does not divide, or discriminator.moves_per_step does not divide the result.
    """
    batch, micro = recipe.train.global_batch_sequences, recipe.train.micro_batch_sequences
    if world < 1:
        raise ConfigError(f"world = {world}: a run has at least one rank")
    if batch % (micro * world):
        raise ConfigError(_does_not_divide(batch, micro, world))
    accumulation = batch // (micro * world)
    moves = recipe.discriminator.moves_per_step if recipe.discriminator else 1
    if accumulation % moves:
        fitting = ", ".join(str(n) for n in range(1, accumulation + 1) if accumulation % n == 0)
        raise ConfigError(
            f"discriminator.moves_per_step = {moves} does not divide the {accumulation} micro-batches of a step "
            f"(train.global_batch_sequences {batch} / (micro {micro} x world {world})): choose one of {fitting}"
        )
    return accumulation


def _does_not_divide(batch: int, micro: int, world: int) -> str:
    unit = micro * world
    below, above = batch // unit * unit, (batch // unit + 1) * unit
    near = f"{below} or {above}" if below else f"{above}"
    micros = [n for n in range(1, batch + 1) if batch % (n * world) == 0]
    others = f", or train.micro_batch_sequences = {min(micros, key=lambda n: abs(n - micro))}" if micros else ""
    worlds = [n for n in range(1, batch // micro + 1) if batch % (micro * n) == 0]
    ranks = f", or {min(worlds, key=lambda n: abs(n - world))} ranks" if worlds else ""
    return (
        f"train.global_batch_sequences = {batch} is not a multiple of train.micro_batch_sequences {micro} x "
        f"world {world} = {unit}: take train.global_batch_sequences = {near}{others}{ranks}"
    )
