"""The teacher: a frozen encoder whose answers the student learns from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from transformers import AutoConfig

from unibert.config import Recipe
from unibert.errors import DataError
from unibert.models.encoder import Encoder, EncoderOutput, encode, load_encoder
from unibert.models.folders import newest_export
from unibert.models.precision import bf16_is_faster
from unibert.models.wanted import Sizes, Wanted

if TYPE_CHECKING:
    from unibert.data.batches import Batch


class ResidentTeacher:
    """A whole encoder kept in the memory of every rank, in eval mode and without gradient.

    Not an nn.Module, so that no `train()`, optimizer or engine of a parent can reach it.
    """

    def __init__(self, encoder: Encoder, *, has_head: bool = True) -> None:
        self.encoder = encoder.eval().requires_grad_(False)
        everything = encoder.sizes.everything
        self.gives = everything if has_head else replace(everything, masked_logits=False, token_logits=False)
        """What this teacher can be asked for."""

    @torch.no_grad()
    def forward(self, batch: Batch, wanted: Wanted) -> EncoderOutput:
        """The teacher's answer to a micro-batch on its device, in its own dtype, as constants for autograd.

        Args:
            batch: what the student reads too.
            wanted: what to give, all of it among `gives`.
        """
        assert not self.encoder.training and not any(p.requires_grad for p in self.encoder.parameters())
        return encode(self.encoder, batch, wanted)


def teacher_sizes(recipe: Recipe) -> Sizes | None:
    """The shape of the recipe's teacher, without reading a weight; None when there is none to be read."""
    table = recipe.teacher
    if table is None:
        return None
    try:
        return Sizes.of(AutoConfig.from_pretrained(newest_export(table.path or table.trimmed), local_files_only=True))
    except (DataError, OSError, ValueError, AttributeError):
        return None  # who needs it says so


def load_teacher(recipe: Recipe, *, device: torch.device) -> ResidentTeacher:
    """Read the teacher named by teacher.path (else teacher.trimmed) onto a device.

    Raises:
        DataError: there is no model in that folder, or it is damaged.
    """
    table = recipe.teacher
    assert table is not None, "the recipe has no [teacher]"
    encoder, has_head = load_encoder(newest_export(table.path or table.trimmed))
    low = table.dtype == "bf16" or (table.dtype == "auto" and bf16_is_faster(device))
    return ResidentTeacher(encoder.to(device, torch.bfloat16 if low else torch.float32), has_head=has_head)
