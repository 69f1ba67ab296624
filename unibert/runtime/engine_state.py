"""A player's state by parameter name, free of world size, ZeRO stage, precision and offload.

Each rank writes the fragments it holds, as safetensors keyed `kind|start|name`: the fp32 weight and the
optimizer's moments. Reading asks for any stretch of any parameter, so a run goes on under any number of ranks,
any ZeRO stage and any offload, without conversion. DeepSpeed's own files fix the world size, and its universal
checkpoint does not cross between ZeRO 2 and 3.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unibert.errors import CheckpointError
from unibert.runtime.optimizers import counts_in_groups
from unibert.runtime.shards import inner_optimizer, shards_of

WEIGHT = "weight"
FACTS = "engine.json"
SCALER_FIELDS = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
COUNTERS = ("global_steps", "global_samples", "micro_steps", "skipped_steps")


@dataclass(frozen=True)
class Snapshot:
    """A copy in host memory of what one rank has to write of one player.

    Attributes:
        tensors: key -> 1-D tensor.
        facts: shapes, optimizer steps, loss scale and counters; the first rank's are written.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    def write(self, folder: Path, *, rank: int) -> list[Path]:
        """Write this rank's files and return them."""
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"rank_{rank:05d}.safetensors"]
        save_file(self.tensors, files[0])
        if rank == 0:
            files.append(folder / FACTS)
            files[1].write_text(json.dumps(self.facts, indent=1))
        return files


def snapshot(engine: Any, *, rank: int) -> Snapshot:
    """Copy what this rank has to save; every rank calls it (ZeRO-3 gathers the frozen weights)."""
    optimizer = inner_optimizer(engine)
    tensors: dict[str, Tensor] = {}
    kinds: set[str] = set()
    steps = 0
    for shard in shards_of(engine):
        state = optimizer.state.get(shard.flat, {})
        moments = {kind: value for kind, value in state.items() if _is_moment(value, shard.flat)}
        kinds |= moments.keys()
        steps = max(steps, int(state.get("step", 0)))
        if shard.group is None and rank:
            continue  # the first rank has all of it too
        for fragment in shard.fragments:
            for kind, flat in ({WEIGHT: shard.flat} | moments).items():
                key = f"{kind}|{fragment.start}|{fragment.name}"
                tensors[key] = shard.part(fragment, flat).to("cpu", copy=True)
    steps = max([steps, *(int(group.get("step", 0)) for group in optimizer.param_groups)])
    for name, value in _at_rest(engine, keep=rank == 0):
        tensors[f"{WEIGHT}|0|{name}"] = value
    facts = {
        "shapes": {name: list(_shape(value)) for name, value in _named(engine)},
        "moving": sorted(name for shard in shards_of(engine) for name in shard.names),
        "moments": sorted(kinds),
        "optimizer_steps": steps,
        "loss_scale": {name: value for name, value in vars(_scaler(engine)).items() if name in SCALER_FIELDS},
        "counters": {name: int(getattr(engine, name)) for name in COUNTERS},
    }
    return Snapshot(tensors, facts)


def restore(engine: Any, folder: Path) -> None:
    """Give an engine the state that `snapshot` wrote, whatever cut it into pieces; every rank calls it.

    Raises:
        CheckpointError: files are unreadable, or of another model or optimizer.
    """
    saved = Saved(folder)
    saved.check_same_parameters(engine)
    optimizer, steps = inner_optimizer(engine), saved.facts["optimizer_steps"]
    for shard in shards_of(engine):
        for fragment in shard.fragments:
            shard.part(fragment).copy_(saved.read(WEIGHT, fragment.name, fragment.start, fragment.numel))
        if not steps:
            continue
        state: dict[str, Any] = {"step": _step_like(optimizer, steps, shard.flat)}
        for kind in saved.facts["moments"]:
            state[kind] = torch.zeros_like(shard.flat, requires_grad=False)
            for fragment in shard.fragments:
                part = saved.read(kind, fragment.name, fragment.start, fragment.numel)
                shard.part(fragment, state[kind]).copy_(part)
        optimizer.state[shard.flat] = state
    for group in optimizer.param_groups:
        if "step" in group or counts_in_groups(optimizer):
            group["step"] = steps
    _refresh_forward_weights(engine, saved)
    for name, value in _at_rest(engine, keep=True, write=saved):
        assert value.shape == saved.shape(name)
    scaler = _scaler(engine)
    for field, value in saved.facts["loss_scale"].items():
        if hasattr(scaler, field):
            setattr(scaler, field, value)
    for name, value in saved.facts["counters"].items():
        setattr(engine, name, value)


