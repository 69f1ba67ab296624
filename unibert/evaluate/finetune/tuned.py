"""Fine-tuning one model on one task: the learning rate, then seeds."""

from __future__ import annotations

import random
import time
from dataclasses import asdict
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

from unibert.data.lines import say
from unibert.evaluate.finetune.distil import answers_of
from unibert.evaluate.finetune.heads import TaskModel
from unibert.evaluate.finetune.loop import fit, outputs_of, predict
from unibert.evaluate.finetune.plan import Plan
from unibert.evaluate.finetune.rows import Place, make_row, words_of
from unibert.evaluate.finetune.settings import Settings
from unibert.evaluate.finetune.subject import Model, sizes_of
from unibert.evaluate.finetune.windows import Windows
from unibert.evaluate.results_file import ResultRow, Results, key_of
from unibert.evaluate.tasks.base import fingerprint
from unibert.models.folders import quiet_hf


class Tuned:
    """One model on one task: the learning rate, then seeds."""

    def __init__(
        self,
        model: Model,
        plan: Plan,
        settings: Settings,
        file: Results,
        device: torch.device,
        *,
        teacher: Tuned | None = None,
    ) -> None:
        self.model, self.plan, self.file, self.device = model, plan, file, device
        self.settings, self.teacher = settings, teacher
        with quiet_hf():
            tokenizer = AutoTokenizer.from_pretrained(model.folder, local_files_only=True)
            config = AutoConfig.from_pretrained(model.folder, local_files_only=True)
        room = min(settings.max_tokens, getattr(config, "max_position_embeddings", settings.max_tokens))
        padding = tokenizer.pad_token_id or 0
        if config.model_type in ("roberta", "xlm-roberta", "camembert"):
            room = min(room, config.max_position_embeddings - padding - 1)
        self.padding = padding
        self.windows = Windows(tokenizer, max_tokens=room, settings=settings)

    def run(self, seed: int) -> None:
        """Measure all languages of a seed that are not there yet."""
        rate = self._rate()
        missing = [place for place in self.plan.tests if self.file.get(self._key(place, seed, rate)) is None]
        if not missing:
            return
        began = time.monotonic()
        trained = self._train(seed, rate)
        for place in missing:
            row = self._row(trained, place, seed, rate, purpose="test", began=began)
            self.file.add(row)
            say(f"evaluate: {words_of(row)}")
            began = time.monotonic()

    def _rate(self) -> float:
        """The learning rate that is best in the mean over the dev sets with the first seed."""
        rates = self.settings.learning_rates
        if len(rates) == 1:
            return rates[0]
        tried = {rate: self._on_dev(rate) for rate in rates}
        return max(rates, key=lambda rate: tried[rate])

    def _on_dev(self, rate: float) -> float:
        """The mean over dev sets of what a rate scores."""
        found, model = [], None
        for code, examples in self.plan.dev.items():
            place = ("dev", "dev", code, examples)
            row = self.file.get(self._key(place, 0, rate))
            if row is None:
                began = time.monotonic()
                model = model or self._train(0, rate)
                row = self._row(model, place, 0, rate, purpose="tuning", began=began)
                self.file.add(row)
                say(f"evaluate: {words_of(row)} at rate {rate}")
            found.append(row.values[self.plan.task.metric])
        return sum(found) / len(found)

    @property
    def _how(self) -> dict[str, Any]:
        """The settings that its scores depend on, but for the learning rate."""
        settings = asdict(self.settings)
        del settings["learning_rates"], settings["task_teacher"]
        del settings["remove_language"], settings["prefix"]  # of embeddings alone
        for name, default in {"dev": "source", "train_limit": None}.items():
            if settings[name] == default:  # named only where it is another, so that older rows stay good
                del settings[name]
        if self.teacher is not None:
            settings["task_teacher"] = self.teacher.model.weights
            if len(self.settings.learning_rates) > 1:
                settings["teacher_rates"] = list(self.settings.learning_rates)
        return settings

    def _key(self, place: Place, seed: int, rate: float) -> str:
        settings = {**self._how, "learning_rates": (rate,)}
        task = self.plan.task
        facts = {"weights": self.model.weights, "model": self.model.name, "task": task.name, "place": place[:3]}
        data = {"train": self.plan.fingerprint, "test": fingerprint(place[3])}
        return key_of(**facts, **data, settings=settings, seed=seed)

    def _train(self, seed: int, rate: float) -> TaskModel:
        answers = self.teacher.answers if self.teacher is not None else None
        random.seed(seed)
        torch.manual_seed(seed)
        task, plan = self.plan.task, self.plan
        turns = 1 + 2 * self.settings.history if task.head == "conversation" else 1
        outputs = {"tokens": len(plan.labels), "classes": len(plan.labels), "value": 1}.get(task.head, 2)
        model = TaskModel(self.model.folder, task.head, outputs=outputs, turns=turns).to(self.device)
        read = plan.train if answers is None else plan.unlabelled
        windows = self.windows.of(read, task.head, labels=plan.labels)
        what = f"evaluate: {self.model.name}: {task.name}, seed {seed}, rate {rate:g}"
        own = self.settings
        fit(model, windows, rate=rate, seed=seed, settings=own, padding=self.padding, answers=answers, what=what)
        return model

    @cached_property
    def answers(self) -> list[dict[int, Tensor]]:
        """What it says, fine-tuned with the first seed, of the plan's text without labels."""
        model = self._train(0, self._rate())
        windows = self.windows.of(self.plan.unlabelled, self.plan.task.head, labels=self.plan.labels)
        outputs = outputs_of(model, windows, settings=self.settings, padding=self.padding)
        return answers_of(outputs, windows, examples=len(self.plan.unlabelled))

    def _row(
        self,
        model: TaskModel,
        place: Place,
        seed: int,
        rate: float,
        *,
        purpose: str,
        began: float,
    ) -> ResultRow:
        examples, plan = place[3], self.plan
        predictions = predict(
            model,
            self.windows.of(examples, plan.task.head, labels=plan.labels),
            examples,
            labels=plan.labels,
            settings=self.settings,
            padding=self.padding,
            may_be_empty=plan.may_be_empty,
        )
        return make_row(
            self.model,
            plan,
            place,
            predictions,
            key=self._key(place, seed, rate),
            purpose=purpose,
            seed=seed,
            way=self.settings.mode,
            rate=rate,
            sizes=sizes_of(model.body),
            began=began,
            settings={**self._how, "training data": plan.fingerprint},
        )
