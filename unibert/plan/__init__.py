"""What a run would be, before anything heavy is imported: batch arithmetic, tokens, memory per rank, language shares.

Pure: reads the recipe, the shards' manifest and models' config.json where they exist; no torch, well under a second.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from unibert.errors import ConfigError, DataError
from unibert.plan.activations import Activations, activations_of
from unibert.plan.batch import (
    Stretch,
    accumulation_steps,
    check_batches,
    first_sample,
    global_batch,
    rate_factor,
    step_of,
    stretches,
    turn_length,
)
from unibert.plan.memory import Dimensions, Engine, engines_of, student_dimensions
from unibert.plan.pairs import MANY_EPOCHS, pair_notes, pairs_in_run
from unibert.plan.shares import (
    explain_shares,
    own_sequences,
    pairs_before,
    run_sequences,
    run_shares,
    share_phases,
    smoothed_shares,
    stream_shares,
)
from unibert.plan.teachers import engines_beside
from unibert.schema import Recipe

__all__ = [
    "Dimensions",
    "Engine",
    "LanguagePlan",
    "Plan",
    "Stretch",
    "accumulation_steps",
    "check_batches",
    "explain_shares",
    "first_sample",
    "global_batch",
    "make_language_plans",
    "make_plan",
    "pairs_before",
    "rate_factor",
    "run_sequences",
    "run_shares",
    "share_phases",
    "smoothed_shares",
    "step_of",
    "turn_length",
]

GIB = 1 << 30
MUCH_PADDING = 0.15


@dataclass(frozen=True)
class LanguagePlan:
    """One language's part of the run."""

    code: str
    samples: int
    tokens: int
    share: float
    """Of the run's documents, as the sampler rounds it."""
    epochs: float
    """How often each of its documents is seen."""
    phase_shares: tuple[float, ...] = ()
    """Share in each part of data.curriculum."""


