"""Small teachers of every architecture and packed batches for them, by a seed."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    ElectraConfig,
    ElectraForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedModel,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from unibert.data.batches import Batch
from unibert.models.folders import save_hf

VOCABULARY = 90
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 48, "max_position_embeddings": 64, "pad_token_id": 1, "initializer_range": 0.3}
DEBERTA = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
}
DEBERTA |= {"position_biased_input": False, "share_att_key": True}


def make(kind: str, **sizes) -> PreTrainedModel:
    """A random model of an architecture."""
    sizes = SIZES | sizes
    torch.manual_seed(3)
    makers = {
        "bert": lambda: BertForMaskedLM(BertConfig(**sizes)),
        "xlm_roberta": lambda: XLMRobertaForMaskedLM(XLMRobertaConfig(**sizes, type_vocab_size=1)),
        "modernbert": lambda: ModernBertForMaskedLM(
            ModernBertConfig(**sizes, local_attention=6, global_attn_every_n_layers=2, bos_token_id=0, eos_token_id=2,
                             cls_token_id=0, sep_token_id=2, initializer_cutoff_factor=2.0)
        ),
        "deberta": lambda: DebertaV2ForMaskedLM(DebertaV2Config(**sizes, **DEBERTA)),
        "deberta_conv": lambda: DebertaV2ForMaskedLM(DebertaV2Config(**sizes, **DEBERTA, conv_kernel_size=3)),
        "electra": lambda: ElectraForMaskedLM(ElectraConfig(**sizes, embedding_size=16)),
    }  # fmt: skip
    model = makers[kind]()
    for name, parameter in model.named_parameters():
        if "bias" in name or "norm" in name.lower():  # of a new model all 0 and 1, so that a mix-up would not show
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


KINDS = ("bert", "xlm_roberta", "modernbert", "deberta", "deberta_conv", "electra")


def save(model: PreTrainedModel, folder: Path) -> Path:
    save_hf(model, folder)
    return folder


def batch_of(rows=((9, 5, 4), (12, 3), (7,)), *, width=20, seed=0, targets_each=2) -> Batch:
    """Documents of these lengths, packed, with targets in each."""
    generator = torch.Generator().manual_seed(seed)
    ids, positions, document = (torch.full((len(rows), width), fill) for fill in (1, 0, -1))
    first, targets, number = [], [], 0
    for r, lengths in enumerate(rows):
        begin = 0
        for length in lengths:
            here = slice(begin, begin + length)
            ids[r, here] = torch.randint(5, VOCABULARY, (length,), generator=generator)
            positions[r, here], document[r, here] = torch.arange(length), number
            first.append(r * width + begin)
            targets += sorted((r * width + begin + torch.randperm(length, generator=generator)[:targets_each]).tolist())
            begin, number = begin + length, number + 1
    return Batch(
        input_ids=ids,
        position_ids=positions,
        document=document,
        target_positions=torch.tensor(targets),
        target_ids=torch.randint(5, VOCABULARY, (len(targets),), generator=generator),
        cls_positions=torch.tensor(first),
        language=torch.zeros(number, dtype=torch.long),
        sample_ids=torch.arange(number),
        tokens=int((document >= 0).sum()),
    )
