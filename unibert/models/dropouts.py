"""Dropouts inside the student beyond BERT's own: UniDrop's (Wu et al., NAACL 2021, arXiv 2104.04946).

UniDrop's feature dropouts are FD-1 of the attention weights (student.attention_dropout, in BERT already), FD-2 of the
activation between the two maps of the feed-forward, FD-3 of queries, keys and values before they meet, and FD-4 of what
the output layer reads. Its structure dropout is LayerDrop (Fan et al., arXiv 1909.11556): a layer passes its input on
unchanged. Its data dropout is data/dropout.py's. (That FD-3 acts on the projected queries, keys and values, not on the
projections' input, is our reading.)

All of them are hooks, which draw from torch's generator as BERT's own dropout does: they are in training mode alone, no
weight belongs to them, and an export knows nothing of them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from unibert.models.heads import masked_lm_head
from unibert.schema import Student


def add_dropouts(hf: PreTrainedModel, table: Student) -> None:
    """Hook a BERT's modules, in place."""
    for layer in hf.base_model.encoder.layer:  # type: ignore[union-attr]
        if table.activation_dropout:
            layer.intermediate.register_forward_hook(partial(_dropped, p=table.activation_dropout))
        if table.projection_dropout:
            for name in ("query", "key", "value"):
                module = getattr(layer.attention.self, name)
                module.register_forward_hook(partial(_dropped, p=table.projection_dropout))
        if table.layer_drop:
            # First of the layer's hooks: who records hidden states must see what the next layer gets.
            layer.register_forward_hook(partial(_passed_on, p=table.layer_drop), prepend=True)
    if table.output_dropout:
        masked_lm_head(hf).register_forward_pre_hook(partial(_dropped_before, p=table.output_dropout))


def _dropped(module: nn.Module, inputs: tuple[Any, ...], output: Tensor, *, p: float) -> Tensor:
    return F.dropout(output, p, training=module.training)


def _dropped_before(module: nn.Module, inputs: tuple[Any, ...], *, p: float) -> tuple[Any, ...]:
    return (F.dropout(inputs[0], p, training=module.training), *inputs[1:])


def _passed_on(module: nn.Module, inputs: tuple[Any, ...], output: Tensor, *, p: float) -> Tensor:
    """The input instead of the output, with probability p.

    The layer is computed either way: a rank that left it out alone would wait for ever in ZeRO-3's gathers, and a
    weight without a gradient keeps an old one there. It costs the time that LayerDrop could save.
    """
    if not module.training:
        return output
    kept = torch.rand((), device=output.device) >= p
    return torch.where(kept, output, inputs[0])
