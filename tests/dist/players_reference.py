"""The textbook loop that players_table.py compares with: plain PyTorch in float64, one process, whole batches.

With another dtype the student's forward and backward are in that, its weights still in float64: what the precision
alone does. It shares weights at the start, model classes and batches with the trainer, and nothing else: no engine, no
accumulation, no objective, no optimizer of unibert.

Legend: D documents, H hidden size, P parameters of a list.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unibert.config import Recipe
from unibert.data.batches import Batch
from unibert.models.discriminator import build_discriminator
from unibert.models.student import build_student
from unibert.models.teacher import load_teacher


class Reversed(torch.autograd.Function):
    """A gradient reversal layer (Ganin et al. 2016): the identity, whose gradient is -weight times what comes."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -ctx.weight * gradient, None


class PlainLamb:
    """LAMB of arXiv 1904.00962, one whole parameter after the other; biases and LayerNorm by plain Adam."""

    def __init__(self, parameters: list[nn.Parameter], recipe: Recipe) -> None:
        self.table, self.t, self.lr = recipe.optimizer, 0, recipe.optimizer.learning_rate
        self.moments = [(p, torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]

    @torch.no_grad()
    def step(self) -> None:
        self.t += 1
        (b1, b2), table = self.table.betas, self.table
        for w, m, v in self.moments:
            m.copy_(b1 * m + (1 - b1) * w.grad)
            v.copy_(b2 * v + (1 - b2) * w.grad**2)
            u = m / (1 - b1**self.t) / ((v / (1 - b2**self.t)).sqrt() + table.epsilon)
            ratio = 1.0
            if w.dim() >= 2:
                u = u + table.weight_decay * w
                ratio = min(float(w.norm() / u.norm()), table.trust_ratio_max)
            w -= self.lr * ratio * u

    def set_rate(self, rate: float) -> None:
        self.lr = rate


class PlainAdamW:
    """torch's AdamW, biases and LayerNorm without decay."""

    def __init__(self, parameters: list[nn.Parameter], recipe: Recipe, rate: float | None = None) -> None:
        table = recipe.optimizer
        groups = [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": table.weight_decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        self.inner = torch.optim.AdamW(groups, lr=rate or table.learning_rate, betas=table.betas, eps=table.epsilon)
        self.step = self.inner.step

    def set_rate(self, rate: float) -> None:
        for group in self.inner.param_groups:
            group["lr"] = rate


class Trained(NamedTuple):
    """Of `student` and `discriminator` each."""

    parameters: dict[str, dict[str, Tensor]]
    """By name."""
    norms: dict[str, float]
    """Of the last gradient, before clipping."""


def train(
    recipe: Recipe, *, pieces: Callable[[int], Sequence[Batch]], steps: int, dtype: torch.dtype = torch.float64
) -> Trained:
    """Train student and discriminator.

    Args:
        recipe: what to do; batch sizes are not read.
        pieces: the global batch of a step (from 1), cut where the discriminator has its turns.
        steps: how many.
        dtype: of the student's forward and backward.
    """
    run = _Loop(recipe, dtype)
    one_pass = recipe.objectives.language_confusion.form == "reversal"
    for step in range(1, steps + 1):
        run.round_weights()
        (run.step_by_reversal if one_pass else run.step_in_turns)(step, pieces(step))
    modules = {"student": run.student, "discriminator": run.guesser}
    return Trained({name: dict(module.named_parameters()) for name, module in modules.items()}, run.norms)


class _Loop:
    def __init__(self, recipe: Recipe, dtype: torch.dtype) -> None:
        self.recipe = recipe
        self.student = build_student(recipe).double()
        self.rounded = copy.deepcopy(self.student).to(dtype)  # what computes
        self.guesser = build_discriminator(recipe, feature_size=self.student.hidden_size).double()
        self.teacher = copy.deepcopy(load_teacher(recipe, device=torch.device("cpu")).encoder).double()
        self.weights, self.guess_weights = list(self.student.parameters()), list(self.guesser.parameters())
        self.rounded_weights = list(self.rounded.parameters())
        own = PlainLamb if recipe.optimizer.name == "lamb" else PlainAdamW
        self.optimizer = own(self.weights, recipe)
        self.guess_optimizer = PlainAdamW(self.guess_weights, recipe, recipe.discriminator.learning_rate)
        self.norms: dict[str, float] = {}

    @torch.no_grad()
    def round_weights(self) -> None:
        for rounded, weight in zip(self.rounded_weights, self.weights, strict=True):
            rounded.copy_(weight)

    def step_by_reversal(self, step: int, pieces: Sequence[Batch]) -> None:
        """One pass: the sum of all losses goes back once, through the reversal layer; both move."""
        (batch,) = pieces
        loss, features_DH = self.supervised(batch, targets=batch.targets, tokens=batch.tokens)
        logits = self.guesser(Reversed.apply(features_DH, self.confusion_weight(step)))
        loss = loss + F.cross_entropy(logits, batch.language, reduction="sum") / batch.documents
        self.move(torch.autograd.grad(loss, self.rounded_weights + self.guess_weights), step=step)

    def step_in_turns(self, step: int, pieces: Sequence[Batch]) -> None:
        """Piece by piece the student's gradient is added up, and the discriminator makes its k moves."""
        targets, tokens, documents = (sum(getattr(b, n) for b in pieces) for n in ("targets", "tokens", "documents"))
        total = [torch.zeros_like(p) for p in self.weights]
        for batch in pieces:
            loss, features_DH = self.supervised(batch, targets=targets, tokens=tokens)
            p = F.softmax(self.guesser(features_DH), dim=-1)
            confusion = -(p * p.shape[-1]).log().mean(dim=-1).sum()  # KL(uniform || p)
            loss = loss + self.confusion_weight(step) * confusion / documents
            total = [a + b for a, b in zip(total, torch.autograd.grad(loss, self.rounded_weights), strict=True)]
            for _ in range(self.recipe.discriminator.moves):
                guess = F.cross_entropy(self.guesser(features_DH.detach()), batch.language)
                self.move_guesser(torch.autograd.grad(guess, self.guess_weights))
        self.move_student(total, step=step)

    def supervised(self, batch: Batch, *, targets: int, tokens: int) -> tuple[Tensor, Tensor]:
        """Masked LM and both distillations, divided by the step's counts; and the documents' mean features [D, H]."""
        with torch.no_grad():
            hidden_t, logits_t = self.teacher(
                batch.input_ids, batch.position_ids, batch.document, batch.target_positions
            )[:2]
        answers = self.rounded(batch.input_ids, batch.position_ids, batch.document, batch.target_positions)[:2]
        hidden, logits = (answer.double() for answer in answers)
        kl = F.kl_div(F.log_softmax(logits / 2, -1), F.softmax(logits_t / 2, -1), reduction="sum") * 4
        loss = F.cross_entropy(logits, batch.target_ids, reduction="sum") / targets + 0.5 * kl / targets
        loss = loss + ((hidden - hidden_t)[batch.document >= 0] ** 2).mean(-1).sum() / tokens
        return loss, torch.stack([hidden[batch.document == d].mean(0) for d in range(batch.documents)])

    def confusion_weight(self, step: int) -> float:
        """DANN's ramp."""
        done = (step - 1) / (self.recipe.train.steps - 1)
        return self.recipe.objectives.language_confusion.weight.max * (2 / (1 + math.exp(-10 * done)) - 1)

    def move(self, gradients: Sequence[Tensor], *, step: int) -> None:
        self.move_guesser(gradients[len(self.weights) :])
        self.move_student(gradients[: len(self.weights)], step=step)

    def move_student(self, gradients: Sequence[Tensor], *, step: int) -> None:
        done = step / self.recipe.train.steps
        rate = self.recipe.optimizer.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))
        self.optimizer.set_rate(rate)
        self.norms["student"] = _clip(self.weights, gradients, norm=self.recipe.optimizer.clip_norm)
        self.optimizer.step()

    def move_guesser(self, gradients: Sequence[Tensor]) -> None:
        largest = self.recipe.discriminator.clip_norm
        self.norms["discriminator"] = _clip(self.guess_weights, gradients, norm=largest)
        self.guess_optimizer.step()


def _clip(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor], *, norm: float) -> float:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.to(parameter.dtype)
    return float(torch.nn.utils.clip_grad_norm_(parameters, norm))
