"""The tables of a recipe that say what happens to text: where it is, its tokenizer, its masks. See schema.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from unibert.source_tables import Demo, Source
from unibert.table import Fraction, Positive, Table


class Data(Table):
    """Where the text is, how it is cleaned, sampled and cut."""

    folder: Path = Path("data/demo")
    """Folder of everything prepared from text: raw, clean, heldout, tokenizer and shards."""
    max_lines_per_language: Positive = 3000
    """Lines of clean text kept per language, drawn evenly from the sources."""
    max_sequence_tokens: Positive = 128
    """Longest document piece, special tokens included; also the width of a packed row."""
    smoothing_exponent: Fraction = 0.5
    """A language's share is proportional to tokens ** this exponent (1 as found, 0 all equal)."""
    heldout_keys: Positive = 160
    """Parallel messages held out of training, in all their languages, for retrieval."""
    heldout_lines_per_language: Positive = 100
    """Monolingual lines per language held out of training, for the masked cross-entropy and the probe."""
    sources: Annotated[tuple[Source, ...], Field(min_length=1)] = (Demo(),)
    """Where text comes from, a table `[[data.sources]]` each; the demo's packages when there is none."""

    @model_validator(mode="after")
    def _sources_are_distinct(self) -> Data:
        names = [getattr(source, "name", source.kind) for source in self.sources]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two sources are called {', '.join(twice)}: give each its own `name`")
        return self


class Tokenizer(Table):
    """The teacher's tokenizer, trimmed to what the text uses, or one trained on the text."""

    kind: Literal["teacher", "wordpiece", "bpe", "unigram"] = "teacher"
    """The teacher's, or one trained on the smoothed mixture; that one shares no vocabulary with a teacher, so the
    student begins from random weights."""
    max_pieces: Positive = 40000
    """Most frequent pieces kept of the teacher's; single characters that occur are kept besides, so text round-trips.
    Of a trained one the largest vocabulary, all in all."""
    byte_fallback: bool = True
    """Trained bpe and unigram: characters outside the alphabet become their UTF-8 bytes, so nothing is unknown;
    wordpiece has no such thing and keeps its [UNK]."""
    character_coverage: Annotated[float, Field(gt=0, le=1)] = 0.9995
    """Trained: share of each language's characters that are pieces of their own; letters of small alphabets all are."""
    normal_form: Literal["nfc", "nfkc"] = "nfkc"
    """Trained: Unicode form of the text; nfkc also makes one of full-width, superscript and other variants."""
    sample_characters: Positive = 100_000_000
    """Trained: characters read in all, each language its smoothed share of them and none twice."""


class Masking(Table):
    """BERT's dynamic masking, seeded by sample and epoch."""

    fraction: Fraction = 0.15
    """Share of the tokens of a document that become targets."""
    mask_fraction: Fraction = 0.8
    """Share of the targets shown as the mask token."""
    random_fraction: Fraction = 0.1
    """Share of the targets shown as a random token; the rest is shown unchanged."""

    @model_validator(mode="after")
    def _shares(self) -> Masking:
        if self.mask_fraction + self.random_fraction > 1:
            raise ValueError("mask_fraction + random_fraction must be at most 1")
        return self
