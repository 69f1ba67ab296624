"""Rates and weights as pure functions of the optimizer step."""

from __future__ import annotations

import math

from unibert.objective_tables import Line, Ramp, Weight
from unibert.plan import rate_factor
from unibert.schema import Recipe


def learning_rate(step: int, *, recipe: Recipe) -> float:
    """Rate of a step, from 1: linear warm-up, then the chosen shape down to the final rate.

    On the ladder it is multiplied by sqrt(batch of the step / train.global_batch_sequences), the square-root scaling
    of You et al. 2020 (arXiv 1904.00962).
    """
    steps, optimizer = recipe.train.steps, recipe.optimizer
    warmup = round(optimizer.warmup_fraction * steps)
    peak = rate_factor(recipe, step) * optimizer.learning_rate
    if step <= warmup:
        return peak * step / max(1, warmup)
    done = (step - warmup) / max(1, steps - warmup)
    shape = {
        "constant": 1.0,
        "linear": 1.0 - done,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * done)),
    }[optimizer.schedule]
    final = 1.0 if optimizer.schedule == "constant" else optimizer.final_fraction
    return peak * (final + (1.0 - final) * shape)


def weight(value: Weight, *, step: int, steps: int) -> float:
    """Weight of an objective in the step that makes `step`; a ramp is DANN's (Ganin et al. 2016)."""
    done = (step - 1) / max(1, steps - 1)
    if isinstance(value, Ramp):
        return value.max * (2.0 / (1.0 + math.exp(-value.steepness * done)) - 1.0)
    if isinstance(value, Line):
        return value.start + (value.end - value.start) * min(1.0, done / value.until)
    return value
