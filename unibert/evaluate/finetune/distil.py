"""Label-free distillation: a student learns a task from a fine-tuned teacher's predictions, on text without labels.

With p_S and p_T the distributions over the classes at a place (a pair's first token; a word's first piece), and
m = (p_S + p_T) / 2, the loss is the mean over the M places of a batch of the Jensen-Shannon divergence

    L = 1/M sum_places (KL(p_S || m) + KL(p_T || m)) / 2        in nats, at most log 2

It is the divergence of SSLD (Cui et al., arXiv 2103.05959), which is bounded and symmetric, and asks for no label, so
that text of any language can be added. Temperature 1, the heads and word-wise answers (teacher and student may cut
words into other pieces) are ours. The teacher is fine-tuned on the source language's labels once, with the first seed
and its own best rate, and read without dropout.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.divergence import divergence
from unibert.evaluate.finetune.heads import Batch
from unibert.evaluate.finetune.windows import Window

Answers = Sequence[dict[int, Tensor]]
"""Of each example: number of the word (0 for a pair) -> logits [C]."""


def answers_of(outputs: Sequence[Tensor], windows: Sequence[Window], *, examples: int) -> list[dict[int, Tensor]]:
    """What a teacher's outputs [P, C] of its windows say of each example."""
    found: list[dict[int, Tensor]] = [{} for _ in range(examples)]
    for out, window in zip(outputs, windows, strict=True):
        for number, logits_C in zip(_numbers(window), out, strict=False):
            found[window.example][number] = logits_C
    return found


def divergence_loss(logits_WPC: Tensor, batch: Batch, windows: Sequence[Window], answers: Answers) -> Tensor:
    """The mean divergence over the places of a batch whose words the teacher has read."""
    student, teacher = [], []
    for own_PC, window in zip(logits_WPC, windows, strict=True):
        for place, number in enumerate(_numbers(window)):
            logits_C = answers[window.example].get(number)
            if logits_C is not None:
                student.append(own_PC[place])
                teacher.append(logits_C)
    taught_MC = torch.stack(teacher).to(batch.ids.device).float()
    return divergence(torch.stack(student).float(), taught_MC, kind="js").mean()


def _numbers(window: Window) -> Sequence[int]:
    return window.marks or (0,)
