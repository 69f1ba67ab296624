"""The tables of a recipe that say what happens to text: where it is, its tokenizer, its masks. See schema.py."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from unibert.parallel_tables import Parallel
from unibert.source_tables import Demo, Source
from unibert.table import Fraction, Positive, Table

Temperature = Annotated[float, Field(ge=1.0)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]


class _Smoothed(Table):
    """A table whose `smoothing_exponent` may be given as `temperature` = 1 / exponent."""

    @model_validator(mode="before")
    @classmethod
    def _temperature_is_an_exponent(cls, tree: Any) -> Any:
        if not isinstance(tree, Mapping) or not isinstance(temperature := tree.get("temperature"), int | float):
            return tree
        if temperature < 1:
            return tree  # the field's own check says so
        exponent = tree.get("smoothing_exponent", 1 / temperature)
        # A resolved recipe holds both.
        if not isinstance(exponent, int | float) or not math.isclose(exponent, 1 / temperature, rel_tol=1e-9):
            raise ValueError(
                f"smoothing_exponent = {exponent} and temperature = {temperature}: two names of one number "
                "(exponent = 1 / temperature); give one"
            )
        return {**tree, "smoothing_exponent": exponent}


class SharePhase(_Smoothed):
    """One part of a curriculum of shares."""

    until_fraction: Share
    """Where the part ends, as a fraction of the run's documents; 1.0 in the last one."""
    smoothing_exponent: Fraction
    """As data.smoothing_exponent, in this part of the run."""
    temperature: Temperature | None = None
    """As data.temperature, in this part of the run."""


class Data(_Smoothed):
    """Where the text is, how it is cleaned, sampled and cut."""

    folder: Path = Path("data/demo")
    """Folder of everything prepared from text: raw, clean, heldout, tokenizer and shards."""
    file_mib: Annotated[float, Field(gt=0)] = 16.0
    """MiB of a file of text, which is what one process works on at a time: its memory is a few times that."""
    max_lines_per_language: Positive = 3000
    """Lines of clean text kept per language, drawn evenly from the sources."""
    max_sequence_tokens: Positive = 128
    """Longest document piece, special tokens included; also the width of a packed row."""
    smoothing_exponent: Fraction = 0.5
    """A language's share is proportional to tokens ** this exponent (1 as found, 0 all equal)."""
    temperature: Temperature | None = None
    """The same by its other name, instead of it: exponent = 1 / temperature."""
    max_repeats: Annotated[float, Field(gt=0)] | None = None
    """A language's text is passed over at most so often, at an even pace; the others get what it gives up."""
    max_share: Share | None = None
    """No language has more of the stream than this; the others get what it gives up."""
    share_limits: dict[str, Share] = Field(default={})
    """The same for single languages, as in `{ en = 0.05 }`."""
    curriculum: tuple[SharePhase, ...] = ()
    """Shares that change over the run, a table `[[data.curriculum]]` for each part; data.smoothing_exponent throughout
    when there is none."""
    parallel_ratio: Fraction = 0.0
    """Share of the stream's documents that come in translation pairs (both sides in one batch)."""
    parallel_english_fraction: Fraction = 0.0
    """Share of the pairs with an English side that have it on both sides instead (MMKD: about one eighth)."""
    drop_tokens: Fraction = 0.0
    """Probability that a token is left out of a document that is not kept whole (UniDrop's data dropout)."""
    keep_whole: Fraction = 0.5
    """Probability that data.drop_tokens leaves a document whole."""
    code_switch_fraction: Fraction = 0.0
    """Share of the translation pairs (of several sentences, as many on both sides) that exchange their later ones."""
    identify_languages: bool = True
    """Leave out lines that an identifier (fastText's lid.176) takes with certainty for another language."""
    evaluation_sets: tuple[Path, ...] = ()
    """Files and folders of evaluation sets (JSON, JSONL, TSV, CSV, CoNLL, parquet, text): lines that share a passage
    with one of their texts are left out."""
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

    @model_validator(mode="after")
    def _curriculum_covers_the_run(self) -> Data:
        ends = [phase.until_fraction for phase in self.curriculum]
        if any(after <= before for before, after in pairwise(ends)):
            raise ValueError(f"curriculum: until_fraction must rise, not {', '.join(map(str, ends))}")
        if ends and ends[-1] != 1.0:
            raise ValueError(f"curriculum: the last until_fraction is {ends[-1]}, and must be 1.0")
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

    unit: Literal["token", "word"] = "token"
    """What is masked or not as a whole: a piece, or a word, which in scripts without spaces is a piece too."""

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
