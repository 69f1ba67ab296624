"""Puts a run together: ranks, folders, data, models, objectives, engines, and where to go on."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unibert import objectives
from unibert.config import Recipe, load_recipe, to_toml
from unibert.data.batches import Stream
from unibert.data.shards import ShardSet
from unibert.errors import ConfigError, MachineError
from unibert.models.discriminator import build_discriminator
from unibert.models.encoder import Encoder
from unibert.models.heads import seeded
from unibert.models.precision import bf16_is_faster
from unibert.models.student import build_student, student_config
from unibert.models.teacher import Teacher, load_teacher, teacher_sizes
from unibert.models.wanted import Sizes, Wanted
from unibert.objectives import Needs, Objective
from unibert.observe import flops
from unibert.observe.locks import stale_locks
from unibert.plan import accumulation_steps, make_plan
from unibert.resume import (
    fingerprints_of_models,
    refuse_another_run,
    say_what_changed,
    stream_fingerprints,
    tidy,
    where_to_begin,
)
from unibert.runtime import checkpoint, dist, dsconfig, optimizers
from unibert.runtime.checkpoint import State
from unibert.runtime.dist import Ranks
from unibert.runtime.players import Player, Players
from unibert.schema import Optimizer

PACKAGES = ("torch", "deepspeed", "transformers", "tokenizers", "numpy", "unibert")
log = logging.getLogger(__name__)


@dataclass
class Run:
    """Everything the loop works with."""

    recipe: Recipe
    ranks: Ranks
    device: torch.device
    shards: ShardSet
    stream: Stream
    objectives: Sequence[Objective]
    needs: Needs
    players: Players
    teacher: Teacher | None
    state: State
    resumed_from: Path | None

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.recipe.run_folder

    @property
    def checkpoints(self) -> Path:
        """Where its checkpoints are."""
        return self.folder / "checkpoints"

    @property
    def flops_per_token(self) -> float:
        """Training FLOPs of student and teacher per token."""
        masking, teacher = self.recipe.masking.fraction, self.teacher
        student: Any = self.players["student"].module
        return flops.training_flops_per_token(
            flops.Dimensions.of(student.hf.config),
            row_tokens=self.recipe.data.max_sequence_tokens,
            target_fraction=_head_share(self.needs.student, masking),
            trainable=self.recipe.student.trainable,
            teacher=flops.Dimensions.of(teacher.config) if teacher else None,
            teacher_target_fraction=_head_share(self.needs.teacher, masking),
        )


def _head_share(wanted: Wanted | None, masked: float) -> float:
    """At which share of the tokens a model's head runs; above 1 where it runs at the targets besides all tokens."""
    return 0.0 if wanted is None else masked * wanted.masked_logits + wanted.token_logits


def assemble(recipe: Recipe, *, ranks: Ranks, resume: str) -> Run:
    """Build a run, at its first step or at the checkpoint it goes on from.

    Raises:
        UnibertError: whatever makes the run impossible, before any training work.
    """
    _refuse_stale_locks()
    shards = ShardSet.open(recipe.data.folder / "shards", languages=recipe.languages)
    owned = dsconfig.owned_by_recipe(recipe, world=ranks.world)
    engines = {name: dsconfig.load(getattr(recipe.engines, name), owned=owned) for name in ("student", "discriminator")}
    plan = make_plan(recipe, world=ranks.world, student_engine=engines["student"])
    if ranks.is_first:
        (recipe.run_folder / "STOP").unlink(missing_ok=True)  # of a stop that has been obeyed
    stream = Stream(recipe, shards, rank=ranks.rank, world=ranks.world)
    fingerprints = stream_fingerprints(recipe, stream)
    digest = hashlib.sha256(to_toml(recipe).encode()).hexdigest()[:12]
    dist.refuse_differences({"recipe": digest, **fingerprints, **_versions()})
    first = where_to_begin(recipe, ranks=ranks, resume=resume)
    device = dist.device()
    setting = objectives.Setting(recipe, Sizes.of(student_config(recipe)), teacher_sizes(recipe))
    active = objectives.build(setting)
    needs = reduce(Needs.__or__, (objective.needs for objective in active))
    teacher = None
    if needs.of_teacher is not None:
        teacher = load_teacher(recipe, device=device, fingerprints=fingerprints)
    student = build_student(recipe)
    for objective in active:
        with seeded(recipe.train.seed, purpose=f"objective {objective.name}"):
            if (module := objective.module()) is not None:
                student.beside[objective.name] = module
    _check_fit(student, teacher, shards=shards, needs=needs)
    models = fingerprints_of_models(recipe, student, teacher, ranks=ranks)
    if first is not None:
        refuse_another_run(checkpoint.read_state(first), first, stream=fingerprints, models=models)
    elif recipe.save.export and ranks.is_first:
        _export_untrained(student, recipe)
    student.to(device)
    for objective in active:
        objective.begin(student)
    players = _players(recipe, student, engines=engines, world=ranks.world)
    _refuse_moving_teacher(teacher, players)
    state = State(0, 0, 0, ranks.world, fingerprints, _versions())
    torch.manual_seed(recipe.train.seed * 65_537 + ranks.rank)  # dropout; every rank its own
    if first is not None:
        state = checkpoint.load(first, players=players, ranks=ranks)
        for objective in active:
            if objective.state():
                objective.load_state(checkpoint.load_objective(first, objective.name, device=device))
        say_what_changed(state, recipe, ranks=ranks)
    state = replace(state, fingerprints={**fingerprints, **models})
    if ranks.is_first:  # only now: what is refused changes nothing
        _write_facts(recipe, ranks=ranks, plan=plan.to_json())
        if first is not None:
            tidy(recipe, step=state.step)
    return Run(recipe, ranks, device, shards, stream, active, needs, players, teacher, state, first)


