"""Which precision a device is fast in."""

from __future__ import annotations

import torch


def bf16_is_faster(device: torch.device) -> bool:
    """Whether matrix products in bf16 beat fp32 here: GPUs from Ampere on, and CPUs with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        known = torch.cpu.get_capabilities()
        return bool(known.get("amx_bf16") or known.get("avx512_bf16"))
    return False
