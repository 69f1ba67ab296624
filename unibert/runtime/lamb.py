"""LAMB whose trust ratios are those of whole parameters, however ZeRO has cut them."""

# torch documents its multi-tensor functions (torch._foreach_*) but does not list them as exported.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from unibert.runtime.shards import Fragment, Shard

BLOCK = 2**16
"""Elements per float64 norm on a CPU."""


@dataclass(frozen=True)
class _Move:
    """What one group is about to do, piece by piece of this rank: w -= rate * ratio * u."""

    rate: float
    shards: list[Shard]
    weights: dict[str, Tensor]
    updates: dict[str, Tensor]


class Lamb(torch.optim.Optimizer):
    """LAMB (You et al., arXiv:1904.00962, algorithm 2), its norms summed over the ranks that share a parameter.

        m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2
        u = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps) + decay * w
        ratio = |w| / |u| where both are > 0, else 1; at most `ratio_max` where that is not 0
        w -= rate * ratio * u

    The same as NVIDIA's FusedLAMB but for `ratio_max`, which that one lacks. Groups with `adapt` False (biases,
    LayerNorm) keep ratio 1, as FusedLAMB's groups without decay do.

    A plain LAMB gives each tensor it sees one ratio; ZeRO shows it one long shard of many parameters, a different
    one on every rank. This one is told by `attach` what the shards are made of. The squared norms of all pieces
    then go round in one all-reduce of 2 float64 per parameter, and no parameter is gathered. `step` is therefore
    a collective: every rank calls it with the same groups in the same order, as DeepSpeed does.

    State of a tensor, created at its first step: `exp_avg` and `exp_avg_sq` of the tensor's shape, `step` a plain
    int, the steps made. To go on from a checkpoint set all three:
    `optimizer.state[shard.flat] = {"step": 7, "exp_avg": ..., "exp_avg_sq": ...}`.

    Args:
        params: parameters or groups; a group may say `adapt`, True by default.
        lr: the rate.
        betas: decays of the two moments.
        eps: added to the root of the second moment.
        weight_decay: decoupled decay.
        ratio_max: largest trust ratio, 0 for none.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        ratio_max: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "adapt": True})
        self.ratio_max = ratio_max
        self._attached = False
        self._shards: dict[Tensor, Shard] = {}
        self._last: dict[tuple[str, ...], Tensor] = {}

    def attach(self, shards: Sequence[Shard]) -> None:
        """Learn what the tensors are made of: `attach(shards_of(engine))` on every rank, once the engine is there.

        Raises:
            AssertionError: the pieces of all ranks do not add up to a parameter; on every rank alike.
        """
        for ranks, members in _by_ranks(shards):
            _check_cover(members, ranks)
        self._attached = True
        self._shards = {shard.flat: shard for shard in shards}
        self._last.clear()

    def trust_ratios(self) -> dict[str, float]:
        """The last step's ratio of every adapted parameter by name, the same on all ranks; waits for the device."""
        return {name: r for names, ratios in self._last.items() for name, r in zip(names, ratios.tolist(), strict=True)}

    def ratio_summary(self) -> dict[str, float]:
        """The ratios' three tags; none before the first step."""
        ratios = self.trust_ratios().values()
        summaries = {"min": min, "median": statistics.median, "max": max} if ratios else {}
        return {f"optim/trust_ratio_{name}": summary(ratios) for name, summary in summaries.items()}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every tensor that has a gradient.

        Raises:
            AssertionError: an adapted tensor is a shard, or may be one, that `attach` was not told about.
        """
        loss = None if closure is None else torch.enable_grad()(closure)()
        adapted = []
        for group in self.param_groups:
            tensors = [tensor for tensor in group["params"] if tensor.grad is not None]
            if not tensors:
                continue
            updates = self._updates(tensors, group)
            if group["adapt"]:
                adapted.append(_move([self._shard(tensor) for tensor in tensors], updates, rate=group["lr"]))
            else:
                torch._foreach_add_(tensors, updates, alpha=-group["lr"])
        ratios = self._ratios(adapted)
        for move in adapted:
            _apply(move, ratios)
        return loss

    def _updates(self, tensors: list[Tensor], group: Mapping[str, Any]) -> list[Tensor]:
        """Each tensor's u, its moments moved: element by element, so whole shards at a time.

        Padding has no gradient, so its moments stay 0. Its weight may be anything (ZeRO-3 never sets it).
        """
        (b1, b2), states = group["betas"], [self.state[tensor] for tensor in tensors]
        for tensor, state in zip(tensors, states, strict=True):
            if not state:
                state.update(step=0, exp_avg=torch.zeros_like(tensor), exp_avg_sq=torch.zeros_like(tensor))
            state["step"] += 1
        gradients = [cast(Tensor, tensor.grad) for tensor in tensors]
        first, second = [state["exp_avg"] for state in states], [state["exp_avg_sq"] for state in states]
        torch._foreach_lerp_(first, gradients, 1 - b1)
        torch._foreach_mul_(second, b2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - b2)
        roots = torch._foreach_sqrt(second)
        torch._foreach_div_(roots, [(1 - b2 ** state["step"]) ** 0.5 for state in states])
        torch._foreach_add_(roots, group["eps"])
        updates = torch._foreach_div(first, [1 - b1 ** state["step"] for state in states])
        torch._foreach_div_(updates, roots)
        if group["weight_decay"]:
            torch._foreach_add_(updates, tensors, alpha=group["weight_decay"])
        return list(updates)

    def _shard(self, tensor: Tensor) -> Shard:
        if tensor not in self._shards:
            # A matrix is whole. A vector may be ZeRO's, of any number of parameters: one ratio for it would be wrong.
            assert not self._attached and tensor.dim() >= 2, (
                f"LAMB does not know what a tensor of shape {list(tensor.shape)} is made of: after "
                "deepspeed.initialize call attach(shards_of(engine)); parameters that are vectors take adapt=False"
            )
            name = f"tensor {len(self._shards)}"
            whole = Fragment(name, cast(nn.Parameter, tensor), 0, tensor.numel(), 0)
            self._shards[tensor] = Shard(tensor, (name,), (whole,), None)
        return self._shards[tensor]

    def _ratios(self, moves: Sequence[_Move]) -> dict[str, Tensor]:
        """Trust ratios by name, float64 scalars on the shards' device; one all-reduce for each process group."""
        weights = {name: piece for move in moves for name, piece in move.weights.items()}
        updates = {name: piece for move in moves for name, piece in move.updates.items()}
        found = {}
        for ranks, members in _by_ranks([shard for move in moves for shard in move.shards]):
            names = tuple(name for shard in members for name in shard.names)
            device = members[0].flat.device
            squares = torch.stack([_squares(names, pieces, device=device) for pieces in (weights, updates)])
            of_weight, of_update = _sum_over(ranks, squares).sqrt()
            ratios = torch.where((of_weight > 0) & (of_update > 0), of_weight / of_update, 1.0)
            self._last[names] = ratios.clamp_(max=self.ratio_max) if self.ratio_max else ratios
            found |= zip(names, ratios.unbind(), strict=True)
        return found


