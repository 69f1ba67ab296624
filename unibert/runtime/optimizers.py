"""Client optimizers: AdamW or LAMB, decay and trust ratio kept off biases and LayerNorm."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from unibert.runtime.lamb import Lamb
from unibert.schema import Optimizer

log = logging.getLogger(__name__)


def parameter_groups(module: nn.Module, *, weight_decay: float) -> list[dict[str, object]]:
    """Two groups of the parameters that move: matrices with decay, vectors (bias, LayerNorm) without.

    `adapt` says which LAMB scales by a trust ratio: the matrices. Other optimizers do not read it.
    """
    moving = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in moving if p.dim() >= 2], "weight_decay": weight_decay, "adapt": True},
        {"params": [p for p in moving if p.dim() < 2], "weight_decay": 0.0, "adapt": False},
    ]
    return [group for group in groups if group["params"]]


def build(
    module: nn.Module, *, table: Optimizer, rate: float | None = None, stage: int = 0, offloaded: bool = False
) -> torch.optim.Optimizer:
    """The optimizer that the recipe names, over what moves.

    Args:
        module: already on its device, which decides between the kinds below.
        table: the recipe's [optimizer].
        rate: stands in for the table's learning rate.
        stage: ZeRO's, 0 to 3.
        offloaded: the optimizer's tensors will lie in the CPU's memory.

    Returns:
        adamw: torch's, fused on a GPU; DeepSpeedCPUAdam when offloaded from an accelerator and its operator builds.
        lamb: ours (runtime/lamb.py), to be attached to the engine's shards; in ZeRO-0 on a GPU NVIDIA apex's when
        it is installed and computes the same (`_apex_lamb`).
    """
    groups = parameter_groups(module, weight_decay=table.weight_decay)
    device = _device_type(module)
    settings: dict[str, Any] = {
        "lr": table.learning_rate if rate is None else rate,
        "betas": table.betas,
        "eps": table.epsilon,
    }
    if table.name == "lamb":
        # Apex has no largest ratio, and without decay gives no trust ratio to anything.
        same = table.trust_ratio_max == 0 and table.weight_decay > 0
        apex = _apex_lamb(groups, settings) if same and stage == 0 and device == "cuda" else None
        return apex or Lamb(groups, **settings, ratio_max=table.trust_ratio_max)
    on_cpu = _cpu_adam(groups, settings) if offloaded and device != "cpu" else None
    return on_cpu or torch.optim.AdamW(groups, **settings, fused=device == "cuda")


@contextmanager
def at_rest(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Whatever steps the optimizer inside leaves no trace: the rate is 0 there, and the state is emptied after.

    For `deepspeed.initialize`: its wrapper of ZeRO-0 in bf16 or fp16 (FP16_UnfusedOptimizer) steps once on
    gradients of zero. That would decay the weights at the peak rate (LAMB, which scales small updates up, by
    rate x ratio x decay, up to the whole rate) and leave the bias correction one step ahead for good.
    """
    groups = list(optimizer.param_groups)
    rates = [group["lr"] for group in groups]
    for group in groups:
        group["lr"] = 0.0
    yield
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate
        group.pop("step", None)  # apex counts in the group
    optimizer.state.clear()


def counts_in_groups(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it is NVIDIA apex's, which counts steps in its groups, from its first step on, and not in its state."""
    return type(optimizer).__name__ == "FusedLAMB"


def _device_type(module: nn.Module) -> str:
    return next(parameter for parameter in module.parameters() if parameter.requires_grad).device.type


def _apex_lamb(groups: list[dict[str, object]], settings: dict[str, Any]) -> torch.optim.Optimizer | None:
    """NVIDIA apex's FusedLAMB with the settings that make it ours; None when it is not there.

    Its own clipping is put out of reach (the engine clips): 0 would not switch it off, the kernel divides by it.
    Set up after its source (apex/optimizers/fused_lamb.py, csrc/multi_tensor_lamb.cu): it was not run, for want
    of a GPU with apex. It counts steps in the groups, not in the state, and tells no trust ratios.
    """
    try:
        from apex.optimizers import FusedLAMB  # pyright: ignore[reportMissingImports]

        found = FusedLAMB(
            [*map(dict, groups)],  # a constructor fills them in: the next one needs them clean
            **settings,
            bias_correction=True,
            grad_averaging=True,
            adam_w_mode=True,
            use_nvlamb=False,
            max_grad_norm=float("inf"),
        )
    except (ImportError, RuntimeError) as error:  # absent, PyPI's package of that name, or built without CUDA
        log.info("LAMB: unibert's own, since NVIDIA apex's cannot be used: %s", error)
        return None
    log.info("LAMB: NVIDIA apex's FusedLAMB")
    return found


def _cpu_adam(groups: list[dict[str, object]], settings: dict[str, Any]) -> torch.optim.Optimizer | None:
    """DeepSpeed's AdamW for tensors in the CPU's memory; None when its operator cannot be built."""
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    try:
        found = DeepSpeedCPUAdam([*map(dict, groups)], **settings, adamw_mode=True)
    except RuntimeError as error:
        log.info("offloaded AdamW: torch's, since DeepSpeedCPUAdam cannot be used: %s", error.__cause__ or error)
        return None
    log.info("offloaded AdamW: DeepSpeedCPUAdam, whose operator is built")
    return found
