"""Measuring one model on what is the same for all: held-out batches, parallel messages and lines."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor
from transformers import AutoTokenizer

from unibert.config import Recipe
from unibert.data.batches import Batch
from unibert.data.lines import say
from unibert.data.shard_format import TokenizerFacts
from unibert.data.shards import ShardSet
from unibert.errors import DataError
from unibert.evaluate.embed import Embedder, once
from unibert.evaluate.heldout import ENGLISH, Heldout, read_heldout
from unibert.evaluate.heldout_batches import heldout_batches
from unibert.evaluate.masked import heldout_masked, targets_by_language, token_counts, unigram_baseline
from unibert.evaluate.probe import MINIMUM_LINES, ProbeScore, language_probe
from unibert.evaluate.results import Baseline, MaskedScore, ModelResult, Removed
from unibert.evaluate.retrieval import (
    MINIMUM_MESSAGES,
    Pairs,
    RetrievalScore,
    at_most,
    english_of,
    enough,
    retrieval,
    to_pairs,
)
from unibert.evaluate.without_language import refuse_high_rank, without_language
from unibert.models.encoder import EMBEDDING_TABLES, Encoder, load_encoder

VERSION = 1
"""Goes up when the way of measuring changes, so that cached results are measured anew."""


@dataclass(frozen=True)
class Limits:
    """Most texts over all languages together, shared evenly: they bound the time, about a minute a model on two cores.

    What is taken depends on the texts alone. With the macro mean over languages in view, more would tell little.
    """

    messages: int = 8000
    """Queries of the retrieval (not below MINIMUM_MESSAGES a language)."""
    masked_lines: int = 4000
    """Lines of the masked prediction."""
    probe_lines: int = 4000
    """Lines of the language probe (not below MINIMUM_LINES a language)."""


@dataclass(frozen=True)
class Material:
    """What every model is measured on."""

    languages: Sequence[str]
    heldout: Heldout
    pairs: Pairs
    english: Sequence[str]
    """All English messages: the candidates."""
    probe_lines: Mapping[str, Sequence[str]]
    """language -> lines of the probe, of languages that have enough."""
    batches: Sequence[Batch]
    shards: ShardSet
    """The training shards: tokenizer and token frequencies."""
    max_tokens: int
    left_out: Mapping[str, str]
    """What cannot be measured, and why."""
    limits: Limits
    removed_rank: int | None = None
    """Directions of each language that are removed for the figures beside the plain ones; none are when None."""


def prepare(recipe: Recipe, *, limits: Limits, remove_language: int | None = None) -> Material:
    """Read the held-out text and shards of a recipe.

    Raises:
        ConfigError: more directions to remove than there are lines to fit them on.
        DataError: something is missing or damaged.
    """
    folder, languages = recipe.data.folder, recipe.languages
    shards = ShardSet.open(folder / "shards", languages=languages)
    heldout_shards = ShardSet.open(folder / "shards_heldout", languages=languages)
    heldout_shards.require_tokenizer_of(shards)
    heldout = read_heldout(folder, languages=languages)
    if not heldout.messages:
        raise DataError(
            f"{folder / 'heldout'}: no parallel message was held out, and the report has retrieval in it: add a source "
            'that has them ([[data.sources]] kind = "demo"), and run the data stages again'
        )
    pairs = to_pairs(heldout.messages, languages=languages)
    left_out = {
        f"retrieval {code}": f"{len(rows)} messages, {MINIMUM_MESSAGES} needed"
        for code, rows in pairs.items()
        if len(rows) < MINIMUM_MESSAGES
    }
    probe_lines = {}
    for code, lines in heldout.lines.items():
        if len(lines) < MINIMUM_LINES:
            left_out[f"probe {code}"] = f"{len(lines)} held-out lines, {MINIMUM_LINES} needed"
        else:
            probe_lines[code] = _spread(lines, max(MINIMUM_LINES, limits.probe_lines // len(languages)))
    if remove_language is not None:
        refuse_high_rank(remove_language, lines=probe_lines)
        lacks = [code for code in (ENGLISH, *enough(pairs)) if code not in probe_lines]
        left_out |= {f"retrieval without the language {code}": "too few held-out lines to fit on" for code in lacks}
    masked_lines = min(recipe.data.heldout_lines_per_language, max(1, limits.masked_lines // len(languages)))
    return Material(
        languages=languages,
        heldout=heldout,
        pairs=at_most(pairs, max(MINIMUM_MESSAGES, limits.messages // len(languages))),
        english=english_of(pairs),
        probe_lines=probe_lines,
        batches=list(heldout_batches(recipe, heldout_shards, lines_per_language=masked_lines)),
        shards=shards,
        max_tokens=recipe.data.max_sequence_tokens,
        left_out=left_out,
        limits=limits,
        removed_rank=remove_language,
    )


def _spread(lines: Sequence[str], count: int) -> list[str]:
    """At most `count` of the lines, evenly spread."""
    count = min(count, len(lines))
    return [lines[i * len(lines) // count] for i in range(count)]


def baseline(material: Material) -> Baseline:
    """Unigram cross-entropies of the held-out targets, from the training shards."""
    targets = targets_by_language(material.batches, num_languages=len(material.languages))
    found = unigram_baseline(token_counts(material.shards), targets)
    present = [i for i, ids in enumerate(targets) if ids.size]

    def named(values: np.ndarray) -> dict[str, float]:
        return {material.languages[i]: float(values[i]) for i in present}

    kinds = ("per_language", "overall", "backed_off")
    return Baseline(
        strongest=found.strongest()[0],
        kinds={kind: named(getattr(found, kind)) for kind in kinds},
        accuracy=named(found.accuracy),
    )


def check_tokenizer(name: str, folder: Path, shards: ShardSet) -> None:
    """Refuse a model that reads other ids than the shards hold.

    Raises:
        DataError: no tokenizer, or another than the shards'.
    """
    facts = TokenizerFacts.read(folder)
    if facts.fingerprint != shards.tokenizer_fingerprint:
        raise DataError(
            f"{name}: the tokenizer in {folder} ({facts.vocabulary_size} pieces) is not the one of the shards "
            f"({shards.folder}, {shards.vocabulary_size} pieces), so its numbers would not compare: evaluate a model "
            f"trained on these shards, trim this one to their vocabulary, or name the recipe it was trained with"
        )


def key_of(folder: Path, material: Material, *, dtype: str) -> str:
    """SHA-256 of all that the numbers depend on: weights, tokenizer, held-out and training text, settings."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin"), folder / "config.json"]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    facts: list[Any] = [VERSION, dtype, list(material.languages), material.max_tokens, asdict(material.limits)]
    facts += [material.heldout.fingerprint, material.shards.fingerprint]
    if material.removed_rank is not None:  # named only where it is on, so that older results stay good
        facts += [{"removed_rank": material.removed_rank}]
    digest.update(json.dumps(facts).encode())
    return digest.hexdigest()


