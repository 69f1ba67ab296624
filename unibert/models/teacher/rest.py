"""Where an offloaded teacher's weights rest: in host memory, or in files of a folder, one flat tensor a unit.

A unit is a layer, or a piece of the decoder's rows no larger than a layer. The folder holds unit_000.bin and so on,
table.bin (the word embeddings, from which a tied decoder's pieces are read too), rest.safetensors (everything else, and
buffers) and facts.json, written last: teacher, precision, and what stands where. A process of its own writes them, so
that a training process never holds the whole teacher.
"""

from __future__ import annotations

import fcntl
import json
import math
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedModel

from unibert.data.lines import write_json
from unibert.errors import DataError
from unibert.models.encoder import Encoder, load_encoder
from unibert.models.folders import quiet_hf, replaced_folder
from unibert.models.teacher.identity import teacher_fingerprint

Plan = list[list[tuple[str, list[int]]]]
"""Of each unit: names and shapes of what stands in it, one after the other."""
VERSION = 1


def views(flat: Tensor, plan: Sequence[tuple[str, list[int]]]) -> list[tuple[str, Tensor]]:
    """The tensors that stand in a flat one."""
    sizes = [math.prod(shape) for _, shape in plan]
    parts = flat.split(sizes)
    return [(name, part.view(shape)) for (name, shape), part in zip(plan, parts, strict=True)]


def layer_stack(hf: PreTrainedModel) -> nn.ModuleList:
    """The layers of an encoder, wherever its class keeps them.

    Raises:
        DataError: no list of as many modules as the configuration has layers.
    """
    count = hf.config.num_hidden_layers
    for module in hf.base_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise DataError(f"{type(hf).__name__}: no stack of {count} layers to stream; use teacher.kind = resident")


@dataclass
class Rest:
    """Weights at rest. Units 0 to layers - 1 are the layers, those that follow pieces of the decoder."""

    source: Path
    dtype: torch.dtype
    plan: Plan
    layers: int
    has_head: bool
    others: dict[str, Tensor]
    """What stays on the device, by its name in the model; buffers too."""
    flat: list[Tensor] | None
    """The units in memory; None on a disk."""
    table: Tensor | None
    """The word embeddings in memory."""
    folder: Path | None = None
    """Of the files."""

    @property
    def units(self) -> int:
        """Layers and pieces of the decoder."""
        return len(self.plan)

    @property
    def on_disk(self) -> bool:
        """Whether files hold the weights."""
        return self.folder is not None

    def elements(self, unit: int) -> int:
        """Numbers in a unit."""
        return sum(math.prod(shape) for _, shape in self.plan[unit])

    def layer_modules(self, hf: PreTrainedModel) -> nn.ModuleList:
        """The modules that the first units are of."""
        return layer_stack(hf)

    def resting(self, unit: int) -> Tensor:
        """A unit in memory."""
        assert self.flat is not None
        return self.flat[unit]

    def read(self, unit: int, *, into: Tensor) -> None:
        """Copy a unit into a tensor of the host."""
        if self.folder is None:
            into.copy_(self.resting(unit))
            return
        path = self.folder / f"unit_{unit:03d}.bin"
        wanted: Any = into.view(torch.uint8).numpy()
        with path.open("rb", buffering=0) as file:
            if file.readinto(memoryview(wanted)) != wanted.nbytes:
                raise DataError(f"{path}: is cut off; remove {self.folder} and start again")

    def rows(self, ids: Tensor) -> Tensor:
        """Word embeddings of ids [...], [..., E]."""
        if self.table is not None:
            return nn.functional.embedding(ids, self.table)
        assert self.folder is not None
        shape = self.others["__table_shape__"].tolist()
        bits = np.memmap(self.folder / "table.bin", dtype=_bits(self.dtype), mode="r", shape=tuple(shape))
        different, back = np.unique(ids.numpy(), return_inverse=True)
        found = torch.from_numpy(np.ascontiguousarray(bits[different])).view(self.dtype)
        return found[torch.from_numpy(back.reshape(ids.shape))]


def _bits(dtype: torch.dtype) -> str:
    return "<i2" if dtype.itemsize == 2 else "<i4"


