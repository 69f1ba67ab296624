"""`unibert cache-teacher`: the teacher reads the run's stream once, and what it says is written for training from it.

A task is a shard: some consecutive steps of the stream, in the micro-batches that a run on one rank would read, so that
the states are those that a resident teacher of the same precision gives. Tasks are shared out, recorded and resumed as
those of the text stages (data/work.py): by processes, ranks or members of an array, to the same bytes.
"""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unibert.config import Recipe, to_toml
from unibert.data.batches import Stream
from unibert.data.lines import say, write_json
from unibert.data.shards import ShardSet
from unibert.data.work import ALONE, Crew, Done, Task, perform
from unibert.errors import ConfigError
from unibert.models.encoder import load_encoder
from unibert.models.folders import newest_export, replaced_folder, save_hf
from unibert.models.precision import bf16_is_faster
from unibert.models.teacher import Teacher, load_one, our_pieces
from unibert.models.teacher.cache_format import FORMAT, VERSION, Spans, write_shard
from unibert.models.teacher.cached import expected_facts, packed_rows, source_config, top_rows
from unibert.models.teacher.pieces import Pieces, with_our_pieces
from unibert.models.wanted import Wanted
from unibert.plan import first_sample
from unibert.resume import stream_fingerprints


@dataclass(frozen=True)
class Job:
    """One shard: steps first .. last of the recipe, from 1, both included."""

    recipe: Recipe
    first: int
    last: int
    path: Path


def run(recipe: Recipe, *, force: bool = False, crew: Crew = ALONE) -> dict[str, Any]:
    """Write the cache of a recipe's whole run; what is there of it is kept.

    Returns:
        The manifest.

    Raises:
        ConfigError: no [teacher], layers that it does not have, or no head for logits.
        DataError: teacher or shards are missing or damaged.
    """
    table = recipe.teacher
    if table is None:
        raise ConfigError("the recipe has no [teacher] to cache")
    folder, source = table.cache_folder, newest_export(table.path or table.trimmed)
    layers = source_config(source).num_hidden_layers
    if strange := [layer for layer in table.cache_layers if not 0 <= layer <= layers]:
        raise ConfigError(f"teacher.cache_layers = {strange}: the teacher has hidden states 0 to {layers}")
    stream = _stream(recipe)
    made_of = expected_facts(source, stream_fingerprints(recipe, stream))
    kept = {"cache": table.cache, "layers": sorted(table.cache_layers), "topk": table.cache_topk}
    tasks = _tasks(recipe, made_of | kept | {"dtype": _dtype(recipe), "head": table.head_dtype})
    (folder / "manifest.json").unlink(missing_ok=True)
    kept["logits"] = _write_head(source, folder / "head")
    entries = perform(_write, tasks, folder=folder, crew=crew, what=f"teacher's answers into {folder}", force=force)
    total = {name: sum(entry[name] for entry in entries) for name in ("documents", "tokens", "targets", "bytes")}
    manifest = {"format": FORMAT, "version": VERSION, "made_of": made_of, "kept": kept, "shards": entries, **total}
    manifest["bytes_per_token"] = total["bytes"] / total["tokens"]
    write_json(folder / "manifest.json", manifest)
    say(
        f"{folder}: {total['documents']:,} documents, {total['targets']:,} masked of {total['tokens']:,} tokens, "
        f"{total['bytes'] / 2**20:,.1f} MiB, {manifest['bytes_per_token']:.1f} bytes per token"
    )
    return manifest


def default_workers() -> int:
    """A process for each GPU; one where there is none, since a teacher uses all cores by itself."""
    return torch.cuda.device_count() or 1