def measure(name: str, folder: Path, material: Material, *, key: str, dtype: str, device: torch.device) -> ModelResult:
    """All numbers of one model.

    Args:
        name: what the model is called in the report.
        folder: Hugging Face folder.
        material: what it is measured on.
        key: of `key_of`.
        dtype: "fp32" or "bf16".
        device: where it runs.
    """
    began = time.monotonic()
    encoder, has_head = load_encoder(folder)
    encoder.to(device, torch.bfloat16 if dtype == "bf16" else torch.float32).eval().requires_grad_(False)
    masked = _masked(name, encoder, material, device=device) if has_head else {}
    scores, probes, removed = _embeddings(name, encoder, folder, material, device=device)
    sizes = {weight: parameter.numel() for weight, parameter in encoder.named_parameters()}
    tables = sum(size for weight, size in sizes.items() if any(table in weight for table in EMBEDDING_TABLES))
    return ModelResult(
        name=name,
        folder=str(folder),
        key=key,
        dtype=dtype,
        parameters=sum(sizes.values()),
        parameters_without_embeddings=sum(sizes.values()) - tables,
        layers=encoder.num_layers,
        hidden_size=encoder.hidden_size,
        masked=masked,
        retrieval=scores,
        probe=probes,
        removed=removed,
        seconds=round(time.monotonic() - began, 1),
    )


def masked_forward(encoder: Encoder) -> Callable[[Batch], Tensor]:
    """The encoder as `heldout_masked` calls it: a batch to its masked logits [M, V]."""

    def forward(batch: Batch) -> Tensor:
        out = encoder(batch.input_ids, batch.position_ids, batch.document, batch.target_positions)
        assert out.masked_logits is not None
        return out.masked_logits

    return forward


def _masked(name: str, encoder: Encoder, material: Material, *, device: torch.device) -> dict[str, MaskedScore]:
    with _progress(f"{name}: masked prediction", total=len(material.batches)) as advance:

        def counted() -> Iterator[Batch]:
            for batch in material.batches:
                yield batch
                advance(1)

        sums = heldout_masked(masked_forward(encoder), counted(), num_languages=len(material.languages), device=device)
    nats, accuracy, count = sums.cross_entropy().tolist(), sums.accuracy().tolist(), sums.count.tolist()
    return {
        code: MaskedScore(cross_entropy=nats[i], accuracy=accuracy[i], targets=int(count[i]))
        for i, code in enumerate(material.languages)
        if count[i]
    }


def _embeddings(
    name: str, encoder: Encoder, folder: Path, material: Material, *, device: torch.device
) -> tuple[dict[str, RetrievalScore], dict[str, ProbeScore], Removed | None]:
    """Retrieval scores per language, the probe on each feature, and both without the language's part if wanted."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    texts = [text for lines in material.probe_lines.values() for text in lines]
    labels = [code for code, lines in material.probe_lines.items() for _ in lines]
    messages = {text for rows in material.pairs.values() for text, _ in rows}.union(material.english)
    with _progress(f"{name}: sentence features", total=len(messages) + len(texts)) as advance:
        embedder = Embedder(encoder, tokenizer, max_tokens=material.max_tokens, device=device, progress=advance)
        embed = once(embedder.mean)
        scores = retrieval(embed, material.pairs, english=material.english)
        features = embedder.features(texts)
    with _progress(f"{name}: language probe", total=2) as advance:
        probes: dict[str, ProbeScore] = {}
        for kind, features_NH in (("mean", features.mean), ("first", features.first)):
            probes[kind] = language_probe(features_NH, texts=texts, languages=labels)
            advance(1)
    if material.removed_rank is None:
        return scores, probes, None
    with _progress(f"{name}: without the language's part", total=1):
        removed = without_language(
            features,
            texts=texts,
            languages=labels,
            embed=embed,
            pairs=material.pairs,
            english=material.english,
            rank=material.removed_rank,
        )
    return scores, probes, removed


@contextmanager
def _progress(what: str, *, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; in any case a line when done, with the time it took."""
    began = time.monotonic()
    with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task(f"evaluate: {what}", total=total)
        yield lambda done: bar.advance(task, done)
    say(f"evaluate: {what}: {time.monotonic() - began:.1f} s")
