"""Models x tasks x seeds into a results file: everything is read and checked first, and nothing is measured twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from unibert.errors import DataError
from unibert.evaluate.finetune.plan import Plan, make_plan
from unibert.evaluate.finetune.settings import Settings
from unibert.evaluate.finetune.subject import Model, find_model
from unibert.evaluate.finetune.tuned import Tuned
from unibert.evaluate.finetune.untuned import UNTUNED, Untuned
from unibert.evaluate.results_file import Results
from unibert.evaluate.tasks import TASKS
from unibert.evaluate.tasks.base import Task
from unibert.evaluate.tasks.texts import heldout_texts
from unibert.models.encoder import load_encoder
from unibert.models.precision import bf16_is_faster


def judge(
    models: Sequence[str],
    tasks: Sequence[str],
    data: Path,
    results: Path,
    *,
    seeds: int = 3,
    settings: Settings | None = None,
    force: bool = False,
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
        force: measure again what is there already.
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
    if "masked" in tasks:
        _require_heads(found)
    file = Results(results, force=force)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    heldout = _heldout(data) if settings.remove_language else {}
    teachers = _teachers(plans, settings, file, where)
    for model in found:
        for plan, teacher in zip(plans, teachers, strict=True):
            if plan.train:
                for seed in range(seeds):
                    Tuned(model, plan, settings, file, where, teacher=teacher).run(seed)
            else:
                Untuned(model, plan, settings, file, where, heldout=heldout).run()
    return file


def settings_of(**said: Any) -> Settings:
    """Settings with bf16 where the first device is faster in it.

    Raises:
        DataError: a number that cannot be.
    """
    numbers = ("epochs", "batch", "limit", "remove_language")
    wrong = [name for name in numbers if said.get(name) is not None and said[name] < 1]
    if wrong or said.get("max_tokens", 32) < 16 or not said.get("learning_rates", (1,)):
        raise DataError(f"{', '.join(wrong) or 'max_tokens or rates'}: must be 1 or more (max_tokens 16, one rate)")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Settings(**said, precision="bf16" if bf16_is_faster(device) else "fp32")


def _plans(task: Task, data: Path, settings: Settings) -> list[Plan]:
    """What is to be done for a task: untuned, fine-tuned, or both where there is something to train on."""
    plans = [make_plan(task, data, settings=settings, tuned=False)] if task.name in UNTUNED else []
    tunable = task.head != "none" and (not plans or settings.source in task.read(data).of("train"))
    return plans + ([make_plan(task, data, settings=settings)] if tunable else [])


def _teachers(plans: Sequence[Plan], settings: Settings, file: Results, device: torch.device) -> list[Tuned | None]:
    """Who teaches each plan's students in mode distil.

    Raises:
        DataError: nobody was named, or somebody in another mode.
    """
    if (settings.mode == "distil") != bool(settings.task_teacher):
        raise DataError("--mode distil and --task-teacher MODEL go together: name both or neither")
    if not settings.task_teacher:
        return [None] * len(plans)
    teacher = find_model(settings.task_teacher)
    own = replace(settings, mode="zero-shot", task_teacher="")
    return [Tuned(teacher, plan, own, file, device) if plan.unlabelled else None for plan in plans]


def _require_heads(models: Sequence[Model]) -> None:
    if without := [model.name for model in models if not load_encoder(model.folder)[1]]:
        raise DataError(f"{', '.join(without)}: no masked-LM head to ask: leave masked out of --tasks, or these models")


def _heldout(data: Path) -> dict[str, list[str]]:
    """language -> texts of the folders of text, of all together."""
    texts: dict[str, list[str]] = {}
    for by_language in heldout_texts(data).values():
        for code, rows in by_language.items():
            texts.setdefault(code, []).extend(rows)
    return texts