class Saved:
    """What ranks wrote of one player, read by parameter.

    Raises:
        CheckpointError: the folder is not there, or a file of it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pieces: dict[tuple[str, str], list[tuple[int, Any, str]]] = defaultdict(list)
        try:
            self.facts: dict[str, Any] = json.loads((folder / FACTS).read_text())
            for file in sorted(folder.glob("rank_*.safetensors")):
                opened = safe_open(file, framework="pt")
                for key in opened.keys():  # noqa: SIM118  (not a dict)
                    kind, start, name = key.split("|", 2)
                    self._pieces[kind, name].append((int(start), opened, key))
        except (OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(f"{folder}: cannot be read: {error}") from error
        for pieces in self._pieces.values():
            pieces.sort(key=lambda piece: piece[0])

    def shape(self, name: str) -> torch.Size:
        """Shape of a whole parameter."""
        return torch.Size(self.facts["shapes"][name])

    def read(self, kind: str, name: str, start: int, numel: int) -> Tensor:
        """Elements start .. start+numel of a flattened parameter or moment, from whoever wrote them.

        Raises:
            CheckpointError: some of them were never written.
        """
        parts, have = [], start
        for first, opened, key in self._pieces[kind, name]:
            piece = opened.get_slice(key)
            last = first + piece.get_shape()[0]
            if first <= have < last and have < start + numel:
                until = min(last, start + numel)
                parts.append(piece[have - first : until - first])
                have = until
        if have != start + numel:
            raise CheckpointError(f"{self.folder}: elements {have}..{start + numel} of {name} ({kind}) are missing")
        return torch.cat(parts) if len(parts) != 1 else parts[0]

    def whole(self, name: str) -> Tensor:
        """A parameter or buffer, in its shape."""
        shape = self.shape(name)
        return self.read(WEIGHT, name, 0, shape.numel()).view(shape)

    def weights(self) -> dict[str, Tensor]:
        """All parameters and saved buffers: fp32 where they move, in the precision of the forward where frozen."""
        return {name: self.whole(name) for name in self.facts["shapes"]}

    def check_same_parameters(self, engine: Any) -> None:
        """Refuse another model, another set of moving parameters, or an optimizer with other moments."""
        shapes = {name: list(_shape(value)) for name, value in _named(engine)}
        moving = sorted(name for shard in shards_of(engine) for name in shard.names)
        if shapes != self.facts["shapes"]:
            both = shapes.keys() | self.facts["shapes"].keys()
            other = next(name for name in sorted(both) if shapes.get(name) != self.facts["shapes"].get(name))
            raise CheckpointError(
                f"{self.folder} holds another model: {other} is {self.facts['shapes'].get(other)} there and "
                f"{shapes.get(other)} here. Give the run another name, or start over with --resume never"
            )
        if moving != self.facts["moving"]:
            other = sorted(set(moving) ^ set(self.facts["moving"]))[0]
            raise CheckpointError(
                f"{self.folder}: {other} moves in the one and is frozen in the other: student.trainable cannot change "
                "within a run; give it another name and student.start_from"
            )


def _named(engine: Any) -> Iterator[tuple[str, Tensor]]:
    """Parameters (tied ones once) and the buffers that a state dict would have."""
    yield from engine.module.named_parameters()
    kept = engine.module.state_dict(keep_vars=True).keys()
    yield from ((name, buffer) for name, buffer in engine.module.named_buffers() if name in kept)


def _shape(value: Tensor) -> torch.Size:
    """Of the whole tensor, also when ZeRO-3 has cut it."""
    return torch.Size(getattr(value, "ds_shape", value.shape))


def _at_rest(engine: Any, *, keep: bool, write: Saved | None = None) -> Iterator[tuple[str, Tensor]]:
    """Frozen parameters and buffers, whole and flat (in their shape when written); ZeRO-3 lends them one by one."""
    moving = {name for shard in shards_of(engine) for name in shard.names}
    for name, value in _named(engine):
        if name in moving:
            continue
        with ExitStack() as lent:
            if hasattr(value, "ds_shape"):
                import deepspeed

                lent.enter_context(deepspeed.zero.GatheredParameters([value], modifier_rank=0 if write else None))
            if write is not None:
                value.data.copy_(write.whole(name))
                yield name, value.data
            elif keep:
                # Copied only when it is a loan: what is frozen does not change while it is written.
                yield name, value.detach().to("cpu", copy=hasattr(value, "ds_shape")).reshape(-1)


def _refresh_forward_weights(engine: Any, saved: Saved) -> None:
    """Bring the weights that the forward uses in line with the fp32 ones, as an optimizer step does."""
    wrapper = engine.optimizer
    if isinstance(wrapper, torch.optim.Optimizer):
        return  # they are the same
    if type(wrapper).__name__ == "DeepSpeedZeroOptimizer_Stage3":
        wrapper._partition_all_parameters()
        for sub_group in range(len(wrapper.fp16_groups)):
            wrapper._reassign_or_swap_out_partitioned_parameters(sub_group)
        if wrapper.persistent_parameters:
            wrapper.persistent_parameters[0].all_gather(wrapper.persistent_parameters)
        return
    parameters = dict(engine.module.named_parameters())
    for name in saved.facts["moving"]:
        parameters[name].data.copy_(saved.whole(name))  # the other ranks' stretches too


def _is_moment(value: Any, flat: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == flat.shape and value.dim() > 0


def _step_like(optimizer: torch.optim.Optimizer, steps: int, flat: Tensor) -> Any:
    """The step count as the optimizer keeps it: torch's own as a float tensor, all others as an int."""
    if not type(optimizer).__module__.startswith("torch.optim"):
        return steps
    on_device = optimizer.defaults.get("fused") or optimizer.defaults.get("capturable")
    return torch.tensor(float(steps), device=flat.device if on_device else "cpu")


def _scaler(engine: Any) -> Any:
    """fp16's loss scale, wherever DeepSpeed's wrapper keeps it; an empty object in other precisions.

    Those have a scale of 1 there, which an fp16 run that goes on from them must not inherit, nor they an fp16 one's.
    """
    if not engine.fp16_enabled():
        return _NoScaler()
    wrapper = engine.optimizer
    return getattr(wrapper, "loss_scale_config", None) or wrapper.loss_scaler


class _NoScaler:
    """Nothing is scaled."""
