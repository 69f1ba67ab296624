"""Where a run goes on, whether it may, and what that leaves behind."""

from __future__ import annotations

import json
import logging
from functools import reduce
from pathlib import Path
from typing import Any

import torch

from unibert.config import Recipe
from unibert.data.batches import Stream
from unibert.errors import CheckpointError
from unibert.export import export_run
from unibert.models.encoder import Encoder
from unibert.models.teacher import Teacher, teacher_folders
from unibert.models.teacher.identity import teacher_fingerprint
from unibert.runtime import checkpoint, dist
from unibert.runtime.checkpoint import State
from unibert.runtime.dist import Ranks

# What decides which samples come when, and how they are masked: it cannot change within a run.
STREAM_FIELDS = ("languages", "data.max_sequence_tokens", "data.smoothing_exponent", "masking", "train.seed")
STREAM_FIELDS += ("train.global_batch_sequences", "train.ladder")
# Came later: named only where they are not as before, so that older checkpoints go on.
LATER_STREAM_FIELDS = ("data.max_repeats", "data.max_share", "data.share_limits", "data.curriculum")
LATER_STREAM_FIELDS += ("data.parallel_ratio", "masking.unit", "data.drop_tokens", "data.keep_whole")
LATER_STREAM_FIELDS += ("data.code_switch_fraction", "data.parallel_english_fraction")
# Of a student's configuration: what decides its answers beside its weights' shapes.
ARCHITECTURE = ("model_type", "num_attention_heads", "hidden_act", "layer_norm_eps")
log = logging.getLogger(__name__)


def where_to_begin(recipe: Recipe, *, ranks: Ranks, resume: str) -> Path | None:
    """The checkpoint to go on from, found by the first rank and told to all."""
    found: list[Path | str | None] = [None]
    if ranks.is_first:
        try:
            found = [_find_checkpoint(recipe, resume)]
        except CheckpointError as error:
            found = [str(error)]
    if ranks.world > 1:
        torch.distributed.broadcast_object_list(found, src=0)
    if isinstance(found[0], str):
        raise CheckpointError(found[0])
    return found[0]


def _find_checkpoint(recipe: Recipe, resume: str) -> Path | None:
    folder = recipe.run_folder / "checkpoints"
    if resume == "never":
        _put_aside(recipe.run_folder)
        return None
    if resume not in ("auto", "must"):
        damage = checkpoint.damaged(Path(resume))
        if damage:
            raise CheckpointError(f"--resume {resume}: {damage}")
        return Path(resume)
    newest = checkpoint.newest_sound(folder)
    if newest is None and resume == "must":
        raise CheckpointError(f"--resume must: there is no complete checkpoint in {folder}")
    return newest


def _put_aside(folder: Path) -> None:
    if not folder.exists():
        return
    number = 1
    while (aside := folder.with_name(f"{folder.name}.before_{number}")).exists():
        number += 1
    folder.rename(aside)
    log.warning("--resume never: what was in %s is now in %s", folder, aside)


def stream_fingerprints(recipe: Recipe, stream: Stream) -> dict[str, str]:
    """Of what decides which samples come when, and how they are masked."""
    tree, changed = recipe.model_dump(mode="json"), recipe.model_dump(mode="json", exclude_defaults=True)
    facts = {path: _value(tree, path) for path in STREAM_FIELDS}
    del facts["masking"]["unit"]
    facts |= {path: value for path in LATER_STREAM_FIELDS if (value := _value(changed, path)) is not None}
    if recipe.data.max_repeats or recipe.data.curriculum:
        facts["train.steps"] = recipe.train.steps  # then the shares depend on the length of the run
    return {
        "shards": stream.mixture.fingerprint,
        "tokenizer": stream.shards.tokenizer_fingerprint,
        "stream": json.dumps(facts, sort_keys=True),
    }


def _value(tree: dict, path: str) -> Any:
    """What stands at a dotted path; None where there is nothing."""
    return reduce(lambda table, key: (table or {}).get(key), path.split("."), tree)


def fingerprints_of_models(
    recipe: Recipe, student: Encoder, teacher: Teacher | None, *, ranks: Ranks
) -> dict[str, str]:
    """Of what makes a student another one though its weights have the same shapes, and of the teachers."""
    config = student.hf.config
    facts = {"student": json.dumps({name: getattr(config, name, None) for name in ARCHITECTURE})}
    if teacher is not None:
        folders = teacher_folders(recipe)
        dist.refuse_differences({"teacher": " ".join(folder.name for folder in folders)})
        facts["teacher"] = dist.everyone_says(" ".join(map(teacher_fingerprint, folders)) if ranks.is_first else "")[0]
    return facts


def refuse_another_run(state: State, path: Path, *, stream: dict[str, str], models: dict[str, str]) -> None:
    """A checkpoint goes on with the same samples, student and teacher; one of an earlier version names no models.

    Raises:
        CheckpointError: it would not; it says what has changed.
    """
    how = "give the run another name, or start over with --resume never"
    before = state.fingerprints
    if changed := [name for name in stream if before.get(name) != stream[name]]:
        raise CheckpointError(
            f"{path} read another stream than this recipe would: {', '.join(changed)} changed (of the recipe, these "
            f"decide the stream: {', '.join(STREAM_FIELDS + LATER_STREAM_FIELDS)}). Change it back, {how}"
        )
    changed = [name for name in models if before.get(name, models[name]) != models[name]]
    if "student" in changed:
        raise CheckpointError(
            f"{path} is of a student with {before['student']}, the recipe's has {models['student']}: change it back, "
            f"{how}"
        )
    if "teacher" in changed:
        raise CheckpointError(
            f"{path} learnt from another teacher: its weights or configuration have changed since. If teacher.path is "
            f"a run, name the export that it was (runs/NAME/hf/step_N); or {how}"
        )


def tidy(recipe: Recipe, *, step: int) -> None:
    """Put aside what a run that goes back to a step had reached, and write the export that a stop came before."""
    folder, name = recipe.run_folder, checkpoint.step_name(step)
    for path in checkpoint.abandon(folder, after=step):
        log.warning("going back to step %d: what was later is put aside as %s", step, path)
    if recipe.save.export and (folder / "checkpoints" / name).is_dir() and not (folder / "hf" / name).is_dir():
        export_run(folder, step=step)


def say_what_changed(state: State, recipe: Recipe, *, ranks: Ranks) -> None:
    """A run goes on under any number of ranks; where that changes its numbers, say so."""
    if state.world == ranks.world:
        return
    log.info("saved by %d rank(s), going on with %d", state.world, ranks.world)
    table = recipe.discriminator
    if table is not None and table.turns == "every_micro_batch":
        log.warning(
            "discriminator.turns = every_micro_batch and %d ranks instead of %d: the discriminator's moves now hold "
            "other documents; a number of turns would not depend on the ranks",
            ranks.world,
            state.world,
        )
    if recipe.student.drops_at_random:
        log.warning("dropout on %d ranks instead of %d: other random numbers from here on", ranks.world, state.world)
