"""The student as it begins: random or cut from a teacher, with what must not move frozen."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer, BertConfig, PretrainedConfig

from unibert.config import Recipe
from unibert.errors import ConfigError, DataError
from unibert.models.dropouts import add_dropouts
from unibert.models.encoder import EMBEDDING_TABLES, Encoder, load_encoder, set_dropout
from unibert.models.folders import newest_export
from unibert.models.heads import seeded, start_head

log = logging.getLogger(__name__)


def build_student(recipe: Recipe) -> Encoder:
    """The student of a recipe in fp32: started, cut to its layers, with what must not move frozen.

    The same recipe and seed give the same weights. The mode is train.

    Raises:
        ConfigError: layers that the source does not have.
        DataError: the source or the tokenizer is missing.
    """
    student = recipe.student
    with seeded(recipe.train.seed, purpose="student"):
        if student.start == "random":
            encoder = Encoder(AutoModelForMaskedLM.from_config(_random_config(recipe), attn_implementation="sdpa"))
        else:
            source = source_folder(recipe)
            encoder, has_head = load_encoder(
                source, dropout=student.dropout, attention_dropout=student.attention_dropout
            )
            if not has_head:
                log.warning("%s has no masked-LM head: the student begins with a new one", source)
                start_head(encoder.hf)
            if student.teacher_layers is not None:
                keep_layers(encoder, student.teacher_layers)
            if student.embedding_rank is not None:
                reduce_rank(encoder, student.embedding_rank)
    add_dropouts(encoder.hf, student)
    freeze(encoder, trainable=student.trainable)
    return encoder.train()


def source_folder(recipe: Recipe) -> Path:
    """The Hugging Face folder a student with start = "teacher" copies from."""
    if recipe.student.start_from is not None:
        return newest_export(recipe.student.start_from)
    assert recipe.teacher is not None, "the recipe's own check demands a teacher here"
    return newest_export(recipe.teacher.path or recipe.teacher.trimmed)


def keep_layers(encoder: Encoder, layers: tuple[int, ...]) -> None:
    """Keep these layers, in this order, in place.

    Raises:
        ConfigError: a layer number that is out of range or named twice.
    """
    stack = encoder.hf.base_model.encoder
    wrong = [layer for layer in layers if not 0 <= layer < len(stack.layer)]
    if wrong or len(set(layers)) != len(layers) or not layers:
        raise ConfigError(
            f"student.teacher_layers = {list(layers)}: name each of the source's layers 0..{len(stack.layer) - 1} "
            "at most once"
        )
    kept: list[Any] = [stack.layer[layer] for layer in layers]
    for index, layer in enumerate(kept):
        layer.attention.self.layer_idx = index
    stack.layer = nn.ModuleList(kept)
    encoder.hf.config.num_hidden_layers = len(layers)


def reduce_rank(encoder: Encoder, rank: int) -> None:
    """Make the word embeddings, and so the tied decoder, their best approximation of a rank, in place.

    A factorised table A B, [V, rank] times [rank, H], multiplied out: BERT has no place for the factors, and so the
    model is a plain BERT for whoever loads it. It is a start, and saves no memory.

    Raises:
        ConfigError: the rank is not below the width.
    """
    width = encoder.hidden_size
    if rank >= width:
        raise ConfigError(f"student.embedding_rank = {rank} reduces nothing: the source's embeddings are {width} wide")
    table_VH = encoder.hf.get_input_embeddings().weight
    with torch.no_grad():
        wide_VH = table_VH.double()
        _, axes_HH = torch.linalg.eigh(wide_VH.T @ wide_VH)  # ascending: the right singular vectors
        own_HE = axes_HH[:, -rank:]
        table_VH.copy_(wide_VH @ own_HE @ own_HE.T)


def freeze(encoder: Encoder, *, trainable: str) -> None:
    """Set requires_grad: `all`, `all_but_embeddings` (the tables, and so the tied decoder) or `head`.

    The decoder's weight is the word embedding: it is frozen with the table, while its bias moves with the head.
    """
    body = encoder.hf.base_model
    encoder.requires_grad_(True)
    if trainable == "all_but_embeddings":
        for name in EMBEDDING_TABLES:
            getattr(body.embeddings, name).requires_grad_(False)
    elif trainable == "head":
        body.requires_grad_(False)
    assert trainable in ("all", "all_but_embeddings", "head"), trainable


def _random_config(recipe: Recipe) -> BertConfig:
    folder = recipe.data.folder / "tokenizer"
    if not (folder / "tokenizer.json").is_file():
        raise DataError(f"{folder}: no tokenizer.json, and a random student takes its vocabulary from it")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    student = recipe.student
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=student.hidden_size,
        num_hidden_layers=student.num_layers,
        num_attention_heads=student.num_heads,
        intermediate_size=student.intermediate_size,
        max_position_embeddings=max(512, recipe.data.max_sequence_tokens),
        hidden_dropout_prob=student.dropout,
        attention_probs_dropout_prob=student.attention_dropout,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        architectures=["BertForMaskedLM"],
    )


def student_config(recipe: Recipe) -> PretrainedConfig:
    """The Hugging Face configuration of `build_student(recipe)`, without reading any weight."""
    student = recipe.student
    if student.start == "random":
        return _random_config(recipe)
    config = AutoConfig.from_pretrained(source_folder(recipe), local_files_only=True)
    set_dropout(config, dropout=student.dropout, attention_dropout=student.attention_dropout)
    config.num_hidden_layers = len(student.teacher_layers or range(config.num_hidden_layers))
    config.architectures = ["BertForMaskedLM"]
    return config
