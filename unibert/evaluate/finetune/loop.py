"""Fine-tuning itself: plain AdamW in one process, the same numbers from the same seed on the same machine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unibert.data.lines import say
from unibert.errors import NumericsError
from unibert.evaluate.finetune.decoding import decode
from unibert.evaluate.finetune.distil import Answers, divergence_loss
from unibert.evaluate.finetune.heads import TaskModel, collate
from unibert.evaluate.finetune.settings import Settings
from unibert.evaluate.finetune.windows import Window

SECONDS_BETWEEN_LINES = 30.0


def fit(
    model: TaskModel,
    windows: Sequence[Window],
    *,
    rate: float,
    seed: int,
    settings: Settings,
    padding: int,
    answers: Answers | None = None,
    what: str = "fine-tuning",
) -> float:
    """Train in place and return the mean loss of the last epoch.

    AdamW; the rate rises over `warmup_fraction` of the steps, then falls linearly to 0; gradients have norm 1 at most.
    With a teacher's answers these are learnt, and labels are not looked at. Progress lines begin with `what`.

    Raises:
        NumericsError: the loss is not finite.
    """
    device = next(model.parameters()).device
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=rate,
        fused=True,  # without, half of a step on a CPU goes into the embeddings' update
    )
    steps = settings.epochs * -(-len(windows) // settings.batch)
    warm = max(1, round(settings.warmup_fraction * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, max(0.0, (steps - step) / max(1, steps - warm)))
    )
    order = torch.Generator().manual_seed(seed)
    model.train()
    losses: list[float] = []
    said = time.monotonic()
    for epoch in range(settings.epochs):
        losses.clear()
        for chosen in torch.randperm(len(windows), generator=order).split(settings.batch):
            own = [windows[i] for i in chosen.tolist()]
            batch = collate(own, padding=padding).to(device)
            with _precision(settings, device):
                loss = model.loss(batch) if answers is None else divergence_loss(model(batch), batch, own, answers)
            if not torch.isfinite(loss):
                raise NumericsError(f"{what}: the loss is {loss.item()} at rate {rate}: leave that rate out")
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
            if time.monotonic() - said > SECONDS_BETWEEN_LINES:
                said, done = time.monotonic(), epoch * (steps // settings.epochs) + len(losses)
                say(f"{what}: step {done} of {steps}, mean loss of the epoch {sum(losses) / len(losses):.3f}")
    return sum(losses) / len(losses)


@torch.no_grad()
def outputs_of(model: TaskModel, windows: Sequence[Window], *, settings: Settings, padding: int) -> list[Tensor]:
    """[P, C] of every window, without dropout; rows of like length are read together."""
    model.eval()
    device = next(model.parameters()).device
    outputs: list[Tensor] = [torch.empty(0)] * len(windows)
    order = sorted(range(len(windows)), key=lambda i: -max(len(row.ids) for row in windows[i].rows))
    for start in range(0, len(order), settings.batch):
        chosen = order[start : start + settings.batch]
        batch = collate([windows[i] for i in chosen], padding=padding).to(device)
        with _precision(settings, device):
            out = model(batch).float().cpu()
        for i, row in zip(chosen, out, strict=True):
            outputs[i] = row
    return outputs


def predict(
    model: TaskModel,
    windows: Sequence[Window],
    examples: Sequence[Any],
    *,
    labels: Sequence[str],
    settings: Settings,
    padding: int,
    may_be_empty: bool,
) -> list[Any]:
    """One prediction an example."""
    return decode(
        outputs_of(model, windows, settings=settings, padding=padding),
        windows,
        examples,
        head=model.head,
        labels=labels,
        answer_tokens=settings.answer_tokens,
        may_be_empty=may_be_empty,
    )


def _precision(settings: Settings, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    if settings.precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()
