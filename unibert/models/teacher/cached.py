"""A teacher whose answers were written before (unibert cache-teacher), read from memory-mapped files.

Of each masked position the cache has the last hidden state, in 8 bits with a scale of its own or in bf16; the frozen
head, kept beside, gives the logits when the loss wants them. A `topk` cache has the largest logits instead: exactly
those, while the others share the probability that is left evenly, which is right at temperature 1 for every sum over
the vocabulary that does not tell them apart, and an approximation at others.

Readings of unmasked text, which objectives on pairs ask for, are not kept, and wanting them is refused. They are the
same in every pass over a pair, so a cache by position would write them again each time (MMKD's run has 15), at up to
the width in bytes for each word of an English side; and these sides are a small part of what a teacher reads when
teacher.reads = "text" gives it nothing else.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from unibert.config import Recipe
from unibert.errors import ConfigError, DataError
from unibert.models.encoder import Encoder, EncoderOutput, load_encoder
from unibert.models.folders import newest_export
from unibert.models.teacher.base import Teacher
from unibert.models.teacher.cache_format import FORMAT, VERSION, Shard, Spans
from unibert.models.teacher.identity import teacher_fingerprint
from unibert.models.wanted import Wanted
from unibert.plan import first_sample

if TYPE_CHECKING:
    from unibert.data.batches import Batch

BATCH_FIELDS = ("train.global_batch_sequences", "train.ladder")
"""Of the stream's fields: those that change neither what stands at a position nor its masks."""


class CachedTeacher(Teacher):
    """What a cache has of a teacher.

    Args:
        shards: in the order of the stream, from position 0.
        manifest: of the folder.
        head: the teacher without layers; None of a topk cache.
        config: of the teacher.
        device: answers go to.
        ahead: see `Teacher`.
    """

    why = (
        "a cache (teacher.kind = cached) has what unibert cache-teacher wrote: logits at the masked positions of "
        "masked text, and the hidden states of teacher.cache_layers; write it with those, or use another kind, as for "
        "objectives on translation pairs, which read text without masks"
    )

    reads_anything = False

    def __init__(
        self,
        shards: list[Shard],
        manifest: Mapping[str, Any],
        *,
        head: Encoder | None,
        config: Any,
        device: torch.device,
        ahead: bool,
    ) -> None:
        layers = frozenset(manifest["kept"]["layers"])
        last = config.num_hidden_layers
        gives = Wanted(manifest["kept"]["logits"], hidden=layers - {last}, last_hidden=last in layers)
        super().__init__(config, device=device, gives=gives, ahead=ahead)
        self.gives_unmasked = None
        self.shards, self.head, self._firsts = shards, head, [shard.first for shard in shards]

    @torch.no_grad()
    def forward(self, batch: Batch, wanted: Wanted) -> EncoderOutput:
        """See `Teacher`; what it has no last hidden state of is [R, S, 0]."""
        host = batch.to("cpu")
        spans = Spans.of(host)
        documents = [
            self._document(position, masks)
            for position, masks in zip(host.sample_ids.tolist(), spans.masks_D.tolist(), strict=True)
        ]
        rows = {name: torch.from_numpy(np.concatenate([d[name] for d in documents])) for name in documents[0]}
        hidden = {layer: self._states(rows, layer, host, spans) for layer in wanted.hidden}
        last = torch.empty(*batch.input_ids.shape, 0, device=self.device)
        if self.gives.last_hidden and wanted.last_hidden:
            last = self._states(rows, self.sizes.layers, host, spans)
        logits = self._logits(rows) if wanted.masked_logits else None
        return EncoderOutput(last, logits, None, hidden)

    def parameters(self) -> list[Tensor]:
        """The head's."""
        return [] if self.head is None else list(self.head.parameters())

    def _document(self, position: int, masks: int) -> dict[str, np.ndarray]:
        number = bisect_right(self._firsts, position) - 1
        shard = self.shards[number]
        if position >= shard.first + shard.documents:
            raise DataError(f"{shard.path.parent}: no answer to position {position}; run: unibert cache-teacher RECIPE")
        return shard.document(position - shard.first, masks=masks)

    def _logits(self, rows: dict[str, Tensor]) -> Tensor:
        if self.head is not None:
            states_MH = _numbers(rows, "state").to(self.device)
            return self.head.logits(states_MH.to(next(self.head.parameters()).dtype))
        values_MK, ids_MK, rest_M = (rows[name].to(self.device) for name in ("top", "top_ids", "top_rest"))
        left = self.sizes.vocabulary - values_MK.shape[1]
        each_M = rest_M - (math.log(left) if left else 0.0)
        logits_MV = each_M[:, None].expand(-1, self.sizes.vocabulary).clone()
        return logits_MV.scatter_(1, ids_MK.long(), values_MK)

    def _states(self, rows: dict[str, Tensor], layer: int, batch: Batch, spans: Spans) -> Tensor:
        """[R, S, H] of a layer, zero where there is no token."""
        states_NH = _numbers(rows, f"layer_{layer}")
        out = states_NH.new_zeros(batch.input_ids.numel(), states_NH.shape[1])
        out[torch.from_numpy(spans.places_N)] = states_NH
        return out.view(*batch.input_ids.shape, -1).to(self.device)


