"""Writing the student as a Hugging Face folder: fp32 weights, tokenizer and model card.

The folder loads by AutoModelForMaskedLM and AutoModel, and appears under its name only when it is whole.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM, PretrainedConfig, PreTrainedModel

from unibert.config import Recipe, load_recipe
from unibert.errors import CheckpointError
from unibert.models.card import write_card
from unibert.models.encoder import Encoder
from unibert.models.folders import replaced_folder, save_hf
from unibert.models.student import source_folder, student_config
from unibert.models.vocabulary import copy_tokenizer
from unibert.observe.metrics_file import read_metrics
from unibert.runtime import checkpoint, engine_state

PREFIX = "hf."
"""What an Encoder's parameter names begin with."""


def write_hf(
    student: Encoder | dict[str, Tensor], *, recipe: Recipe, folder: Path, step: int, facts: dict[str, Any]
) -> Path:
    """Write the student as a Hugging Face folder, replacing what is there.

    Args:
        student: the encoder itself (whole, not partitioned by ZeRO-3), or its state by parameter name.
        recipe: of the run.
        folder: where to.
        step: optimizer steps done.
        facts: what the card says of the training, label -> value; `command` is shown as the command.

    Returns:
        The folder.

    Raises:
        CheckpointError: weights are missing or left over, or have another shape than the recipe's student.
        DataError: there is no tokenizer, or it belongs to another vocabulary.
    """
    if isinstance(student, Encoder):
        config, state = student.hf.config, student.hf.state_dict()
    else:
        config = student_config(recipe)
        state = {name.removeprefix(PREFIX): tensor for name, tensor in student.items() if name.startswith(PREFIX)}
    hf = _model(config, state)
    with replaced_folder(folder) as new:
        copy_tokenizer(_tokenizer_folder(recipe), into=new, hf=hf)
        save_hf(hf, new)
        parameters = sum(parameter.numel() for parameter in hf.parameters())
        write_card(new / "README.md", recipe=recipe, config=hf.config, parameters=parameters, step=step, facts=facts)
    return folder


def export_run(run_folder: Path, *, step: int | None = None) -> Path:
    """Write runs/<name>/hf/step_<step> from a checkpoint of the run, the newest when no step is given.

    Raises:
        CheckpointError: no such checkpoint, or it cannot be read.
    """
    recipe_file = run_folder / "recipe.toml"
    if not recipe_file.is_file():
        raise CheckpointError(f"{run_folder} is not a run folder: it has no recipe.toml")
    recipe = load_recipe(recipe_file)
    source = _checkpoint(run_folder / "checkpoints", step=step)
    state = checkpoint.read_state(source)
    folder = run_folder / "hf" / checkpoint.step_name(state.step)
    weights = engine_state.Saved(source / "student").weights()
    return write_hf(weights, recipe=recipe, folder=folder, step=state.step, facts=_facts(run_folder, state))


def _model(config: PretrainedConfig, state: dict[str, Tensor]) -> PreTrainedModel:
    """A model that holds fp32 copies of these weights; no random number is drawn."""
    with torch.device("meta"):
        hf = AutoModelForMaskedLM.from_config(config)
    expected = dict(hf.named_parameters())  # of tied names the first
    if lost := sorted(expected.keys() - state.keys()):
        raise CheckpointError(f"{len(lost)} weights of the student are missing, the first is {lost[0]}")
    if left := sorted(state.keys() - hf.state_dict().keys()):
        raise CheckpointError(
            f"{len(left)} weights have no place in the recipe's student, the first is {left[0]}: export with the "
            "recipe of the run"
        )
    for name, parameter in expected.items():
        if state[name].shape != parameter.shape:
            raise CheckpointError(
                f"{name} has shape {list(state[name].shape)}, the recipe's student {list(parameter.shape)}: "
                "gather ZeRO-3 weights before, or export with the recipe of the run"
            )
    own = {name: state[name].detach().to("cpu", torch.float32) for name in expected}
    hf.load_state_dict(own, strict=False, assign=True)
    hf.tie_weights()
    return hf


def _tokenizer_folder(recipe: Recipe) -> Path:
    """The recipe's own tokenizer; without prepared data, the one beside the model the student began as."""
    own = recipe.data.folder / "tokenizer"
    return own if (own / "tokenizer.json").is_file() else source_folder(recipe)


def _checkpoint(folder: Path, *, step: int | None) -> Path:
    if step is None:
        newest = checkpoint.newest_sound(folder)
        if newest is None:
            raise CheckpointError(f"{folder} holds no complete checkpoint yet")
        return newest
    path = folder / checkpoint.step_name(step)
    if path not in checkpoint.complete_folders(folder):
        there = ", ".join(found.name for found in checkpoint.complete_folders(folder)) or "none"
        raise CheckpointError(f"{folder} holds no complete checkpoint of step {step}; complete are: {there}")
    return path


def _facts(run_folder: Path, state: checkpoint.State) -> dict[str, Any]:
    """What a run folder says of the training up to a checkpoint."""
    facts: dict[str, Any] = {"documents read": state.samples, "tokens read": state.tokens, "ranks": state.world}
    rows = [row for row in read_metrics(run_folder / "metrics.jsonl") if row["step"] <= state.step]
    seen = {tag: value for row in rows for tag, value in row.items()}  # the last value of each
    facts |= {tag: seen[tag] for tag in sorted(seen) if tag.startswith(("loss/", "eval/", "adversary/", "teacher/"))}
    environment = run_folder / "environment.json"
    if environment.is_file():
        written = json.loads(environment.read_text(encoding="utf-8"))
        facts |= {"device": written.get("device"), "command": written.get("command")}
    versions = ", ".join(f"{name} {version}" for name, version in state.versions.items())
    return {label: value for label, value in facts.items() if value is not None} | {"versions": versions}
