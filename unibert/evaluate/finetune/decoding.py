"""From outputs of a head to predictions of examples, joining the windows of one example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unibert.evaluate.finetune.windows import Window
from unibert.evaluate.tasks.base import Head


def decode(
    outputs: Sequence[Tensor],
    windows: Sequence[Window],
    examples: Sequence[Any],
    *,
    head: Head,
    labels: Sequence[str],
    answer_tokens: int,
    may_be_empty: bool,
) -> list[Any]:
    """One prediction an example: tags, a label, a number, or the text of an answer.

    Args:
        outputs: [P, C] of each window.
        windows: all windows of the examples.
        examples: what was asked.
        head: of the task.
        labels: of the head's outputs.
        answer_tokens: longest answer.
        may_be_empty: whether "no answer" is an answer.
    """
    if head == "tokens":
        tags = [["O"] * len(example.words) for example in examples]
        for out, window in zip(outputs, windows, strict=True):
            for mark, label in zip(window.marks, out.argmax(1).tolist(), strict=False):
                tags[window.example][mark] = labels[label]
        return tags
    if head == "classes":
        return [labels[int(out[0].argmax())] for out in outputs]
    if head == "value":
        return [float(out[0, 0]) for out in outputs]
    return _answers(outputs, windows, examples, answer_tokens=answer_tokens, may_be_empty=may_be_empty)


def _answers(
    outputs: Sequence[Tensor],
    windows: Sequence[Window],
    examples: Sequence[Any],
    *,
    answer_tokens: int,
    may_be_empty: bool,
) -> list[str]:
    """Of all windows the span with the highest start + end; none where "no answer" scores more in every window."""
    best: list[tuple[float, str]] = [(float("-inf"), "")] * len(examples)
    null = [float("inf")] * len(examples)
    for out, window in zip(outputs, windows, strict=True):
        own = out[: 1 + len(window.marks)].float()
        null[window.example] = min(null[window.example], float(own[0].sum()))
        if len(own) > 1:
            score, first, last = best_span(own[1:], longest=answer_tokens)
            context = examples[window.example].context
            text = context[window.marks[first][0] : window.marks[last][1]].strip()
            best[window.example] = max(best[window.example], (score, text), key=lambda found: found[0])
    return ["" if may_be_empty and lowest > score else text for (score, text), lowest in zip(best, null, strict=True)]


def best_span(scores_P2: Tensor, *, longest: int) -> tuple[float, int, int]:
    """(score, first, last) of the best start + end with first <= last < first + longest."""
    sums_PP = scores_P2[:, None, 0] + scores_P2[None, :, 1]
    allowed = torch.ones_like(sums_PP, dtype=torch.bool).triu() & ~torch.ones_like(sums_PP, dtype=torch.bool).triu(
        longest
    )
    flat = int(sums_PP.masked_fill(~allowed, float("-inf")).argmax())
    first, last = divmod(flat, len(scores_P2))
    return float(sums_PP[first, last]), first, last
