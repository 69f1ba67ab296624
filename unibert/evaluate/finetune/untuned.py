"""What embeddings (mean over tokens, no prefix) answer as they are: similarity by cosine, finding the translation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from unibert.evaluate.embed import Embedder
from unibert.evaluate.finetune.settings import Settings
from unibert.evaluate.scorers.ranking import ranks
from unibert.evaluate.tasks.nli import Pair
from unibert.models.encoder import EMBEDDING_TABLES, load_encoder


def untuned(
    folder: Path, *, settings: Settings, device: torch.device
) -> tuple[Callable[[str, Sequence[Pair]], list[Any]], tuple[int, int]]:
    """(what gives the predictions of a task's pairs, parameters and those without embeddings) of a model.

    For sts the cosine of each pair; for retrieval the ranks of both directions, by cosine and by margin.
    """
    encoder, _ = load_encoder(folder)
    body = encoder.hf.base_model
    encoder.to(device, torch.bfloat16 if settings.precision == "bf16" else torch.float32).eval().requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    most = min(settings.max_tokens, encoder.hf.config.max_position_embeddings - encoder.first_position)
    embedder = Embedder(encoder, tokenizer, max_tokens=most, device=device)

    def predictions(task: str, examples: Sequence[Pair]) -> list[Any]:
        texts = list(dict.fromkeys(text for example in examples for text in (example.first, example.second)))
        place = {text: i for i, text in enumerate(texts)}
        vectors_NH = torch.nn.functional.normalize(embedder.mean(texts).double(), dim=-1)
        first_NH, second_NH = (
            vectors_NH[[place[getattr(example, side)] for example in examples]] for side in ("first", "second")
        )
        if task == "sts":
            return (first_NH * second_NH).sum(1).tolist()
        plain, wide = ranks(first_NH, second_NH), ranks(first_NH, second_NH, margin=True)
        return torch.stack([plain.forward, plain.backward, wide.forward, wide.backward], dim=1).tolist()

    sizes = {name: parameter.numel() for name, parameter in body.named_parameters()}
    tables = sum(size for name, size in sizes.items() if any(table in name for table in EMBEDDING_TABLES))
    return predictions, (sum(sizes.values()), sum(sizes.values()) - tables)
