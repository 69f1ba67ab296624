"""The evaluation of a run: teacher, student before training and student on the same held-out text, and the report."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
import transformers

import unibert
from unibert.config import Recipe
from unibert.data.lines import atomic, say
from unibert.errors import DataError
from unibert.evaluate.measure import Limits, Material, baseline, check_tokenizer, key_of, measure, prepare
from unibert.evaluate.report import headline, write_report
from unibert.evaluate.results import (
    BEFORE,
    SCRIPTS,
    STUDENT,
    TEACHER,
    LanguageFacts,
    ModelResult,
    Report,
    read_result,
    slug,
)
from unibert.languages import LANGUAGES
from unibert.models.folders import newest_export
from unibert.models.precision import bf16_is_faster


def run(
    recipe: Recipe,
    *,
    models: Mapping[str, Path] | None = None,
    force: bool = False,
    dtype: Literal["auto", "fp32", "bf16"] = "auto",
    device: torch.device | str | None = None,
    limits: Limits | None = None,
    remove_language: int | None = None,
) -> dict[str, Any]:
    """Measure models on the recipe's held-out text and write `runs/<name>/report/`.

    Args:
        recipe: whose run, data and languages.
        models: name -> Hugging Face folder or run folder; those of `default_models` when None.
        force: measure again what `report/results_<model>.json` already holds.
        dtype: precision of the forward; auto is bf16 where the device is faster in it.
        device: where the models run; the first GPU, or the CPU without one, when None.
        limits: how many texts are measured at most; the defaults of `Limits` when None.
        remove_language: also measure retrieval and probe without so many directions of each language (LIR's rank).

    Returns:
        `headline`: one row per model, as in report.json; `report`: the folder.

    Raises:
        ConfigError: more directions to remove than there are lines to fit them on.
        DataError: held-out text, shards or a model is missing, or a model has another tokenizer than the shards.
    """
    folders = default_models(recipe) if models is None else {k: newest_export(path) for k, path in models.items()}
    material = prepare(recipe, limits=limits or Limits(), remove_language=remove_language)
    for name, folder in folders.items():
        check_tokenizer(name, folder, material.shards)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    precision = dtype if dtype != "auto" else "bf16" if bf16_is_faster(device) else "fp32"
    report_folder = recipe.run_folder / "report"
    results = []
    for name, folder in folders.items():
        key = key_of(folder, material, dtype=precision)
        path = report_folder / f"results_{slug(name)}.json"
        result = None if force else read_result(path, key=key)
        if result is None:
            result = measure(name, folder, material, key=key, dtype=precision, device=device)
            with atomic(path) as file:
                file.write(result.model_dump_json(indent=1) + "\n")
        else:
            say(f"evaluate: {name}: nothing changed since {path}, its numbers are kept")
        results.append(result)
    report = make_report(recipe, material, results)
    write_report(report, report_folder, metrics=recipe.run_folder / "metrics.jsonl")
    return {"headline": headline(report), "report": str(report_folder)}


def default_models(recipe: Recipe) -> dict[str, Path]:
    """Teacher (if the recipe has one), student, and student before training: name -> Hugging Face folder.

    Raises:
        DataError: one of them is not there yet.
    """
    folders = {}
    if recipe.teacher is not None:
        folders[TEACHER] = newest_export(recipe.teacher.path or recipe.teacher.trimmed)
    folders[STUDENT] = newest_export(recipe.run_folder)
    folders[BEFORE] = newest_export(recipe.run_folder / "hf" / "step_00000000")
    if folders[STUDENT] == folders[BEFORE]:
        raise DataError(f"{recipe.run_folder}: the only export is the one before training: run `unibert train` first")
    return folders


def make_report(recipe: Recipe, material: Material, results: Sequence[ModelResult]) -> Report:
    """What report.json holds."""
    removing = f" --remove-language {material.removed_rank}" if material.removed_rank else ""
    known = {code: LANGUAGES[code] for code in recipe.languages}
    return Report(
        run=recipe.name,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        command=f"unibert evaluate {recipe.run_folder / 'recipe.toml'}{removing}",
        versions={
            "unibert": unibert.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        languages={
            code: LanguageFacts(name=x.name, script=SCRIPTS.get(x.script, x.script), family=x.family)
            for code, x in known.items()
        },
        sources=dict(material.heldout.sources),
        messages=len(material.heldout.messages),
        left_out=dict(material.left_out),
        baseline=baseline(material),
        models=list(results),
    )
