"""The teacher: a frozen encoder whose answers the student learns from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from unibert.config import Recipe
from unibert.models.encoder import Encoder, EncoderOutput, load_encoder
from unibert.models.folders import newest_export
from unibert.models.precision import bf16_is_faster

if TYPE_CHECKING:
    from unibert.data.batches import Batch


class ResidentTeacher:
    """A whole encoder kept in the memory of every rank, in eval mode and without gradient.

    Not an nn.Module, so that no `train()`, optimizer or engine of a parent can reach it.
    """

    def __init__(self, encoder: Encoder, *, has_head: bool = True) -> None:
        self.encoder = encoder.eval().requires_grad_(False)
        self.gives = frozenset({"last_hidden", "masked_logits"} if has_head else {"last_hidden"})
        """What of an EncoderOutput this teacher can give."""

    @torch.no_grad()
    def forward(self, batch: Batch, *, masked_logits: bool = True) -> EncoderOutput:
        """The teacher's answer to a micro-batch on its device, in its own dtype, as constants for autograd.

        Args:
            batch: what the student reads too.
            masked_logits: also run the head at the targets; the costly part when nobody needs it.
        """
        assert not self.encoder.training and not any(p.requires_grad for p in self.encoder.parameters())
        asked = masked_logits and "masked_logits" in self.gives
        return self.encoder(
            batch.input_ids,
            batch.position_ids,
            batch.attention_mask(),
            batch.target_positions if asked else None,
        )


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
