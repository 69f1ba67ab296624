"""How models are fine-tuned: the same for all models that are compared. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mode = Literal["zero-shot", "translate-train", "code-switch", "distil"]


@dataclass(frozen=True)
class Settings:
    """Defaults are the usual ones for encoders of this size (XTREME's), and ours where it says nothing."""

    source: str = "en"
    """Language that is trained on."""
    mode: Mode = "zero-shot"
    """zero-shot: the source language alone. translate-train: all languages that have training files. code-switch: both
    parts of an example in two of these languages, one of them the source (PPA; pairs and questions). distil: what a
    teacher, fine-tuned on the source, says of text of all languages without labels (distil.py; ner and nli)."""
    task_teacher: str = ""
    """The model that teaches in mode distil: a folder, a run or a name on the hub."""
    learning_rates: tuple[float, ...] = (2e-5, 5e-5)
    """Each is tried with the first seed; the best on dev is used for all."""
    dev: Literal["source", "joint"] = "source"
    """Whose dev sets choose the learning rate: the source's, or those of all languages that have one, by the mean of
    their scores. Joint is no zero-shot any more, and results say so."""
    epochs: int = 3
    """Passes over the training examples."""
    batch: int = 32
    """Examples (windows) a step."""
    max_tokens: int = 256
    """Longest row; a longer context is read in windows."""
    stride: int = 96
    """Tokens that neighbouring windows of a context share."""
    history: int = 2
    """Past questions, and past answers, that a conversational reader sees."""
    warmup_fraction: float = 0.1
    """Of the steps, before the rate falls linearly to 0."""
    weight_decay: float = 0.01
    """AdamW's."""
    answer_tokens: int = 30
    """Longest answer, in tokens."""
    limit: int | None = None
    """Most examples of each language and split, evenly spread; all when None."""
    train_limit: int | None = None
    """Most examples of each language that are trained on; `limit` when None."""
    split_source: bool = False
    """Cut the source language's labelled examples in three where a task has no training file."""
    prefix: str = ""
    """What stands before every text that is embedded untuned, such as "query: " for e5; all models get the same."""
    remove_language: int | None = None
    """Also measure embeddings without so many directions of each language (LIR's rank)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the forward pass; weights and optimizer are fp32."""
