"""Masked-LM heads and the reproducible start of new layers.

Legend of shapes: H hidden size, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


@contextmanager
def seeded(seed: int, *, purpose: str) -> Iterator[None]:
    """New weights drawn inside depend on the seed and the purpose only; the random state outside is left alone."""
    digest = hashlib.sha256(f"{purpose}:{seed}".encode()).digest()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        yield


def masked_lm_head(hf: PreTrainedModel) -> Any:
    """The module from hidden states [..., H] to logits [..., V]."""
    model: Any = hf
    if hasattr(model, "lm_predictions"):  # DeBERTa's newer one
        return _TableHead(model.lm_predictions, model.base_model.embeddings.word_embeddings)
    for name in ("cls", "lm_head"):  # BERT's and DeBERTa's, RoBERTa's
        if (head := getattr(model, name, None)) is not None:
            return head
    for names in (("generator_predictions", "generator_lm_head"), ("head", "decoder")):  # ELECTRA's, ModernBERT's
        if all(hasattr(model, name) for name in names):
            return nn.Sequential(*(getattr(model, name) for name in names))
    raise TypeError(f"{type(hf).__name__} has no masked-LM head that we know")


def last_product(head: nn.Module, *, vocabulary: int) -> nn.Linear | None:
    """The layer of a head that makes the logits; None where no plain one does, as of weights that are elsewhere."""
    made = [layer for layer in head.modules() if isinstance(layer, nn.Linear) and layer.out_features == vocabulary]
    return made[-1] if made else None


@contextmanager
def left_out(layer: nn.Module) -> Iterator[None]:
    """The layer gives back what it is given inside; hooks of all the others work as ever."""
    layer.forward = _as_it_is
    try:
        yield
    finally:
        del layer.forward


def _as_it_is(x: Tensor) -> Tensor:
    return x


class _TableHead(nn.Module):
    """A head that multiplies by the word embeddings, given to it at each call."""

    def __init__(self, head: nn.Module, table: nn.Module) -> None:
        super().__init__()
        self.head, self.table = head, table

    def forward(self, hidden: Tensor) -> Tensor:
        return self.head(hidden, self.table)


def start_head(hf: PreTrainedModel, *, bias_V: Tensor | None = None) -> None:
    """Give a BERT a new head in place: normal(initializer_range) transform, LayerNorm 1 and 0, decoder tied.

    Args:
        hf: a BertForMaskedLM.
        bias_V: first output bias, as the log frequency of each token (zeros when absent). With it the untrained
            head already predicts near the unigram distribution.
    """
    predictions = masked_lm_head(hf).predictions
    transform = predictions.transform
    with torch.no_grad():
        transform.dense.weight.normal_(0.0, hf.config.initializer_range)
        transform.dense.bias.zero_()
        transform.LayerNorm.weight.fill_(1.0)
        transform.LayerNorm.bias.zero_()
        predictions.bias.zero_() if bias_V is None else predictions.bias.copy_(bias_V)
    hf.tie_weights()
