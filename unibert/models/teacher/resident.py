"""The plainest teacher: a whole encoder in the memory of every rank."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unibert.models.encoder import Encoder, EncoderOutput, encode
from unibert.models.teacher.base import Teacher
from unibert.models.wanted import Wanted

if TYPE_CHECKING:
    from unibert.data.batches import Batch


class ResidentTeacher(Teacher):
    """An encoder in eval mode and without gradient.

    Args:
        encoder: on its device, in its precision.
        has_head: whether its masked-LM head has learnt anything.
        ahead: see `Teacher`.
    """

    gives_factors = True

    def __init__(self, encoder: Encoder, *, has_head: bool = True, ahead: bool = False) -> None:
        self.encoder = encoder.eval().requires_grad_(False)
        gives = encoder.gives
        if not has_head:
            gives = replace(gives, masked_logits=False, token_logits=False)
        device = next(encoder.parameters()).device
        super().__init__(encoder.hf.config, device=device, gives=gives, ahead=ahead)

    @torch.no_grad()
    def forward(self, batch: Batch, wanted: Wanted) -> EncoderOutput:
        """See `Teacher`."""
        assert not self.encoder.training and not any(p.requires_grad for p in self.encoder.parameters())
        return encode(self.encoder, batch, wanted)

    def parameters(self) -> list[Tensor]:
        """All of them."""
        return list(self.encoder.parameters())
