"""Our attention (kernels/attention.py) under the name by which Hugging Face models ask for one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from kernels.attention import document_attention, packed_attention
from kernels.documents import Documents

NAME = "unibert"


class Attended(NamedTuple):
    """What an attention works with."""

    query: Tensor
    """[R, N, S, D]"""
    key: Tensor
    value: Tensor


class _Recording(threading.local):
    """Of a thread: the teacher may read in one while the student reads in another."""

    kept: dict[int, Attended] | None = None
    wanted: frozenset[int] = frozenset()


_recording = _Recording()


@contextmanager
def recorded(layers: frozenset[int]) -> Iterator[dict[int, Attended]]:
    """Keeps query, key and value of these layers (from 1) of the forward inside, with gradient where there is one."""
    before = _recording.kept, _recording.wanted
    found: dict[int, Attended] = {}
    _recording.kept, _recording.wanted = found, layers
    try:
        yield found
    finally:
        _recording.kept, _recording.wanted = before


def _forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    documents: Documents | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    layer = getattr(module, "layer_idx", None)
    # Not again when a checkpointed layer is computed anew in the backward pass, which is outside of `recorded`.
    if _recording.kept is not None and layer is not None and layer + 1 in _recording.wanted:
        _recording.kept[layer + 1] = Attended(query, key, value)
    if documents is None:
        out_RNSD = packed_attention(query, key, value, mask=attention_mask, dropout=dropout, scale=scaling)
    else:
        out_RNSD = document_attention(query, key, value, documents=documents, scale=scaling)
    return out_RNSD.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, _forward)
AttentionMaskInterface.register(NAME, sdpa_mask)
