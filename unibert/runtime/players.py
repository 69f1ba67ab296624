"""Players: who moves which parameters, by its own DeepSpeed engine.

While one player goes back, everybody else's parameters have requires_grad off. So the student learns
*through* the discriminator without a gradient landing on it, in every ZeRO stage; DeepSpeed's two-engine
tutorial pattern is silently wrong there. Between two moves a player goes back once per forward, its terms summed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from unibert.errors import MachineError, NumericsError
from unibert.runtime import dsconfig
from unibert.runtime.lamb import Lamb
from unibert.runtime.optimizers import at_rest
from unibert.runtime.shards import inner_optimizer, shards_of


@contextmanager
def gathered(parameter: nn.Parameter) -> Iterator[None]:
    """A parameter is whole inside, on every rank, also where ZeRO-3 has cut it."""
    if not hasattr(parameter, "ds_id"):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        yield


def _refuse_precision(config: dict[str, Any], *, name: str) -> None:
    from deepspeed.accelerator import get_accelerator

    here: Any = get_accelerator()
    for precision, supported in {"fp16": here.is_fp16_supported, "bf16": here.is_bf16_supported}.items():
        if config.get(precision, {}).get("enabled") and not supported():
            other = {"fp16": "bf16", "bf16": "fp16"}[precision]
            raise MachineError(
                f"engines.{name}: its DeepSpeed file enables {precision}, which this machine's {here.device_name()} "
                f"does not train in; enable {other} there instead, or neither of them for fp32"
            )


class Player:
    """A module and its engine.

    How a player moves once:
        >>> for micro in window:
        >>>     player.at_boundary(micro is window[-1])  # before the forward
        >>>     loss = ...  # of player.engine's forward, this rank's share of the window's mean
        >>>     player.backward(loss)
        >>> player.move()

    Args:
        name: `student` or `discriminator`; the checkpoint's sub-folder.
        module: what it moves.
        optimizer: the client optimizer over the parameters that move.
        config: a checked DeepSpeed file (runtime/dsconfig.py).
        micro_batch: documents in one forward.
        accumulation: most times it goes back before a move; DeepSpeed makes its buffers for that.
        world: ranks.
        clip_norm: largest gradient norm, 0 for none.
        bf16_is_faster: what "auto" means in the file.

    Attributes:
        grad_norm: of the last move, before clipping; None when an overflow of fp16 skipped it.
        skipped: moves that fp16's dynamic loss scale has skipped so far.

    Raises:
        MachineError: the device does not train in the file's precision (a CPU in fp16 needs AVX512-FP16 or AMX-FP16).
    """

    def __init__(
        self,
        name: str,
        *,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: dict[str, Any],
        micro_batch: int,
        accumulation: int,
        world: int,
        clip_norm: float,
        bf16_is_faster: bool,
    ) -> None:
        import deepspeed

        self.name = name
        self.world = world
        self.moving = [parameter for parameter in module.parameters() if parameter.requires_grad]
        # DeepSpeed types its engine as one of many; what is used of it here is common to them.
        self.engine: Any
        whole = dsconfig.complete(
            config,
            micro_batch=micro_batch,
            accumulation=accumulation,
            world=world,
            clip_norm=clip_norm,
            bf16_is_faster=bf16_is_faster,
        )
        _refuse_precision(whole, name=name)
        with at_rest(optimizer):
            self.engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=whole)
        self.lamb = inner if isinstance(inner := inner_optimizer(self.engine), Lamb) else None
        if self.lamb is not None:
            self.lamb.attach(shards_of(self.engine))
        self.grad_norm: float | None = 0.0

    @property
    def module(self) -> nn.Module:
        """The module inside the engine."""
        return self.engine.module

    @property
    def skipped(self) -> int:
        """Moves skipped by an overflow of fp16."""
        return int(self.engine.skipped_steps)

    @property
    def loss_scale(self) -> float | None:
        """Of fp16; None in other precisions."""
        return float(self.engine.optimizer.loss_scale) if self.engine.fp16_enabled() else None

    def requires_grad(self, on: bool) -> None:
        """Switch the gradient of every parameter that this player moves."""
        for parameter in self.moving:
            parameter.requires_grad_(on)

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of every group."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate

    def at_boundary(self, last: bool) -> None:
        """Say before a forward whether it is the last one before the player moves."""
        self.engine.set_gradient_accumulation_boundary(last)

    def backward(self, loss: Tensor) -> None:
        """Go back once. `loss` is this rank's share of the window's mean; DeepSpeed averages over ranks."""
        self.engine.backward(loss * (self.world * self._scale_left_out()), scale_wrt_gas=False)

    def move(self) -> None:
        """The optimizer steps, after clipping.

        Raises:
            NumericsError: fp16's loss scale has fallen to its least.
        """
        plain = isinstance(self.engine.optimizer, torch.optim.Optimizer)
        # A plain fp32 engine forgets its norm, so it is taken before the step clips and clears.
        norm = self._plain_norm() if plain else None
        before, scale = self.skipped, self._scale_left_out()
        try:
            self.engine.step()
        except Exception as error:  # DeepSpeed raises a bare Exception here
            if "loss scale" not in str(error):
                raise
            raise self._hopeless() from error
        if self.skipped > before and self.engine.fp16_enabled():
            scaling = getattr(self.engine.optimizer, "loss_scale_config", None)
            if scaling is not None and scaling.dynamic_loss_scale and scale <= scaling.min_loss_scale:
                raise self._hopeless()  # ZeRO-0 would skip for ever
            self.grad_norm = None
            return
        norm = norm if plain else self.engine.get_global_grad_norm()
        assert norm is not None, "every wrapped optimizer keeps its norm"
        self.grad_norm = float(norm) / scale

    def weights(self, names: Collection[str]) -> Iterator[tuple[str, Tensor]]:
        """Whole weights by name, valid until the next one is asked for; every rank asks for all of the same ones."""
        for name, parameter in self.module.named_parameters(remove_duplicate=False):  # a tied one has two names
            if name in names:
                with gathered(parameter):
                    yield name, parameter.detach()

    def _hopeless(self) -> NumericsError:
        return NumericsError(
            f"the {self.name}'s gradient overflows fp16 at the least loss scale too: train in bf16 or fp32, or lower "
            "the learning rate"
        )

    def _scale_left_out(self) -> float:
        """What the loss has to be multiplied by here: fp16's loss scale in ZeRO-0, else 1.

        There DeepSpeed 0.19.8 divides the gradient by the scale as in the other stages (in bf16 it is 1), but has not
        multiplied the loss by it, and tells the norm undivided.
        """
        wrapper = self.engine.optimizer
        return float(wrapper.loss_scale) if type(wrapper).__name__ == "FP16_UnfusedOptimizer" else 1.0

    def _plain_norm(self) -> Tensor:
        for parameter in self.moving:
            if parameter.grad is None:  # ZeRO 1 to 3 move what had no part in the loss by decay; so does this
                parameter.grad = torch.zeros_like(parameter)
        return torch.nn.utils.get_total_norm([p.grad for p in self.moving if p.grad is not None])


class Players:
    """All players of a run: the student first, then the discriminator, which learns from its features.

    Student and discriminator both learn from the discriminator as it was when its turn began, as in one pass of
    gradient reversal. With turns that are a fixed part of the global batch, the run is therefore the same for any
    world size and micro-batch.
    """

    def __init__(self, players: Sequence[Player]) -> None:
        self._players = list(players)

    def __iter__(self) -> Iterator[Player]:
        return iter(self._players)

    def __getitem__(self, name: str) -> Player:
        return next(player for player in self._players if player.name == name)

    def __contains__(self, name: str) -> bool:
        return any(player.name == name for player in self._players)

    @contextmanager
    def alone(self, player: Player) -> Iterator[None]:
        """Only this player's parameters require gradient inside."""
        others = [other for other in self._players if other is not player]
        for other in others:
            other.requires_grad(False)
        try:
            yield
        finally:
            for other in others:
                other.requires_grad(True)
