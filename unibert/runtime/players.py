"""Players: who moves which parameters, by its own DeepSpeed engine.

While one player goes back, everybody else's parameters have requires_grad off. So the student learns
*through* the discriminator without a gradient landing on it, in every ZeRO stage; DeepSpeed's two-engine
tutorial pattern is silently wrong there. Each player goes back once per micro-step, its terms summed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from unibert.runtime import dsconfig


class Player:
    """A module, its engine, and how many micro-steps lie between its moves.

    Args:
        name: `student` or `discriminator`; the checkpoint's sub-folder.
        module: what it moves.
        optimizer: the client optimizer over the parameters that move.
        config: a checked DeepSpeed file (runtime/dsconfig.py).
        micro_batch: documents in one forward.
        window: micro-steps between moves, the engine's gradient accumulation.
        world: ranks.
        clip_norm: largest gradient norm, 0 for none.
        bf16_is_faster: what "auto" means in the file.
    """

    def __init__(
        self,
        name: str,
        *,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: dict[str, Any],
        micro_batch: int,
        window: int,
        world: int,
        clip_norm: float,
        bf16_is_faster: bool,
    ) -> None:
        import deepspeed

        self.name = name
        self.window = window
        self.world = world
        self.moving = [parameter for parameter in module.parameters() if parameter.requires_grad]
        # DeepSpeed types its engine as one of many; what is used of it here is common to them.
        self.engine: Any
        self.engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=optimizer,
            config=dsconfig.complete(
                config,
                micro_batch=micro_batch,
                accumulation=window,
                world=world,
                clip_norm=clip_norm,
                bf16_is_faster=bf16_is_faster,
            ),
        )
        self.grad_norm = 0.0

    @property
    def module(self) -> nn.Module:
        """The module inside the engine."""
        return self.engine.module

    def requires_grad(self, on: bool) -> None:
        """Switch the gradient of every parameter that this player moves."""
        for parameter in self.moving:
            parameter.requires_grad_(on)

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of every group."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate

    def backward(self, loss: Tensor) -> None:
        """Go back once. `loss` is this rank's share of the window's mean; DeepSpeed averages over ranks."""
        self.engine.backward(loss * self.world, scale_wrt_gas=False)

    def move_if_due(self) -> None:
        """Count the micro-step; at the window's end the optimizer steps and the norm is kept."""
        due = self.engine.is_gradient_accumulation_boundary()
        # A plain fp32 engine forgets its norm, so it is taken before the step clips and clears.
        kept = self._plain_norm() if due and self._is_plain() else None
        self.engine.step()
        if due:
            norm = kept if kept is not None else self.engine.get_global_grad_norm()
            assert norm is not None, "every wrapped optimizer keeps its norm"
            self.grad_norm = float(norm)

    def _is_plain(self) -> bool:
        return isinstance(self.engine.optimizer, torch.optim.Optimizer)

    def _plain_norm(self) -> Tensor:
        gradients = [parameter.grad for parameter in self.moving if parameter.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)


class Players:
    """All players of a run, in the order in which they go back: the student first.

    Student and discriminator both learn from the discriminator as it was when the window began, as in one
    pass of gradient reversal. With windows that are a fixed part of the global batch, the run is therefore
    the same for any world size and micro-batch.
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
