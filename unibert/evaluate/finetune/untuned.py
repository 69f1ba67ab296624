"""Measuring what nothing is trained for, plain and without the language's part."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from unibert.data.lines import say
from unibert.evaluate.finetune.frozen import Frozen, texts_to_fit
from unibert.evaluate.finetune.plan import Plan
from unibert.evaluate.finetune.rows import Place, make_row, words_of
from unibert.evaluate.finetune.settings import Settings
from unibert.evaluate.finetune.subject import Model
from unibert.evaluate.results_file import ResultRow, Results, key_of
from unibert.evaluate.tasks.base import fingerprint

UNTUNED = ("retrieval", "sts", "word_translation", "language_probe", "masked")
"""Tasks that a model answers as it is."""
BY_EMBEDDING = ("retrieval", "sts", "word_translation", "language_probe")
"""Those that embeddings answer, from which the language can be taken."""
PLAIN = "untuned"


def way_without(rank: int) -> str:
    """What a row is called whose embeddings have lost so many directions of their language."""
    return f"{PLAIN}, language removed (rank {rank})"


class Untuned:
    """One model on one task as it is; the model is read when something is missing."""

    def __init__(
        self,
        model: Model,
        plan: Plan,
        settings: Settings,
        file: Results,
        device: torch.device,
        *,
        heldout: Mapping[str, list[str]],
    ) -> None:
        self.model, self.plan, self.settings, self.file = model, plan, settings, file
        self.device, self.heldout = device, dict(heldout)
        self._frozen: Frozen | None = None

    @property
    def frozen(self) -> Frozen:
        """The model."""
        if self._frozen is None:
            self._frozen = Frozen(self.model, settings=self.settings, device=self.device)
        return self._frozen

    @property
    def _prefix(self) -> str:
        """What stands before every text; nothing where tokens are asked for."""
        return self.settings.prefix if self.plan.task.name in BY_EMBEDDING else ""

    def run(self) -> None:
        """Measure all languages that are not there yet."""
        self._measure(rank=0)
        if self.settings.remove_language and self.plan.task.name in BY_EMBEDDING:
            self._measure(rank=self.settings.remove_language)

    def _measure(self, *, rank: int) -> None:
        if self.plan.task.name == "language_probe":
            of_sets = {place[0]: [one for one in self.plan.tests if one[0] == place[0]] for place in self.plan.tests}
            groups = list(of_sets.values())  # languages are told apart from each other: all or none
        else:
            groups = [[place] for place in self.plan.tests]
        for group in groups:
            keys = [self._key(place, group, rank) for place in group]
            if any(self.file.get(key) is None for key in keys):
                self._add(group, keys, rank)

    @property
    def _how(self) -> dict[str, Any]:
        how = {"max_tokens": self.settings.max_tokens, "precision": self.settings.precision}
        return how | {"prefix": self._prefix} if self._prefix else how

    def _limited(self, place: Place) -> dict[str, int]:
        """The limit where it decided which examples these are: they belong with those of no other limit."""
        limit = self.settings.limit
        return {"limit": limit} if limit is not None and len(place[3]) == limit else {}

    def _key(self, place: Place, group: Sequence[Place], rank: int) -> str:
        facts: dict[str, Any] = {"weights": self.model.weights, "model": self.model.name, "place": place[:3]}
        how = self._how
        if len(group) > 1:
            how["beside"] = [(*other[:3], fingerprint(other[3])) for other in group]
        if rank:
            how["rank"] = rank
            if self.plan.task.name != "language_probe":
                how["fitted"] = texts_to_fit(self.plan.task.name, place, self.heldout)
        return key_of(**facts, task=self.plan.task.name, test=fingerprint(place[3]), way=PLAIN, **how)

    def _add(self, group: Sequence[Place], keys: Sequence[str], rank: int) -> None:
        task, began = self.plan.task.name, time.monotonic()
        parts = None
        if rank and task != "language_probe":
            (place,) = group
            parts = self.frozen.parts(texts_to_fit(task, place, self.heldout), rank=rank)
        found = self.frozen.answers(task, group, parts=parts, rank=rank)
        for place, key, predictions in zip(group, keys, found, strict=True):
            row = self._row(place, predictions, key, rank, began)
            began = time.monotonic()
            if self.file.get(key) is None:
                self.file.add(row)
                say(f"evaluate: {words_of(row)}")

    def _row(self, place: Place, predictions: Sequence[Any], key: str, rank: int, began: float) -> ResultRow:
        said = f"prefix {self._prefix!r}" if self._prefix else ""
        return make_row(
            self.model,
            replace(self.plan, source=said),
            place,
            predictions,
            key=key,
            purpose="test",
            seed=0,
            way=way_without(rank) if rank else PLAIN,
            rate=None,
            sizes=self.frozen.sizes,
            began=began,
            settings=self._how | self._limited(place),
            # Which tokens are masked depends on the tokenizer, and on where a long text is cut.
            asked=f"{self.model.tokenizer}:{self.frozen.width}" if self.plan.task.by_tokenizer else "",
        )