def _players(recipe: Recipe, student: Encoder, *, engines: dict[str, dict], world: int) -> Players:
    device, micro = dist.device(), recipe.train.micro_batch_sequences
    faster = bf16_is_faster(device)
    if recipe.train.recompute_activations:
        student.hf.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    players = [
        Player(
            "student",
            module=student,
            optimizer=_optimizer(student, recipe.optimizer, engine=engines["student"]),
            config=engines["student"],
            micro_batch=micro,
            accumulation=accumulation_steps(recipe, world=world),
            world=world,
            clip_norm=recipe.optimizer.clip_norm,
            bf16_is_faster=faster,
        )
    ]
    if recipe.train.compile:
        players[0].engine.compile()
    if (table := recipe.discriminator) is not None:
        discriminator = build_discriminator(recipe, feature_size=student.hidden_size).to(device)
        # The student's moments and decay, by AdamW: a two-layer head has no large batch to fear.
        own = recipe.optimizer.model_copy(update={"name": "adamw", "learning_rate": table.learning_rate})
        players.append(
            Player(
                "discriminator",
                module=discriminator,
                optimizer=_optimizer(discriminator, own, engine=engines["discriminator"]),
                config=engines["discriminator"],
                micro_batch=micro,
                accumulation=1,  # what it has seen goes back at once
                world=world,
                clip_norm=table.clip_norm,
                bf16_is_faster=faster,
            )
        )
    return Players(players)


def _optimizer(module: nn.Module, table: Optimizer, *, engine: dict) -> torch.optim.Optimizer:
    return optimizers.build(
        module, table=table, stage=dsconfig.stage(engine), offloaded=dsconfig.offloads(engine, "optimizer")
    )


def _check_fit(student: Encoder, teacher: Teacher | None, *, shards: ShardSet, needs: Needs) -> None:
    if student.vocabulary_size != shards.vocabulary_size:
        raise ConfigError(
            f"the student has {student.vocabulary_size} pieces and the shards {shards.vocabulary_size}: trim the "
            "teacher to this tokenizer (unibert teacher trim RECIPE --force), or tokenize again"
        )
    if teacher is None:
        return
    for wanted, gives, text in (
        (needs.teacher, teacher.gives, "masked"),
        (needs.teacher_unmasked, teacher.gives_unmasked, "unmasked"),
    ):
        if wanted is not None and gives is None:
            raise ConfigError(
                f"the objectives want a reading of {text} text, which this teacher has not: {teacher.why}"
            )
        if wanted is not None and gives is not None and (missing := wanted - gives):
            raise ConfigError(f"the objectives want {missing} of a teacher that cannot give them: {teacher.why}")
    if teacher.sizes.vocabulary != student.vocabulary_size:
        raise ConfigError(
            f"teacher.path has {teacher.sizes.vocabulary} pieces and the student {student.vocabulary_size}: "
            "both must have the recipe's tokenizer"
        )


def _refuse_moving_teacher(teacher: Teacher | None, players: Players) -> None:
    held = {parameter.data_ptr() for parameter in teacher.parameters()} if teacher is not None else set()
    for player in players:
        for parameter in player.module.parameters():
            assert not held or not parameter.numel() or parameter.data_ptr() not in held, "the teacher's would move"


def _export_untrained(student: Encoder, recipe: Recipe) -> None:
    from unibert.export import write_hf

    folder = recipe.run_folder / "hf" / checkpoint.step_name(0)
    if not folder.exists():
        write_hf(student, recipe=recipe, folder=folder, step=0, facts={})


def _write_facts(recipe: Recipe, *, ranks: Ranks, plan: dict) -> None:
    folder = recipe.run_folder
    folder.mkdir(parents=True, exist_ok=True)
    resolved = folder / "recipe.toml"
    if resolved.exists() and (before := load_recipe(resolved)) != recipe:
        log.warning("the recipe differs from the one this run began with: %s", _differences(before, recipe))
    resolved.write_text(to_toml(recipe), encoding="utf-8")
    (folder / "plan.json").write_text(json.dumps(plan, indent=2, ensure_ascii=False))
    facts = {
        "command": sys.argv,
        "ranks": asdict(ranks),
        "versions": _versions(),
        "python": platform.python_version(),
        "machine": platform.platform(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
    (folder / "environment.json").write_text(json.dumps(facts, indent=2))


def _differences(before: Recipe, after: Recipe) -> str:
    old, new = to_toml(before).splitlines(), to_toml(after).splitlines()
    return "; ".join(line for line in new if line not in old) or "something was taken out"


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in PACKAGES if _installed(name)}


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _refuse_stale_locks() -> None:
    locks = stale_locks()
    if locks:
        raise MachineError(
            "a build of a DeepSpeed operator was killed and left its lock; every run would wait for it for ever. "
            f"Remove {', '.join(str(lock.parent) for lock in locks)}"
        )
