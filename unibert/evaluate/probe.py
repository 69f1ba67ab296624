"""A fresh linear language probe on frozen sentence features.

A discriminator's own failing accuracy proves nothing about the encoder: it may only have been beaten. So a new
multinomial logistic regression is fitted on the frozen features, with the same split for every model.

Shapes: N texts, H width, L languages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unibert.errors import DataError
from unibert.evaluate.heldout import split_fraction

TRAIN_FRACTION = 0.7
"""Share of the texts that the probe is fitted on; a text's hash decides its side."""
PENALTIES = (1e-3, 1e-2, 1e-1)
"""L2 penalties tried; the best on a fifth of the training side, held out from the fit, is kept."""
ITERATIONS = 60
"""Most LBFGS iterations of a fit."""
MINIMUM_LINES = 20
"""A language with fewer held-out lines is left out of the probe."""


@dataclass(frozen=True)
class ProbeScore:
    """Accuracy of the probe on texts it has not seen, and what to hold it against."""

    accuracy: float
    low: float
    high: float
    chance: float
    majority: float
    penalty: float
    train: int
    test: int
    recall: dict[str, float]


@dataclass(frozen=True)
class Judged:
    """A fitted probe on the texts it was not fitted on."""

    test_N: Tensor
    """bool: which texts those are."""
    right_T: Tensor
    """bool: whose language it named, of the test side's T texts."""
    label_T: Tensor
    names: list[str]
    majority: float
    """Share, on the test side, of the language that is most frequent in training."""
    penalty: float


def judged(features_NH: Tensor, *, texts: Sequence[str], languages: Sequence[str]) -> Judged:
    """Fit languages on standardised features of the training side, and ask the test side.

    Args:
        features_NH: frozen features, fp32.
        texts: N texts; equal texts fall on the same side.
        languages: N language codes.

    Raises:
        DataError: fewer than two languages, or one with no text on either side.
    """
    names = sorted(set(languages))
    side_N = torch.tensor([split_fraction(text) for text in texts], dtype=torch.float64)
    label_N = torch.tensor([names.index(code) for code in languages])
    train_N, test_N = side_N < TRAIN_FRACTION, side_N >= TRAIN_FRACTION
    _check(names, label_N, train_N)
    mean_H, std_H = features_NH[train_N].mean(0), features_NH[train_N].std(0).clamp_min(1e-6)
    features_NH = (features_NH - mean_H) / std_H

    tune_N = train_N & (side_N >= TRAIN_FRACTION * 0.8)
    fit_N = train_N & ~tune_N

    def tried(penalty: float) -> float:
        probe = _fit(features_NH[fit_N], label_N[fit_N], classes=len(names), penalty=penalty)
        return (probe(features_NH[tune_N]).argmax(1) == label_N[tune_N]).double().mean().item()

    penalty = max(PENALTIES, key=tried)
    probe = _fit(features_NH[train_N], label_N[train_N], classes=len(names), penalty=penalty)
    label_T = label_N[test_N]
    most = label_N[train_N].bincount(minlength=len(names)).argmax()
    return Judged(
        test_N=test_N,
        right_T=probe(features_NH[test_N]).argmax(1) == label_T,
        label_T=label_T,
        names=names,
        majority=(label_T == most).double().mean().item(),
        penalty=penalty,
    )


def language_probe(features_NH: Tensor, *, texts: Sequence[str], languages: Sequence[str]) -> ProbeScore:
    """What a fresh probe is worth.

    Args:
        features_NH: as `judged`.
        texts: likewise.
        languages: likewise.

    Returns:
        Accuracy with its 95 % Wilson interval; `chance` is 1/L, `majority` the test share of the language that is
        most frequent in training, `recall` the accuracy per language.

    Raises:
        DataError: as `judged`.
    """
    found = judged(features_NH, texts=texts, languages=languages)
    hits, total = int(found.right_T.sum()), len(found.right_T)
    low, high = wilson(hits, total)
    return ProbeScore(
        accuracy=hits / total,
        low=low,
        high=high,
        chance=1 / len(found.names),
        majority=found.majority,
        penalty=found.penalty,
        train=len(texts) - total,
        test=total,
        recall={name: found.right_T[found.label_T == i].double().mean().item() for i, name in enumerate(found.names)},
    )


def on_training_side(text: str) -> bool:
    """Whether the probe is fitted on this text, and not judged on it."""
    return split_fraction(text) < TRAIN_FRACTION


def wilson(hits: int, total: int, *, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share: (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)."""
    p, shrink = hits / total, 1 + z * z / total
    middle = (p + z * z / (2 * total)) / shrink
    half = z / shrink * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def _check(names: Sequence[str], label_N: Tensor, train_N: Tensor) -> None:
    if len(names) < 2:
        raise DataError(f"the language probe needs at least two languages, and held-out lines are only in {names}")
    for i, name in enumerate(names):
        train, test = int((train_N & (label_N == i)).sum()), int((~train_N & (label_N == i)).sum())
        if not train or not test:
            raise DataError(
                f"the language probe has {train} training and {test} test lines in {name!r}: raise "
                f"data.heldout_lines_per_language and run `unibert data clean` with --force, or leave the language out"
            )


def _fit(features_NH: Tensor, label_N: Tensor, *, classes: int, penalty: float) -> Callable[[Tensor], Tensor]:
    """Multinomial logistic regression: min mean cross-entropy + penalty/2 |W|^2, by LBFGS from zero."""
    weight_LH = torch.zeros(classes, features_NH.shape[1], requires_grad=True)
    bias_L = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight_LH, bias_L], max_iter=ITERATIONS, history_size=10, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(features_NH @ weight_LH.T + bias_L, label_N)
        value = value + penalty / 2 * weight_LH.square().sum()
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[arg-type]  # torch's stub wants a float
    return lambda features: (features @ weight_LH.T + bias_L).detach()