def put_to_rest(source: Path, *, dtype: torch.dtype, folder: Path | None, pinned: bool) -> Rest:
    """Weights of a Hugging Face folder at rest in memory, or in files below `folder`, written where they are not there.

    Raises:
        DataError: no model there, or files cut off.
    """
    if folder is None:
        encoder, has_head = load_encoder(source)
        plan, flat, table, others = _take_apart(encoder, dtype=dtype, has_head=has_head)
        if pinned:
            flat = [unit.pin_memory() for unit in flat]
        layers = encoder.num_layers
        return Rest(source, dtype, plan, layers, has_head, others, flat, table)
    place = place_of(source, dtype, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one rank of a machine writes, the others wait
        if not (place / "facts.json").is_file():
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                pool.submit(_write, source, dtype, place).result()
    facts = json.loads((place / "facts.json").read_text(encoding="utf-8"))
    plan = [[(name, shape) for name, shape in unit] for unit in facts["plan"]]
    others = load_file(place / "rest.safetensors")
    return Rest(source, dtype, plan, facts["layers"], facts["has_head"], others, None, None, place)


def place_of(source: Path, dtype: torch.dtype, folder: Path) -> Path:
    """The folder below `folder` of a teacher's weights in a precision."""
    return folder / f"{teacher_fingerprint(source)[:16]}-{str(dtype).removeprefix('torch.')}"


def _write(source: Path, dtype: torch.dtype, place: Path) -> None:
    """Write the folder of a teacher's weights."""
    encoder, has_head = load_encoder(source)
    plan, flat, table, others = _take_apart(encoder, dtype=dtype, has_head=has_head)
    with replaced_folder(place) as new:
        for number, unit in enumerate(flat):
            unit.view(torch.uint8).numpy().tofile(new / f"unit_{number:03d}.bin")
        table.contiguous().view(torch.uint8).numpy().tofile(new / "table.bin")
        save_file(others, new / "rest.safetensors")
        write_json(
            new / "facts.json",
            {"version": VERSION, "plan": plan, "layers": encoder.num_layers, "has_head": has_head},
        )


@torch.no_grad()
def _take_apart(
    encoder: Encoder, *, dtype: torch.dtype, has_head: bool
) -> tuple[Plan, list[Tensor], Tensor, dict[str, Tensor]]:
    """(plan, units, word embeddings, everything else) of an encoder."""
    encoder.cast(dtype)
    hf: Any = encoder.hf
    if hasattr(hf, "lm_predictions"):
        raise DataError(f"{type(hf).__name__}: its newer head reads the word embeddings; use teacher.kind = resident")
    plan: Plan = []
    flat: list[Tensor] = []
    stack = layer_stack(hf)
    taken: set[int] = set()
    for layer in stack:
        named = list(layer.named_parameters())
        taken |= {id(parameter) for _, parameter in named}
        plan.append([(name, list(parameter.shape)) for name, parameter in named])
        flat.append(torch.cat([parameter.flatten() for _, parameter in named]))
    words = hf.base_model.get_input_embeddings().weight
    table = words.detach()
    taken.add(id(words))
    decoder = hf.get_output_embeddings().weight
    taken.add(id(decoder))
    rows = max(1, max(unit.numel() for unit in flat) // decoder.shape[1])
    for piece in decoder.detach().split(rows) if has_head else ():
        plan.append([("weight", list(piece.shape))])
        flat.append(piece.flatten())  # a view of the word embeddings, where these are the decoder's too
    every = hf.named_parameters(remove_duplicate=False)
    others = {name: parameter.detach().clone() for name, parameter in every if id(parameter) not in taken}
    others |= {name: buffer.clone() for name, buffer in hf.named_buffers()}
    others["__table_shape__"] = torch.tensor(table.shape)
    return plan, flat, table, others


def empty_encoder(rest: Rest, *, device: torch.device) -> Encoder:
    """The encoder with what stays on the device, and shapes alone elsewhere."""
    with quiet_hf(), torch.device("meta"):
        config = AutoConfig.from_pretrained(rest.source, local_files_only=True)
        encoder = Encoder(AutoModelForMaskedLM.from_config(config, dtype=rest.dtype))
    encoder.eval().requires_grad_(False)
    for name, tensor in rest.others.items():
        if name == "__table_shape__":
            continue
        owner, _, leaf = name.rpartition(".")
        module = encoder.hf.get_submodule(owner)
        value = tensor.to(device)
        if leaf in module._buffers:
            module._buffers[leaf] = value
        else:
            module._parameters[leaf] = nn.Parameter(value, requires_grad=False)
    return encoder