def _tasks(recipe: Recipe, facts: dict[str, Any]) -> list[Task]:
    assert recipe.teacher is not None
    train, folder = recipe.train, recipe.teacher.cache_folder
    each = max(1, recipe.teacher.cache_shard_documents // train.global_batch_sequences)
    batches: dict[str, Any] = {"micro": train.micro_batch_sequences, "global": train.global_batch_sequences}
    batches["ladder"] = [rung.model_dump() for rung in train.ladder]
    tasks = []
    for number, first in enumerate(range(1, train.steps + 1, each)):
        last = min(first + each - 1, train.steps)
        settings = {"version": VERSION, **facts, **batches, "steps": [first, last]}
        tasks.append(Task(f"{number:05d}", settings, Job(recipe, first, last, folder / f"{number:05d}.cache")))
    return tasks


def _dtype(recipe: Recipe) -> str:
    assert recipe.teacher is not None
    if recipe.teacher.dtype != "auto":
        return recipe.teacher.dtype
    return "bf16" if bf16_is_faster(_device()) else "fp32"


def _device() -> torch.device:
    """This process's: workers and ranks of a machine take its GPUs in turn."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    place = multiprocessing.current_process()._identity  # type: ignore[attr-defined]
    number = os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK") or (place[0] - 1 if place else 0)
    return torch.device("cuda", int(number) % torch.cuda.device_count())


def _stream(recipe: Recipe) -> Stream:
    shards = ShardSet.open(recipe.data.folder / "shards", languages=recipe.languages)
    return Stream(recipe, shards, rank=0, world=1)


def _write_head(source: Path, folder: Path) -> bool:
    """Keep the teacher without its layers, in fp32; returns whether it has a masked-LM head."""
    encoder, has_head = load_encoder(source)
    hf: Any = encoder.hf
    from unibert.models.teacher.rest import layer_stack

    del layer_stack(hf)[:]
    hf.config.num_hidden_layers = 0
    if getattr(hf.config, "layer_types", None):
        hf.config.layer_types = []
    with replaced_folder(folder) as new:
        save_hf(hf, new)
    return has_head


_readers: dict[str, tuple[Stream, Teacher, Pieces | None]] = {}
"""Of this process, by the recipe: read once, for all its shards."""


def _read(recipe: Recipe) -> tuple[Stream, Teacher, Pieces | None]:
    name = to_toml(recipe)
    if name not in _readers:
        table, device = recipe.teacher, _device()
        assert table is not None
        teacher = load_one(table, device=device)
        source = newest_export(table.path or table.trimmed)
        pieces = our_pieces(recipe, teacher, source=source)
        with_our_pieces(teacher, pieces, source=source)  # refuses other vocabularies
        _readers.clear()
        _readers[name] = (_stream(recipe), teacher, pieces)
    return _readers[name]


def _write(job: Job) -> Done:
    """One shard."""
    stream, teacher, pieces = _read(job.recipe)
    table = job.recipe.teacher
    assert table is not None
    topk, last = table.cache == "topk", teacher.sizes.layers
    wanted = Wanted(topk, hidden=frozenset(table.cache_layers) - {last})
    parts: list[dict[str, np.ndarray]] = []
    for step in range(job.first, job.last + 1):
        for batch in stream.step(step - 1):
            spans = Spans.of(batch)
            read = pieces.read(batch) if pieces else batch
            out = teacher.forward(read.to(teacher.device), wanted)
            rows = {"targets": spans.targets_D, "tokens": spans.tokens_D, "masks": spans.masks_D}
            states_MH = out.last_hidden.flatten(0, 1)[batch.target_positions.to(teacher.device)]
            if topk:
                assert out.masked_logits is not None
                rows |= top_rows(out.masked_logits, count=table.cache_topk)
            elif teacher.gives.masked_logits:
                rows |= packed_rows("state", states_MH, kind=table.cache)
            for layer in table.cache_layers:
                states = out.states(layer, layers=last).flatten(0, 1)
                own = states[torch.from_numpy(spans.places_N).to(teacher.device)]
                rows |= packed_rows(f"layer_{layer}", own, kind=table.cache)
            parts.append(rows)
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    by_token = tuple(name for name in arrays if name.startswith("layer_"))
    first = first_sample(job.recipe, job.first)
    return Done(write_shard(job.path, first=first, arrays=arrays, by_token=by_token), (job.path,))
