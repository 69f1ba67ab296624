"""FLOPs a step needs, counted from the models' shapes, and what a device can do at most.

Counted are the matrix products (2 FLOPs per multiply-add); looking up embeddings, norms, activations, the
loss and the language discriminator (one row per document) are left out, as is usual for this figure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

# Peak bf16 FLOP/s on tensor cores with fp32 sums, dense (not the doubled "sparsity" figure), by NVIDIA's data
# sheets. The first that is a word of torch.cuda.get_device_name() counts, so longer names stand before shorter.
PEAK_BF16_FLOPS: tuple[tuple[str, float], ...] = (
    ("GB200", 2500e12),
    ("B200", 2250e12),
    ("GH200", 989.4e12),
    ("H200 NVL", 835.5e12),
    ("H200", 989.4e12),
    ("H100 NVL", 835.5e12),
    ("H100 PCIe", 756e12),
    ("H100", 989.4e12),
    ("H800 PCIe", 756e12),
    ("H800", 989.4e12),
    ("A100", 311.9e12),
    ("A800", 311.9e12),
    ("A40", 149.7e12),
    ("A30", 165e12),
    ("L40S", 362.1e12),
    ("L40", 181e12),
    ("L4", 121e12),
    ("RTX 6000 Ada", 364.2e12),
    ("RTX A6000", 154.8e12),
)


@dataclass(frozen=True)
class Dimensions:
    """The sizes of an encoder that decide its FLOPs."""

    hidden_size: int
    num_layers: int
    intermediate_size: int
    vocabulary_size: int

    @classmethod
    def of(cls, config: Any) -> Dimensions:
        """Read them off a Hugging Face config of an encoder."""
        return cls(config.hidden_size, config.num_hidden_layers, config.intermediate_size, config.vocab_size)

    def body(self, row_tokens: int) -> float:
        """Forward FLOPs per token of the layers, attention over `row_tokens` places.

        Per layer: 8 H^2 for query, key, value and output; 4 H I feed-forward; 4 S H scores and their use.
        """
        hidden = self.hidden_size
        return float(self.num_layers * (8 * hidden**2 + 4 * hidden * self.intermediate_size + 4 * row_tokens * hidden))

    def head_transform(self) -> float:
        """Forward FLOPs per target of the masked-LM head's dense layer, 2 H^2."""
        return float(2 * self.hidden_size**2)

    def head_decoder(self) -> float:
        """Forward FLOPs per target of the decoder, 2 H V."""
        return float(2 * self.hidden_size * self.vocabulary_size)


def forward_flops_per_token(model: Dimensions, *, row_tokens: int, target_fraction: float) -> float:
    """FLOPs per token of a forward whose masked-LM head runs at `target_fraction` of the tokens (0: no head)."""
    return model.body(row_tokens) + target_fraction * (model.head_transform() + model.head_decoder())


def training_flops_per_token(
    student: Dimensions,
    *,
    row_tokens: int,
    target_fraction: float,
    trainable: Literal["all", "all_but_embeddings", "head"] = "all",
    teacher: Dimensions | None = None,
    teacher_target_fraction: float = 0.0,
) -> float:
    """FLOPs per token of the student's forward and backward, and of the teacher's forward.

    Backward costs a forward for the gradient of a product's input and one for that of its weight. Frozen
    embeddings save the decoder's weight gradient (it is tied to them), and `trainable = "head"` the whole
    backward of the layers.

    Args:
        student: the student's sizes.
        row_tokens: width of a packed row, which attention runs over.
        target_fraction: share of the tokens the masked-LM head sees; 0 without a loss on it.
        trainable: the recipe's student.trainable.
        teacher: the teacher's sizes, None without one in training.
        teacher_target_fraction: share of the tokens the teacher's head sees; 0 when its logits are not asked for.
    """
    body_times = 1 if trainable == "head" else 3
    decoder_times = 3 if trainable == "all" else 2
    head = 3 * student.head_transform() + decoder_times * student.head_decoder()
    flops = body_times * student.body(row_tokens) + target_fraction * head
    if teacher is not None:
        flops += forward_flops_per_token(teacher, row_tokens=row_tokens, target_fraction=teacher_target_fraction)
    return flops


def peak_flops(device: Any) -> float | None:
    """Peak bf16 FLOP/s of a torch device; None on a CPU and for a device the table lacks."""
    if device.type != "cuda":
        return None
    import torch

    return peak_flops_of(torch.cuda.get_device_name(device))


def peak_flops_of(name: str) -> float | None:
    """Peak bf16 FLOP/s of a device by the name its driver gives it; None for a slice of one (MIG)."""
    if re.search(r"\bMIG\b", name):
        return None
    return next((peak for part, peak in PEAK_BF16_FLOPS if re.search(rf"\b{re.escape(part)}\b", name)), None)
