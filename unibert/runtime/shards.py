"""Where an engine keeps its weights: which part of which parameter lies where in the optimizer's tensors.

ZeRO 1 and 2 flatten each parameter group, cut it over the ranks and give the optimizer one long tensor; ZeRO-3
cuts every parameter and strings the pieces together; ZeRO-0 cuts nothing. Whoever has to know parameters one by
one (LAMB's trust ratios, checkpoints that any number of ranks can read) asks here. The facts are DeepSpeed
0.19.8's own maps, `_hp_mapping` and `grad_position`; both are wrong under round_robin_gradients, which
dsconfig.py refuses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Fragment:
    """A run of consecutive elements of one parameter, held by this rank.

    Attributes:
        name: of the parameter in the module.
        parameter: the module's own, in the precision of the forward (empty under ZeRO-3 until gathered).
        start: its first element in the flattened parameter.
        numel: its elements, padding not counted.
        offset: where it begins in the optimizer's tensor.
    """

    name: str
    parameter: nn.Parameter
    start: int
    numel: int
    offset: int


@dataclass(frozen=True)
class Shard:
    """One tensor that the optimizer moves on this rank, and what it is made of.

    Attributes:
        flat: the fp32 tensor in the optimizer's groups, and the key of its state.
        names: the parameters it was cut from, in the same order on every rank.
        fragments: this rank's pieces of them; a rank may have none of a parameter.
        group: the ranks that hold the rest; None when every rank holds all of it.
    """

    flat: Tensor
    names: tuple[str, ...]
    fragments: tuple[Fragment, ...]
    group: Any

    def part(self, fragment: Fragment, of: Tensor | None = None) -> Tensor:
        """The fragment's elements [numel] of the flat tensor, or of another one of its size; a view."""
        return (self.flat if of is None else of).detach().view(-1).narrow(0, fragment.offset, fragment.numel)


def shards_of(engine: Any) -> list[Shard]:
    """Every tensor that this rank's optimizer moves, ZeRO 0 to 3, any precision, offloaded or not.

    Raises:
        AssertionError: an optimizer wrapper of DeepSpeed that this does not know, or a parameter that it loses.
    """
    names = {id(parameter): name for name, parameter in engine.module.named_parameters()}
    wrapper = engine.optimizer
    kind = type(wrapper).__name__
    if isinstance(wrapper, torch.optim.Optimizer):
        moving = (parameter for group in wrapper.param_groups for parameter in group["params"])
        found = [_whole(names[id(parameter)], parameter, parameter) for parameter in moving]
    elif kind == "FP16_UnfusedOptimizer":
        pairs = zip(chain(*wrapper.fp16_groups), chain(*wrapper.fp32_groups), strict=True)
        found = [_whole(names[id(parameter)], parameter, flat) for parameter, flat in pairs]
    elif kind == "DeepSpeedZeroOptimizer":
        found = list(_flat_groups(wrapper, wrapper.bit16_groups, wrapper.single_partition_of_fp32_groups, names))
    elif kind == "BF16_Optimizer":
        found = list(_flat_groups(wrapper, wrapper.bf16_groups, wrapper.fp32_groups_flat_partition, names))
    else:
        assert kind == "DeepSpeedZeroOptimizer_Stage3", f"DeepSpeed's {kind} is not known here"
        found = list(_cut_parameters(wrapper, names))
    covered = {name for shard in found for name in shard.names}
    moving_names = {names[id(p)] for p in engine.module.parameters() if p.requires_grad}
    assert covered == moving_names, f"the optimizer's map and the module differ: {sorted(covered ^ moving_names)[:3]}"
    return found


def _whole(name: str, parameter: nn.Parameter, flat: Tensor) -> Shard:
    return Shard(flat, (name,), (Fragment(name, parameter, 0, flat.numel(), 0),), None)


def _flat_groups(wrapper: Any, groups: Any, flats: Any, names: dict[int, str]) -> Iterator[Shard]:
    """ZeRO 1 and 2: a group's parameters laid end to end, this rank's stretch of them."""
    for number, (parameters, flat) in enumerate(zip(groups, flats, strict=True)):
        pieces = []
        for parameter in parameters:
            if (held := parameter._hp_mapping) is not None:
                here, there = held.hp_fragment_address, held.lp_fragment_address
                pieces.append(Fragment(names[id(parameter)], parameter, there.start, there.numel, here.start))
        group = wrapper.real_dp_process_group[number]
        yield Shard(flat, tuple(names[id(parameter)] for parameter in parameters), tuple(pieces), group)


def _cut_parameters(wrapper: Any, names: dict[int, str]) -> Iterator[Shard]:
    """ZeRO-3: every parameter is cut over all ranks, its last pieces padded; a sub-group's pieces end to end."""
    rank = torch.distributed.get_rank(group=wrapper.dp_process_group)
    for number, parameters in enumerate(wrapper.fp16_groups):
        pieces = []
        for parameter in parameters:
            _, offset, padded = wrapper.grad_position[wrapper.get_param_id(parameter)]
            start = rank * padded
            if (numel := min(padded, parameter.ds_numel - start)) > 0:
                pieces.append(Fragment(names[id(parameter)], parameter, start, numel, offset))
        flat = wrapper.fp32_partitioned_groups_flat[number]
        yield Shard(flat, tuple(names[id(p)] for p in parameters), tuple(pieces), wrapper.dp_process_group)


def inner_optimizer(engine: Any) -> torch.optim.Optimizer:
    """The client's optimizer inside DeepSpeed's wrapper: its state is keyed by the shards' flat tensors."""
    wrapper = engine.optimizer
    return wrapper if isinstance(wrapper, torch.optim.Optimizer) else wrapper.optimizer
