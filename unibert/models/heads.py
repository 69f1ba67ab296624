"""Masked-LM heads and the reproducible start of new layers.

Legend of shapes: H hidden size, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel


@contextmanager
def seeded(seed: int, *, purpose: str) -> Iterator[None]:
    """New weights drawn inside depend on the seed and the purpose only; the random state outside is left alone."""
    digest = hashlib.sha256(f"{purpose}:{seed}".encode()).digest()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        yield


def masked_lm_head(hf: PreTrainedModel) -> Any:
    """The module from hidden states [..., H] to logits [..., V]: `cls` in BERT's family, `lm_head` in RoBERTa's."""
    for name in ("cls", "lm_head"):
        if (head := getattr(hf, name, None)) is not None:
            return head
    raise TypeError(f"{type(hf).__name__} has no masked-LM head named cls or lm_head")


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
