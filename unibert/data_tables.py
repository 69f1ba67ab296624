"""The tables of a recipe that say what happens to text: where it is, its tokenizer, its masks. See schema.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from unibert.parallel_tables import Parallel
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
    parallel: tuple[Parallel, ...] = ()
    """Where parallel text and dictionaries come from, a table `[[data.parallel]]` each."""

    @model_validator(mode="after")
    def _sources_are_distinct(self) -> Data:
        for tables in (self.sources, self.parallel):
            names = [getattr(table, "name", table.kind) for table in tables]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"two sources are called {', '.join(twice)}: give each its own `name`")
        return self


class Tokenizer(Table):
    """The teacher's tokenizer, trimmed to what the text uses."""

    max_pieces: Positive = 40000
    """Most frequent pieces kept; single characters that occur are kept besides, so text round-trips."""


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