@dataclass(frozen=True)
class Plan:
    """A run in numbers."""

    name: str
    world: int
    micro: int
    accumulation: int
    """After the ladder."""
    global_batch: int
    """After the ladder."""
    ladder: tuple[Stretch, ...]
    """The run cut where its batch changes; one stretch where there is no ladder."""
    steps: int
    sequences: int
    translation_pairs: int
    """Of which each is two of the sequences."""
    tokens: int | None
    """Expected, special tokens included; None before there are shards."""
    targets: int | None
    """Expected masked positions."""
    padding_fraction: float | None
    """Expected, of a packed micro-batch."""
    engines: tuple[Engine, ...]
    activations: tuple[Activations, ...]
    """Of the student's readings of a micro-batch, all of them alive at once; empty before there are shards."""
    languages: tuple[LanguagePlan, ...]
    """Empty before there are shards."""
    shares: str
    """How their shares come about."""
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For plan.json."""
        return asdict(self)

    def text(self) -> str:
        """For the console."""
        batch = [*self._batch_lines(), *self._ladder_lines()]
        return "\n".join([*batch, "", *self._engine_lines(), "", *self._language_lines(), *self._notes()])

    def _batch_lines(self) -> list[str]:
        size = "" if self.tokens is None else f", about {self.tokens:,} tokens, {self.targets:,} of them masked"
        ranks = f"{self.world} rank{'s' if self.world > 1 else ''}"
        lines = [
            f"run      {self.name} on {ranks}",
            f"batch    {self.global_batch} documents = {self.micro} in a micro-batch x {ranks} x "
            f"{self.accumulation} accumulated{', after the ladder' if len(self.ladder) > 1 else ''}",
            f"length   {self.steps:,} steps = {self.sequences:,} documents{size}",
        ]
        if self.translation_pairs:
            lines.append(f"pairs    {self.translation_pairs:,} translation pairs among them, of two documents each")
        if self.padding_fraction is not None:
            lines.append(f"packing  about {self.padding_fraction:.0%} of a micro-batch is padding")
        return lines

    def _ladder_lines(self) -> list[str]:
        if len(self.ladder) == 1:
            return []
        head = ("steps", "batch", "accumulated", "rate x", "documents up to there")
        rows = [
            (
                f"{stretch.first_step:,} to {stretch.last_step:,}",
                f"{stretch.global_batch:,}",
                f"{stretch.accumulation:,}",
            )
            + (f"{stretch.rate_factor:.4f}", f"{stretch.sequences:,}")
            for stretch in self.ladder
        ]
        return ["", "ladder of batches, the rate by the square root", *_columns([head, *rows])]

    def _engine_lines(self) -> list[str]:
        words = "player parameters moving ZeRO precision weights gradients optimizer total"
        head = (*words.split(), "on host")
        rows = [
            (engine.name, f"{engine.parameters:,}", f"{engine.moving:,}", str(engine.zero_stage or 0))
            + (engine.precision, *(f"{size / GIB:.3f}" for size in (engine.weights_bytes, engine.gradients_bytes)))
            + tuple(f"{size / GIB:.3f}" for size in (engine.optimizer_bytes, engine.total_bytes, engine.host_bytes))
            for engine in self.engines
        ]
        total = sum(engine.rank_bytes for engine in self.engines) / GIB
        server = " (without the server, a process of its own)" if any(e.elsewhere for e in self.engines) else ""
        lines = ["memory of one rank in GiB, without activations", *_columns([head, *rows])]
        return [*lines, f"  together {total:.3f}{server}", *self._activation_lines()]

    def _activation_lines(self) -> list[str]:
        if not self.activations:
            return []
        total = sum(item.kept_bytes for item in self.activations) / GIB
        parts = ", ".join(
            f"{item.reading} text {item.kept_bytes / GIB:.3f} ({item.tokens:,} tokens)" for item in self.activations
        )
        return [f"  besides, kept for the backward pass of a micro-batch, about {total:.3f}: {parts}"]

    def _language_lines(self) -> list[str]:
        if not self.languages:
            return ["languages: shares are known once there are shards (unibert data tokenize RECIPE)"]
        head = ("language", "documents", "tokens", "share %", "epochs")
        head += tuple(f"{phase}. part" for phase, _ in enumerate(self.languages[0].phase_shares, start=1))
        rows = [
            (item.code, f"{item.samples:,}", f"{item.tokens:,}", f"{100 * item.share:.3f}", f"{item.epochs:.2f}")
            + tuple(f"{100 * share:.3f}" for share in item.phase_shares)
            for item in self.languages
        ]
        return [f"{len(rows)} languages, each by {self.shares}", *_columns([head, *rows])]

    def _notes(self) -> list[str]:
        return ["", *(f"note: {note}" for note in self.notes)] if self.notes else []


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows as aligned text, the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def line(row: tuple[str, ...]) -> str:
        return "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])

    return [f"  {line(row)}" for row in rows]


def make_plan(recipe: Recipe, *, world: int, student_engine: Mapping[str, Any] | None = None) -> Plan:
    """The plan of a run.

    Args:
        recipe: of the run.
        world: ranks.
        student_engine: the student's DeepSpeed file as a dictionary (ZeRO stage, precision, offload); ZeRO-0 in
            fp32 when None.

    Raises:
        ConfigError: a batch or discriminator.turns does not divide, or rows are longer than the student's positions.
        DataError: the shards' manifest is damaged, or lacks a language of the recipe.
    """
    check_batches(recipe, world=world)
    train, ladder = recipe.train, stretches(recipe, world=world)
    sequences = ladder[-1].sequences
    manifest = _manifest(recipe)
    languages = make_language_plans(recipe, manifest) if manifest else ()
    mean_length = sum(item.share * item.tokens / item.samples for item in languages)
    half_row = recipe.data.max_sequence_tokens / 2  # what packing leaves over of the last row, on average
    dimensions, guess = student_dimensions(recipe, manifest)
    if recipe.data.max_sequence_tokens > dimensions.positions:
        raise ConfigError(
            f"data.max_sequence_tokens = {recipe.data.max_sequence_tokens}, but the student's model has "
            f"{dimensions.positions} positions: take at most that"
        )
    engines = engines_of(recipe, world=world, student=dimensions, tree=student_engine or {})
    engines += tuple(engines_beside(recipe, dimensions))
    padding = half_row / (train.micro_batch_sequences * mean_length + half_row) if languages else None
    activations: tuple[Activations, ...] = ()
    if padding is not None:
        half = engines[0].precision in ("bf16", "fp16")
        activations = activations_of(recipe, student=dimensions, mean_tokens=mean_length, padding=padding, half=half)
    notes = [*guess, *_warnings(languages, train.global_batch_sequences, padding), *pair_notes(recipe)]
    return Plan(
        name=recipe.name,
        world=world,
        micro=train.micro_batch_sequences,
        accumulation=ladder[-1].accumulation,
        global_batch=train.global_batch_sequences,
        ladder=ladder,
        steps=train.steps,
        sequences=sequences,
        translation_pairs=pairs_in_run(recipe),
        tokens=round(sequences * mean_length) if languages else None,
        targets=round(sequences * (mean_length - 2) * recipe.masking.fraction) if languages else None,
        padding_fraction=padding,
        engines=engines,
        activations=activations,
        languages=languages,
        shares=explain_shares(recipe),
        notes=tuple(notes),
    )


def _manifest(recipe: Recipe) -> dict[str, Any] | None:
    path = recipe.data.folder / "shards" / "manifest.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(f"{path}: damaged ({error}); run: unibert data tokenize RECIPE --force") from None


def make_language_plans(recipe: Recipe, manifest: Mapping[str, Any]) -> tuple[LanguagePlan, ...]:
    """Each language's part of the run, in the recipe's order; `manifest` is the shards' own.

    Raises:
        ConfigError: the limits of shares leave a part of the stream to no language.
        DataError: a language of the recipe has no text.
    """
    entries = manifest["languages"]
    lost = [code for code in recipe.languages if not entries.get(code, {}).get("samples")]
    if lost:
        raise DataError(
            f"{recipe.data.folder / 'shards'}: no text of {', '.join(lost)}: take it out of the recipe's languages, "
            "or get its text and run: unibert data tokenize RECIPE --force"
        )
    samples, tokens = (np.array([entries[code][key] for code in recipe.languages]) for key in ("samples", "tokens"))
    shares = run_shares(recipe, samples=samples, tokens=tokens)
    by_phase = stream_shares(recipe, samples=samples, tokens=tokens) if recipe.data.curriculum else shares[None][:0]
    epochs = own_sequences(recipe) * shares / samples
    columns = (samples.tolist(), tokens.tolist(), shares.tolist(), epochs.tolist(), map(tuple, by_phase.T.tolist()))
    return tuple(LanguagePlan(*row) for row in zip(recipe.languages, *columns, strict=True))


def _warnings(languages: tuple[LanguagePlan, ...], batch: int, padding: float | None) -> list[str]:
    notes = []
    repeated = [f"{item.code} {item.epochs:.0f}x" for item in languages if item.epochs > MANY_EPOCHS]
    if repeated:
        notes.append(
            f"repeated more than {MANY_EPOCHS} times: {', '.join(repeated)}; get more text, raise "
            "data.smoothing_exponent, or set data.max_repeats"
        )
    twice = [item.code for item in languages if max(item.share, *item.phase_shares, 0) * batch > item.samples]
    if twice:
        notes.append(f"documents come more than once in one global batch ({batch}): {', '.join(twice)}")
    if padding is not None and padding > MUCH_PADDING:
        notes.append(f"about {padding:.0%} of each micro-batch is padding: raise train.micro_batch_sequences")
    return notes
