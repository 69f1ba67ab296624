"""Models x tasks x seeds into a results file: everything is read and checked first, and nothing is measured twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from unibert.errors import DataError
from unibert.evaluate.finetune.heads import load_body
from unibert.evaluate.finetune.plan import Plan, make_plan
from unibert.evaluate.finetune.settings import Settings
from unibert.evaluate.finetune.subject import Model, find_model
from unibert.evaluate.finetune.tuned import Tuned
from unibert.evaluate.finetune.untuned import UNTUNED, Untuned
from unibert.evaluate.results_file import Results
from unibert.evaluate.tasks import TASKS
from unibert.evaluate.tasks.base import Task
from unibert.evaluate.tasks.texts import heldout_texts
from unibert.models.encoder import Encoder, load_encoder
from unibert.models.heads import masked_lm_head
from unibert.models.precision import bf16_is_faster
from unibert.runtime.dist import ranks_from_environment


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

    Under a launcher (deepspeed, torchrun, mpirun, srun) each process takes its share of (model, task, seed), and all
    write the one file. Nothing is measured twice, but that in mode distil each trains the task teacher for itself.

    Args:
        models: Hugging Face folders, run folders or names on the hub, `NAME=PATH` to call one NAME.
        tasks: names of TASKS.
        data: the folder of labelled files.
        results: the JSON Lines file.
        seeds: of fine-tuning; untuned measures have none.
        settings: of fine-tuning, the same for all.
        force: measure again what is there already.
        device: where models run; this process's GPU, or the CPU without one.

    Raises:
        DataError: unknown tasks, models or files that cannot be used. Nothing is trained then.
    """
    settings = settings or Settings()
    unknown = [name for name in tasks if name not in TASKS]
    if unknown or not tasks:
        raise DataError(f"--tasks: {', '.join(unknown) or 'none'}: name some of {', '.join(TASKS)}")
    plans = [plan for name in tasks for plan in _plans(TASKS[name], data, settings)]
    found = _models(models, tasks)
    file, ranks = Results(results, force=force), ranks_from_environment()
    gpu = f"cuda:{ranks.local_rank % max(1, torch.cuda.device_count())}"
    where = torch.device(device or (gpu if torch.cuda.is_available() else "cpu"))
    heldout = _heldout(data) if settings.remove_language else {}
    teachers = _teachers(plans, settings, file, where)
    for number, (model, place, some) in enumerate(_shares(found, plans, settings, seeds)):
        if number % ranks.world != ranks.rank:
            continue
        if plans[place].train:
            for seed in some:
                Tuned(model, plans[place], settings, file, where, teacher=teachers[place]).run(seed)
        else:
            Untuned(model, plans[place], settings, file, where, heldout=heldout).run()
    return file


def _shares(
    models: Sequence[Model], plans: Sequence[Plan], settings: Settings, seeds: int
) -> Iterator[tuple[Model, int, Sequence[int]]]:
    """(model, number of its plan, seeds) that one process does: what shares a choice of learning rate is not parted."""
    for model in models:
        for place, plan in enumerate(plans):
            if plan.train and len(settings.learning_rates) == 1:
                yield from ((model, place, (seed,)) for seed in range(seeds))
            else:
                yield model, place, range(seeds)


def settings_of(**said: Any) -> Settings:
    """Settings with bf16 where the first device is faster in it.

    Raises:
        DataError: a number that cannot be.
    """
    numbers = ("epochs", "batch", "limit", "train_limit", "remove_language")
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


def _models(words: Sequence[str], tasks: Sequence[str]) -> list[Model]:
    """The models that words mean, each whole and under a name of its own, with a head where masked tokens are asked.

    Raises:
        DataError: a model that cannot do these tasks.
    """
    found = [find_model(word) for word in words]
    if len({model.name for model in found}) < len(found):
        raise DataError(f"two models are called {[model.name for model in found]}: name them, as in first=PATH")
    without = []
    for model in found:
        if not any(name in UNTUNED for name in tasks):
            load_body(model.folder)
        elif not _has_head(*load_encoder(model.folder)) and "masked" in tasks:
            without.append(model.name)
    if without:
        raise DataError(f"{', '.join(without)}: no masked-LM head to ask: leave masked out of --tasks, or these models")
    return found


def _has_head(encoder: Encoder, is_there: bool) -> bool:
    try:
        masked_lm_head(encoder.hf)
    except TypeError:
        return False
    return is_there


def _heldout(data: Path) -> dict[str, list[str]]:
    """language -> texts of the folders of text, of all together."""
    texts: dict[str, list[str]] = {}
    for by_language in heldout_texts(data).values():
        for code, rows in by_language.items():
            texts.setdefault(code, []).extend(rows)
    return texts
