"""Models x tasks x seeds into a results file: everything is read and checked first, and nothing is measured twice."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoTokenizer

from unibert.data.lines import say
from unibert.errors import DataError
from unibert.evaluate.finetune.heads import TaskModel
from unibert.evaluate.finetune.loop import fit, predict
from unibert.evaluate.finetune.plan import Plan, make_plan
from unibert.evaluate.finetune.settings import Settings
from unibert.evaluate.finetune.untuned import untuned
from unibert.evaluate.finetune.windows import Windows
from unibert.evaluate.results_file import ResultRow, Results, key_of
from unibert.evaluate.statistics.scores import score
from unibert.evaluate.tasks import TASKS
from unibert.evaluate.tasks.base import Task, fingerprint, ids_fingerprint
from unibert.models.encoder import EMBEDDING_TABLES
from unibert.models.folders import newest_export, quiet_hf
from unibert.models.precision import bf16_is_faster

UNTUNED = ("retrieval", "sts")
"""Tasks that embeddings answer as they are."""


@dataclass(frozen=True)
class Model:
    """A model that is judged."""

    name: str
    folder: Path
    weights: str
    """SHA-256 of its weights, configuration and tokenizer."""


def judge(
    models: Sequence[str],
    tasks: Sequence[str],
    data: Path,
    results: Path,
    *,
    seeds: int = 3,
    settings: Settings | None = None,
    device: torch.device | str | None = None,
) -> Results:
    """Measure every model on every task and append what is new to the results file.

    Args:
        models: Hugging Face folders, run folders or names on the hub, `NAME=PATH` to call one NAME.
        tasks: names of TASKS.
        data: the folder of labelled files.
        results: the JSON Lines file.
        seeds: of fine-tuning; untuned measures have none.
        settings: of fine-tuning, the same for all.
        device: where models run; the first GPU, or the CPU without one.

    Raises:
        DataError: unknown tasks, models or files that cannot be used. Nothing is trained then.
    """
    settings = settings or Settings()
    unknown = [name for name in tasks if name not in TASKS]
    if unknown or not tasks:
        raise DataError(f"--tasks: {', '.join(unknown) or 'none'}: name some of {', '.join(TASKS)}")
    plans = [plan for name in tasks for plan in _plans(TASKS[name], data, settings)]
    found = [find_model(word) for word in models]
    if len({model.name for model in found}) < len(found):
        raise DataError(f"two models are called {[model.name for model in found]}: name them, as in first=PATH")
    file = Results(results)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    for model in found:
        for plan in plans:
            if plan.train:
                for seed in range(seeds):
                    _Tuned(model, plan, settings, file, where).run(seed)
            else:
                _untuned(model, plan, settings, file, where)
    return file


def settings_of(**said: Any) -> Settings:
    """Settings with bf16 where the first device is faster in it.

    Raises:
        DataError: a number that cannot be.
    """
    wrong = [name for name in ("epochs", "batch", "limit") if said.get(name) is not None and said[name] < 1]
    if wrong or said.get("max_tokens", 32) < 16 or not said.get("learning_rates", (1,)):
        raise DataError(f"{', '.join(wrong) or 'max_tokens or rates'}: must be 1 or more (max_tokens 16, one rate)")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Settings(**said, precision="bf16" if bf16_is_faster(device) else "fp32")


def _plans(task: Task, data: Path, settings: Settings) -> list[Plan]:
    """What is to be done for a task: untuned, fine-tuned, or both where there is something to train on."""
    plans = [make_plan(task, data, settings=settings, tuned=False)] if task.name in UNTUNED else []
    tunable = task.head != "none" and (not plans or settings.source in task.read(data).of("train"))
    return plans + ([make_plan(task, data, settings=settings)] if tunable else [])


def find_model(word: str) -> Model:
    """The model that a word of the command line means.

    Raises:
        DataError: there is none, or it lacks a tokenizer.
    """
    name, equals, path = word.rpartition("=")
    folder = Path(path)
    if folder.exists():
        folder = newest_export(folder)
    else:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        patterns = ["*.json", "*.safetensors", "*.model", "*.txt"]
        try:
            folder = Path(snapshot_download(path, allow_patterns=patterns))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise DataError(f"{path}: no such folder, and no model that the hub gives ({error})") from error
    if not (folder / "tokenizer.json").is_file():
        raise DataError(f"{folder}: no tokenizer.json: save the model's fast tokenizer beside its weights")
    if not [*folder.glob("*.safetensors"), *folder.glob("*.bin")]:
        raise DataError(f"{folder}: no weights: a model's folder has a model.safetensors")
    try:
        AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: config.json is of no encoder that transformers knows: {error}") from error
    digest = hashlib.sha256()
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin"), folder / "config.json"]):
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    digest.update((folder / "tokenizer.json").read_bytes())
    return Model(name if equals else path.rstrip("/").rpartition("/")[2], folder, digest.hexdigest()[:16])


def sizes_of(model: torch.nn.Module) -> tuple[int, int]:
    """Parameters, and those without word, position and type embeddings."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    tables = sum(size for name, size in sizes.items() if any(table in name for table in EMBEDDING_TABLES))
    return sum(sizes.values()), sum(sizes.values()) - tables


