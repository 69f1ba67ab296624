"""Trimming a teacher's embeddings to the tokenizer of a recipe, with a masked-LM head on top.

Legend of shapes: V trimmed vocabulary, L languages.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from unibert.config import Recipe
from unibert.data.lines import file_sha256, finished, say, write_json
from unibert.data.shards import ShardSet
from unibert.errors import ConfigError, DataError
from unibert.models.encoder import Encoder, load_encoder
from unibert.models.folders import newest_export, replaced_folder, save_hf
from unibert.models.head_start import fit_head
from unibert.models.heads import masked_lm_head, seeded, start_head
from unibert.plan import run_shares

TRIM_FILE = "trim.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def trim(recipe: Recipe, *, force: bool = False) -> dict[str, Any]:
    """Write teacher.trimmed: teacher.original with the rows of <data.folder>/tokenizer alone, as a masked-LM model.

    A head that the teacher lacks is started new: fitted to the recipe's shards in closed form where they are there
    already (head_start.py), random otherwise.

    Raises:
        ConfigError: no [teacher].
        DataError: the teacher or the tokenizer is missing, or they do not belong together.
    """
    if recipe.teacher is None:
        raise ConfigError("the recipe has no [teacher] to trim")
    if recipe.tokenizer.kind != "teacher":
        raise ConfigError(f'tokenizer.kind = "{recipe.tokenizer.kind}" is trained: there is no teacher to trim to it')
    original, trimmed = newest_export(recipe.teacher.original), recipe.teacher.trimmed
    tokenizer = recipe.data.folder / "tokenizer"
    kept_V = read_kept_ids(tokenizer)
    shards = _shards(recipe)
    settings = {
        "original": original.name,
        "weights": _weights_facts(original),
        "kept_ids": file_sha256(tokenizer / "kept_ids.npy"),
        "shards": shards.fingerprint if shards else None,
        "seed": recipe.train.seed,
    }
    found = finished(trimmed / TRIM_FILE, settings)
    if found is not None and not force:
        say(f"teacher: {trimmed} is trimmed already")
        return found
    encoder, has_head = load_encoder(original)
    pieces_before = encoder.vocabulary_size
    trim_embeddings(encoder.hf, kept_V)
    head = "the teacher's own" if has_head else _new_head(encoder, recipe, shards=shards)
    with replaced_folder(trimmed) as new:
        copy_tokenizer(tokenizer, into=new, hf=encoder.hf)
        save_hf(encoder.hf, new)
        facts = {
            "settings": settings,
            "pieces": len(kept_V),
            "pieces_before": pieces_before,
            "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
            "head": head,
        }
        write_json(new / TRIM_FILE, facts)
    say(f"teacher: {facts['pieces']:,} of {facts['pieces_before']:,} pieces kept in {trimmed}")
    return facts


def _new_head(encoder: Encoder, recipe: Recipe, *, shards: ShardSet | None) -> str:
    """Give the encoder a head; returns how good it is, in words."""
    with seeded(recipe.train.seed, purpose="head"):
        start_head(encoder.hf, bias_V=log_frequencies(recipe, shards=shards) if shards else None)
    if shards is None:
        say("teacher: no shards to fit a masked-LM head to, it begins random (tokenize first for a better one)")
        return "new, random"
    fit = fit_head(encoder, recipe, shards=shards)
    words = (
        f"new, fitted in closed form to {fit.targets} masked tokens: cross-entropy {fit.fitted:.2f} on those kept "
        f"back, {fit.by_frequency:.2f} by token frequency alone"
    )
    say(f"teacher: masked-LM head {words}")
    return words


def read_kept_ids(tokenizer: Path) -> np.ndarray:
    """kept_ids.npy of a trimmed tokenizer, int64 [V]: the id each piece had before (unk's for a piece that is new)."""
    path = tokenizer / "kept_ids.npy"
    if not path.is_file():
        raise DataError(f"{path} is missing: make the tokenizer first (unibert data tokenize RECIPE)")
    try:
        kept_V = np.load(path).astype(np.int64)
    except (ValueError, EOFError) as error:
        raise DataError(f"{path}: damaged ({error}); make the tokenizer again with --force") from error
    if kept_V.ndim != 1 or not len(kept_V):
        raise DataError(f"{path}: not a list of ids; make the tokenizer again with --force")
    return kept_V


def trim_embeddings(hf: PreTrainedModel, kept_V: np.ndarray) -> None:
    """Keep these rows of the word embeddings, and of the output's weight and bias, in this order, in place."""
    rows = hf.config.vocab_size
    if kept_V.min() < 0 or kept_V.max() >= rows:
        raise DataError(f"the trimmed tokenizer keeps id {kept_V.max()}, the teacher has {rows} rows: not a pair")
    kept = torch.from_numpy(kept_V)
    table: Any = hf.get_input_embeddings()
    predictions = masked_lm_head(hf).predictions
    decoder: Any = hf.get_output_embeddings()
    rows_VH, bias_V = table.weight.detach()[kept], decoder.bias.detach()[kept]
    decoder_VH = None if decoder.weight is table.weight else decoder.weight.detach()[kept]
    hf.resize_token_embeddings(len(kept_V), mean_resizing=False)
    table = hf.get_input_embeddings()
    decoder = hf.get_output_embeddings()
    with torch.no_grad():
        table.weight.copy_(rows_VH)
        if decoder_VH is not None:
            decoder.weight.copy_(decoder_VH)
    predictions.bias = decoder.bias = torch.nn.Parameter(bias_V)
    hf.tie_weights()


def copy_tokenizer(tokenizer: Path, *, into: Path, hf: PreTrainedModel) -> None:
    """Copy the tokenizer's files beside a model and set the model's special ids to the tokenizer's."""
    loaded = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    if len(loaded) != hf.config.vocab_size:
        raise DataError(f"{tokenizer}: {len(loaded)} pieces, but the model has {hf.config.vocab_size} rows: not a pair")
    for name in TOKENIZER_FILES:  # copied byte for byte: what is saved anew may differ in letters that mean the same
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, into / name)
    hf.config.pad_token_id = loaded.pad_token_id
    hf.config.bos_token_id = loaded.bos_token_id
    hf.config.eos_token_id = loaded.eos_token_id
    table: Any = hf.get_input_embeddings()
    table.padding_idx = loaded.pad_token_id