def packed_rows(name: str, states_NH: Tensor, *, kind: str) -> dict[str, np.ndarray]:
    """Hidden states as a cache keeps them: int8 with a scale a row, or bf16 as its bits."""
    if kind == "hidden_int8":
        exact = states_NH.float()
        scale_N = (exact.abs().amax(dim=1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        return {name: (exact / scale_N[:, None]).round().to(torch.int8).cpu().numpy(), f"{name}_scale": _np(scale_N)}
    return {f"{name}_bf16": states_NH.to(torch.bfloat16).view(torch.int16).cpu().numpy()}


def _np(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().numpy()


def _numbers(rows: dict[str, Tensor], name: str) -> Tensor:
    """What `packed_rows` packed: fp32 of int8, bf16 of bf16."""
    if (bits := rows.get(f"{name}_bf16")) is not None:
        return bits.view(torch.bfloat16)
    return rows[name].float() * rows[f"{name}_scale"][:, None]


def top_rows(logits_MV: Tensor, *, count: int) -> dict[str, np.ndarray]:
    """The largest logits, their ids, and the logarithm of what the others add up to."""
    exact = logits_MV.float()
    values, ids = exact.topk(min(count, exact.shape[1]), dim=1)
    others = exact.scatter(1, ids, float("-inf"))
    rest = others.logsumexp(dim=1).clamp(min=-1e30)
    small = np.dtype("<u2" if exact.shape[1] <= 1 << 16 else "<u4")
    return {"top": _np(values), "top_ids": _np(ids).astype(small), "top_rest": _np(rest)}


def open_cache(recipe: Recipe, *, device: torch.device, fingerprints: Mapping[str, str]) -> CachedTeacher:
    """The cache of a recipe.

    Raises:
        ConfigError: it is too short, or keeps something else than the recipe says.
        DataError: there is none, it is cut off, or of another teacher or stream.
    """
    from unibert.models.teacher import teacher_dtype

    table = recipe.teacher
    assert table is not None
    folder = table.cache_folder
    manifest = read_manifest(folder)
    source = newest_export(table.path or table.trimmed)
    expected = expected_facts(source, fingerprints)
    changed = [name for name, value in expected.items() if manifest["made_of"].get(name) != value]
    if changed:
        raise DataError(
            f"{folder}: a cache of another {' and '.join(changed)} than this recipe's; write it again: "
            f"unibert cache-teacher {recipe.name} --force, or into another teacher.cache_folder"
        )
    if manifest["kept"]["cache"] != table.cache:
        raise ConfigError(f'{folder} keeps {manifest["kept"]["cache"]}: set teacher.cache to it, not "{table.cache}"')
    needed = first_sample(recipe, recipe.train.steps + 1)
    if manifest["documents"] < needed:
        raise ConfigError(
            f"{folder} has {manifest['documents']} documents, and train.steps = {recipe.train.steps} read {needed}: "
            f"run: unibert cache-teacher {recipe.name} (it goes on where it ended)"
        )
    shards = [Shard(folder / entry["name"], entry) for entry in manifest["shards"]]
    for shard, entry in zip(shards, manifest["shards"], strict=True):
        if not shard.path.is_file() or shard.path.stat().st_size != entry["bytes"]:
            raise DataError(f"{shard.path}: missing or cut off; run: unibert cache-teacher {recipe.name}")
    head = None
    if table.cache != "topk":
        head, _ = load_encoder(folder / "head")
        head.eval().requires_grad_(False).to(device).cast(
            torch.float32 if table.head_dtype == "fp32" else teacher_dtype(table, device=device)
        )
    config = source_config(source)
    return CachedTeacher(shards, manifest, head=head, config=config, device=device, ahead=table.ahead != "off")


def source_config(source: Path) -> Any:
    """The teacher's Hugging Face configuration."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(source, local_files_only=True)


def expected_facts(source: Path, fingerprints: Mapping[str, str]) -> dict[str, Any]:
    """What a cache must be made of, to be of this teacher and stream."""
    stream = json.loads(fingerprints["stream"])
    return {
        "teacher": teacher_fingerprint(source),
        "tokenizer": fingerprints["tokenizer"],
        "shards": fingerprints["shards"],
        "stream": {key: value for key, value in stream.items() if key not in BATCH_FIELDS},
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a cache.

    Raises:
        DataError: there is none, or it is damaged.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: there is no finished cache; run: unibert cache-teacher RECIPE") from None
    except ValueError as error:
        raise DataError(f"{path}: damaged ({error}); run: unibert cache-teacher RECIPE") from None
    if manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
        raise DataError(f"{path}: not a cache of this version; run: unibert cache-teacher RECIPE --force")
    return manifest