class _Tuned:
    """One model on one task: the learning rate, then seeds."""

    def __init__(self, model: Model, plan: Plan, settings: Settings, file: Results, device: torch.device) -> None:
        self.model, self.plan, self.file, self.device = model, plan, file, device
        self.settings = settings
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
            say(f"evaluate: {_words(row)}")
            began = time.monotonic()

    def _rate(self) -> float:
        """The learning rate that is best on the source's dev set with the first seed."""
        rates = self.settings.learning_rates
        if len(rates) == 1:
            return rates[0]
        place = ("dev", "dev", self.settings.source, self.plan.dev)
        tried = {}
        for rate in rates:
            key = self._key(place, 0, rate)
            row = self.file.get(key)
            if row is None:
                began = time.monotonic()
                row = self._row(self._train(0, rate), place, 0, rate, purpose="tuning", began=began)
                self.file.add(row)
                say(f"evaluate: {_words(row)} at rate {rate}")
            tried[rate] = row.values[self.plan.task.metric]
        return max(rates, key=lambda rate: tried[rate])

    def _key(self, place: tuple[str, str, str, Sequence[Any]], seed: int, rate: float) -> str:
        settings = asdict(replace(self.settings, learning_rates=(rate,)))
        task = self.plan.task
        facts = {"weights": self.model.weights, "model": self.model.name, "task": task.name, "place": place[:3]}
        data = {"train": self.plan.fingerprint, "test": fingerprint(place[3])}
        return key_of(**facts, **data, settings=settings, seed=seed)

    def _train(self, seed: int, rate: float) -> TaskModel:
        random.seed(seed)
        torch.manual_seed(seed)
        task, plan = self.plan.task, self.plan
        turns = 1 + 2 * self.settings.history if task.head == "conversation" else 1
        outputs = {"tokens": len(plan.labels), "classes": len(plan.labels), "value": 1}.get(task.head, 2)
        model = TaskModel(self.model.folder, task.head, outputs=outputs, turns=turns).to(self.device)
        windows = self.windows.of(plan.train, task.head, labels=plan.labels)
        fit(model, windows, rate=rate, seed=seed, settings=self.settings, padding=self.padding)
        return model

    def _row(
        self,
        model: TaskModel,
        place: tuple[str, str, str, Sequence[Any]],
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
        )


def _untuned(model: Model, plan: Plan, settings: Settings, file: Results, device: torch.device) -> None:
    """The languages of an untuned task that are not there yet."""

    def key(place: tuple[str, str, str, Sequence[Any]]) -> str:
        facts = {"weights": model.weights, "model": model.name, "task": plan.task.name, "place": place[:3]}
        how = {"max_tokens": settings.max_tokens, "precision": settings.precision}
        return key_of(**facts, test=fingerprint(place[3]), way="untuned", **how)

    missing = [place for place in plan.tests if file.get(key(place)) is None]
    if not missing:
        return
    embedder, sizes = untuned(model.folder, settings=settings, device=device)
    for place in missing:
        began = time.monotonic()
        predictions = embedder(plan.task.name, place[3])
        row = make_row(
            model, plan, place, predictions, key=key(place), purpose="test", seed=0, way="untuned", rate=None,
            sizes=sizes, began=began,
        )  # fmt: skip
        file.add(row)
        say(f"evaluate: {_words(row)}")


def make_row(
    model: Model,
    plan: Plan,
    place: tuple[str, str, str, Sequence[Any]],
    predictions: Sequence[Any],
    *,
    key: str,
    purpose: str,
    seed: int,
    way: str,
    rate: float | None,
    sizes: tuple[int, int],
    began: float,
) -> ResultRow:
    """Predictions as a row of the results file."""
    of, split, language, examples = place
    found = plan.task.measure(examples, predictions, of=of, language=language)
    main = found[plan.task.metric]
    return ResultRow(
        key=key,
        purpose=purpose,
        model=model.name,
        task=plan.task.name,
        set=of,
        split=split,
        language=language,
        seed=seed,
        way=way,
        source=plan.source,
        metric=plan.task.metric,
        kind=main.kind,
        values={metric: score(measured.kind, measured.rows) for metric, measured in found.items()},
        rows=np.round(main.rows, 6).tolist(),
        ids=ids_fingerprint(examples),
        data=fingerprint(examples),
        learning_rate=rate,
        parameters=sizes[0],
        parameters_without_embeddings=sizes[1],
        seconds=round(time.monotonic() - began, 2),
    )


def _words(row: ResultRow) -> str:
    value = row.values[row.metric]
    return f"{row.model}: {row.set} {row.language} ({row.way}, seed {row.seed}): {row.metric} {value:.4f}"