def log_frequencies(recipe: Recipe, *, shards: ShardSet) -> Tensor:
    """Log probability of each token as the run will meet it, fp32 [V].

    log sum_l share_l (n_lv + 1/V) / (n_l + 1), over languages l with their smoothed shares; special tokens count 0.
    """
    size = shards.vocabulary_size
    shares_L = run_shares(recipe, samples=shards.samples_per_language, tokens=shards.tokens_per_language)
    mixed_V = np.zeros(size)
    for language, share in enumerate(shares_L):
        counts_V = np.bincount(shards.tokens(language), minlength=size).astype(np.float64)
        counts_V[list(shards.special.all())] = 0
        mixed_V += share * (counts_V + 1 / size) / (counts_V.sum() + 1)
    return torch.from_numpy(np.log(mixed_V)).float()


def _shards(recipe: Recipe) -> ShardSet | None:
    folder = recipe.data.folder / "shards"
    return ShardSet.open(folder, languages=recipe.languages) if (folder / "manifest.json").is_file() else None


def _weights_facts(folder: Path) -> dict[str, list[int]]:
    """Size and time of the weight files: enough to see that another teacher took the folder's place."""
    stats = {path.name: path.stat() for path in sorted(folder.glob("*.safetensors"))}
    return {name: [stat.st_size, int(stat.st_mtime)] for name, stat in stats.items()}
