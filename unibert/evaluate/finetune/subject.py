"""A model that is judged: where it lies, what it is called, what its weights are, and what it cost to train."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from transformers import AutoConfig

from unibert.data.exports import STEP
from unibert.errors import ConfigError, DataError
from unibert.models.encoder import EMBEDDING_TABLES
from unibert.models.folders import newest_export
from unibert.observe.metrics_file import NAME, read_metrics


@dataclass(frozen=True)
class Model:
    """A model that is judged."""

    name: str
    folder: Path
    weights: str
    """SHA-256 of its weights, configuration and tokenizer."""
    tokenizer: str
    """SHA-256 of its tokenizer alone."""

    @property
    def run_folder(self) -> Path | None:
        """The run it is an export of, when it is one."""
        is_export = self.folder.parent.name == "hf" and STEP.fullmatch(self.folder.name) is not None
        run = self.folder.parent.parent
        return run if is_export and (run / "recipe.toml").is_file() else None

    @cached_property
    def cost(self) -> tuple[int | None, float | None]:
        """(tokens read, hours that the training steps took) when it was exported; None where nothing is known.

        Hours are those of steps alone, without looks at held-out text, saving and stops.
        """
        if self.run_folder is None:
            return None, None
        step = int(self.folder.name.rpartition("_")[2])
        tokens, seconds = 0.0, 0.0
        for row in read_metrics(self.run_folder / NAME):
            if 0 < row["step"] <= step and row.get("speed/tokens_per_second"):
                seconds += (row["progress/tokens"] - tokens) / row["speed/tokens_per_second"]
                tokens = row["progress/tokens"]
        return (int(tokens), round(seconds / 3600, 4)) if tokens else (None, None)


def parted(word: str) -> tuple[str, str]:
    """(name, path or name on the hub) of a word of the command line: NAME=PATH, or what is called as its folder is.

    Raises:
        ConfigError: nothing stands for one of the two.
    """
    name, equals, path = word.partition("=")
    if not equals or Path(word).exists():  # a folder may have = in its name
        path = word
        name = (os.path.abspath(path) if Path(path).exists() else path.rstrip("/")).rpartition("/")[2]
    if not name or not path:
        raise ConfigError(f"model {word!r}: say where it lies and what it is called, as in NAME=PATH")
    return name, path


def find_model(word: str) -> Model:
    """The model that a word of the command line means.

    Raises:
        ConfigError: nothing stands for its name or path.
        DataError: there is none, or it lacks a tokenizer.
    """
    name, path = parted(word)
    folder = Path(path)
    if folder.exists():
        folder = newest_export(folder)
    else:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        patterns = ["*.json", "*.safetensors", "*.model", "*.txt"]
        try:
            folder = Path(snapshot_download(path, allow_patterns=patterns))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise DataError(f"{word}: no such folder, and {path} no model that the hub gives ({error})") from error
    if not (folder / "tokenizer.json").is_file():
        raise DataError(f"{folder}: no tokenizer.json: save the model's fast tokenizer beside its weights")
    if not [*folder.glob("*.safetensors"), *folder.glob("*.bin")]:
        raise DataError(f"{folder}: no weights: a model's folder has a model.safetensors")
    try:
        AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: config.json is of no encoder that transformers knows: {error}") from error
    digest = hashlib.sha256()
    patterns = ("*.safetensors", "*.bin", "config.json", "tokenizer_config.json")
    for file in sorted(file for pattern in patterns for file in folder.glob(pattern)):
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    tokenizer = (folder / "tokenizer.json").read_bytes()
    digest.update(tokenizer)
    return Model(
        name=name,
        folder=folder,
        weights=digest.hexdigest()[:16],
        tokenizer=hashlib.sha256(tokenizer).hexdigest()[:16],
    )


def sizes_of(model: torch.nn.Module) -> tuple[int, int]:
    """Parameters, and those without word, position and type embeddings."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    tables = sum(size for name, size in sizes.items() if any(table in name for table in EMBEDDING_TABLES))
    return sum(sizes.values()), sum(sizes.values()) - tables