def _move(shards: list[Shard], updates: list[Tensor], *, rate: float) -> _Move:
    pieces = [(shard, fragment, u) for shard, u in zip(shards, updates, strict=True) for fragment in shard.fragments]
    return _Move(
        rate,
        shards,
        {fragment.name: shard.part(fragment) for shard, fragment, _ in pieces},
        {fragment.name: shard.part(fragment, of=update) for shard, fragment, update in pieces},
    )


def _apply(move: _Move, ratios: Mapping[str, Tensor]) -> None:
    """Move the weights of this rank's pieces; the padding between them is not touched."""
    weights, updates = list(move.weights.values()), list(move.updates.values())
    if not weights:
        return
    scales = [ratios[name].to(piece.dtype).expand(piece.numel()) for name, piece in move.weights.items()]
    if weights[0].is_cuda:
        # A multi-tensor kernel takes pieces of one stride only: the ratios are written out, in a few kernels too.
        scales = torch.cat(scales).split([piece.numel() for piece in weights])
    torch._foreach_addcmul_(weights, updates, scales, -move.rate)


def _squares(names: Sequence[str], pieces: Mapping[str, Tensor], *, device: torch.device) -> Tensor:
    """|piece|^2 in float64 [len(names)]; 0 where this rank has no piece."""
    nothing = torch.zeros((), dtype=torch.float64, device=device)
    norms = dict(zip(pieces, _norms(list(pieces.values())), strict=True))
    return torch.stack([norms.get(name, nothing) for name in names]).square()


def _norms(pieces: list[Tensor]) -> Sequence[Tensor]:
    """|piece| of each in float64: fp32 sums over 5 * 10^7 elements are wrong by 0.4 % on a CPU.

    On a GPU one multi-tensor kernel serves all pieces. A CPU would write each piece out in float64; block by block
    the copy stays in its cache, which is 4 times as fast as a loop over whole pieces and takes no memory.
    """
    if not pieces or pieces[0].is_cuda:
        return torch._foreach_norm(pieces, 2, torch.float64) if pieces else ()
    return [torch.stack(torch._foreach_norm(piece.split(BLOCK), 2, torch.float64)).norm() for piece in pieces]


def _by_ranks(shards: Iterable[Shard]) -> list[tuple[Any, list[Shard]]]:
    """Shards by the process group they are cut over."""
    found: dict[int, tuple[Any, list[Shard]]] = {}
    for shard in shards:
        found.setdefault(id(shard.group), (shard.group, []))[1].append(shard)
    return list(found.values())


def _sum_over(ranks: Any, values: Tensor) -> Tensor:
    """Sum over a process group, None for this rank alone; the result is where `values` is."""
    if ranks is None:
        return values
    # NCCL carries no tensors of the CPU, where offloaded ones are.
    carried = values.cuda() if torch.distributed.get_backend(ranks) == "nccl" else values
    torch.distributed.all_reduce(carried, group=ranks)
    return carried.to(values.device)


def _check_cover(shards: Sequence[Shard], ranks: Any) -> None:
    """The rank that has a parameter's first element says its size, all say what they have of it."""
    names = [name for shard in shards for name in shard.names]
    held, sizes = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for fragment in (fragment for shard in shards for fragment in shard.fragments):
        held[fragment.name] += fragment.numel
        if fragment.start == 0:
            sizes[fragment.name] += getattr(fragment.parameter, "ds_numel", fragment.parameter.numel())
    sums = _sum_over(ranks, torch.tensor([list(held.values()), list(sizes.values())])).T.tolist()
    wrong = [f"{name} ({a} of {b})" for name, (a, b) in zip(held, sums, strict=True) if a != b]
    assert not wrong, f"the pieces over all ranks are not the parameters: {', '.join(wrong[:3])}"
