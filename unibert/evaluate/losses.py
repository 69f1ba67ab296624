"""Every objective's own loss on held-out text and pairs: what training minimises, where it has not been."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch

from unibert.config import Recipe
from unibert.data.shards import ShardSet
from unibert.evaluate.heldout import Message
from unibert.evaluate.heldout_batches import heldout_micros, pairable
from unibert.models.discriminator import Feature
from unibert.models.teacher import Lessons, Teacher
from unibert.objectives import Needs, Objective, read
from unibert.pair_rules import ON_PAIRS

DOCUMENTS = 256
"""Held-out documents read, in whole micro-batches."""


class HeldoutLosses:
    """Reads its micro-batches once; `look` gives the losses of models as they are.

    Args:
        recipe: which stream to imitate.
        shards: <data.folder>/shards_heldout.
        messages: held-out messages, which are the translation pairs.
        objectives: whose losses.
        teacher: who answers; objectives that need one that knows training text alone (a cache) are left out, and where
            there are no messages those on pairs.
        rank: of this process. Every rank makes as many forwards, for ZeRO-3 gathers weights in them.
        world: ranks.
    """

    def __init__(
        self,
        recipe: Recipe,
        shards: ShardSet,
        messages: Sequence[Message],
        *,
        objectives: Sequence[Objective],
        teacher: Teacher | None,
        rank: int,
        world: int,
    ) -> None:
        messages = pairable(recipe, messages)
        answers = teacher is None or teacher.reads_anything
        able = [one for one in objectives if answers or one.needs.of_teacher is None]
        self.objectives = [one for one in able if messages or one.name not in ON_PAIRS]
        self.needs = reduce(Needs.__or__, (one.needs for one in self.objectives), Needs())
        size = recipe.train.micro_batch_sequences
        whole = max(1, DOCUMENTS // size)
        own = range(rank, -(-whole // world) * world, world)
        self.counted = [index < whole for index in own]
        self.micros = heldout_micros(recipe, shards, messages, indices=[min(index, whole - 1) for index in own])
        self.feature: Feature = recipe.discriminator.feature if recipe.discriminator else "cls"

    @torch.no_grad()
    def look(
        self, engine: Any, *, lessons: Lessons | None, discriminate: Any, device: torch.device
    ) -> dict[str, float]:
        """Tag -> mean over the targets, equal on every rank; none of an objective without a target here.

        Args:
            engine: the student's, in eval mode.
            lessons: of the teacher; what was asked of it before is forgotten.
            discriminate: the discriminator; None without one.
            device: of the engine.
        """
        lessons = lessons if self.needs.of_teacher is not None else None
        sums = torch.zeros(len(self.objectives), 2, dtype=torch.float64, device=device)
        for micro, counted in zip(self.micros, self.counted, strict=True):
            batch = micro.to(device)
            answers = (None, None) if lessons is None else lessons.answers(batch)
            at = read(engine, batch, needs=self.needs, answers=answers, feature=self.feature)
            at.beside, at.discriminate = engine.module.beside, discriminate
            for row, objective in zip(sums, self.objectives, strict=True):
                total = objective.term(at).total
                row += counted * torch.stack([total.double(), total.new_tensor(objective.count(batch)).double()])
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            torch.distributed.all_reduce(sums)
        rows = zip(self.objectives, sums.tolist(), strict=True)
        return {f"loss_heldout/{one.name}": total / count for one, (total, count) in rows if count}
