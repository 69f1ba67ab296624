"""What differs between Hugging Face's encoders in reading packed rows: positions, masks, and what they can be asked.

BERT and ELECTRA are as our rows are. RoBERTa and XLM-R count positions from pad + 1. ModernBERT has rotary positions,
and layers that look no further than a window. DeBERTa's attention is its own: it reads packed rows as long as no
convolution crosses the border of two documents, and has no queries, keys and values that a softmax alone would join.
Those that bring an attention of their own (MPNet, RemBERT, MegatronBERT, RoFormer, ...) read one document a row.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kernels.attention import by_documents
from kernels.documents import Documents
from unibert.models import attention
from unibert.models.folders import quiet_hf
from unibert.models.wanted import Sizes, Wanted

TESTED = ("bert", "electra", "roberta", "xlm-roberta", "camembert", "modernbert", "deberta", "deberta-v2")
"""Architectures (model_type) that are known to read a text beside others as alone; others are tried when loaded."""


def prepare(hf: PreTrainedModel) -> None:
    """Let the model take our attention where it can, and packed masks."""
    if not is_deberta(hf.config):
        with quiet_hf():  # it warns where it cannot, and changes nothing: `packs` says so
            hf.set_attn_implementation(attention.NAME)
    elif packs(hf.config):
        # Its embeddings would multiply by a 2-D mask; padding needs no zeros, as nobody looks at it.
        embeddings: Any = hf.base_model.embeddings
        embeddings.register_forward_pre_hook(_without_mask, with_kwargs=True)


def _without_mask(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    return args, kwargs | {"mask": None}


def is_deberta(config: Any) -> bool:
    """Whether attention and positions are DeBERTa's."""
    return config.model_type.startswith("deberta")


def packs(config: Any) -> bool:
    """Whether documents can share a row of a prepared model: not with a convolution, nor with another attention."""
    if is_deberta(config):
        return getattr(config, "conv_kernel_size", 0) <= 0
    return config._attn_implementation == attention.NAME


def gives(config: Any) -> Wanted:
    """What a prepared encoder with a masked-LM head can be asked for."""
    everything = Sizes.of(config).everything
    ours = packs(config) and not is_deberta(config)
    return everything if ours else replace(everything, attention=frozenset())


def first_position(hf: PreTrainedModel) -> int:
    """The position id of a document's first token: pad + 1 in RoBERTa's family, 0 elsewhere."""
    table = getattr(getattr(hf.base_model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return 0 if padding is None else padding + 1


def within_documents(config: Any, document_RS: Tensor, *, dtype: torch.dtype, dropout: float) -> dict[str, Any]:
    """What tells the model, as arguments of its forward, that a token sees its own document alone.

    Args:
        config: of the model.
        document_RS: the document of each token, -1 where there is none.
        dtype: of what the attention works with.
        dropout: of attention weights.
    """
    plain = packs(config) and not is_deberta(config) and not _has_windows(config)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if plain and by_documents(document_RS.device, dtype, width=width, dropout=dropout):
        return {"documents": Documents.of(document_RS), "attention_mask": None}
    return {"attention_mask": _masks(config, document_RS)}


def _has_windows(config: Any) -> bool:
    return "sliding_attention" in (getattr(config, "layer_types", None) or ())


def _masks(config: Any, document_RS: Tensor) -> Any:
    """bool [R, 1, S, S], true where a token may look; for layers with a window a band of it besides.

    Padding sees padding, so that no row of a softmax is empty; nothing reads what comes out there.
    """
    if not packs(config):
        return (document_RS >= 0).long()  # one document a row
    mask = document_RS[:, None, :, None] == document_RS[:, None, None, :]
    if not _has_windows(config):
        return mask
    place_S = torch.arange(mask.shape[-1], device=mask.device)
    near_SS = (place_S[:, None] - place_S[None, :]).abs() <= config.sliding_window
    return {"full_attention": mask, "sliding_attention": mask & near_SS}
