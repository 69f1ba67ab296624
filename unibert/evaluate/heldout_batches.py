"""Held-out text in batches: language after language for the masked prediction, or mixed as training's stream is.

Documents are those of <data.folder>/shards_heldout; translation pairs are the held-out messages, English with each
other language, tokenized here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from unibert.data.batches import Batch, Maker, make_batch
from unibert.data.mixture import Mixture, read_documents
from unibert.data.pairs import PairSet
from unibert.data.shard_format import SpecialIds
from unibert.data.shards import ShardSet
from unibert.evaluate.heldout import ENGLISH, Message
from unibert.schema import Masking, Recipe

HELDOUT_SEED = 20_000
"""Of the masks of held-out text: a constant, so that every model and every run is asked the same questions."""


def heldout_batches(
    recipe: Recipe, shards: ShardSet, *, lines_per_language: int, sequences: int = 64
) -> Iterator[Batch]:
    """Held-out text with fixed masks: the same documents and targets for every model, run and caller.

    Args:
        recipe: gives the width of a row. Masks are the standard ones (15 %, 80/10/10), whatever the recipe trains with.
        shards: the held-out ones, open with the recipe's languages.
        lines_per_language: document pieces of each language, spread evenly over its file; fewer where it has fewer.
        sequences: documents of a batch.

    Yields:
        Batches language after language; sample_ids count the documents from 0.
    """
    chosen = [_spread(int(n), lines_per_language) for n in shards.samples_per_language]
    language = np.repeat(np.arange(len(chosen)), [len(which) for which in chosen])
    sample = np.concatenate(chosen)
    for start in range(0, len(sample), sequences):
        here = slice(start, start + sequences)
        yield make_batch(
            read_documents(shards, language=language[here], sample=sample[here], epoch=np.zeros_like(sample[here])),
            shards=shards,
            positions=np.arange(start, start + len(sample[here])),
            width=max(recipe.data.max_sequence_tokens, shards.max_sequence_tokens),
            masking=Masking(),
            seed=HELDOUT_SEED,
        )


def _spread(available: int, wanted: int) -> np.ndarray:
    """At most `wanted` indices, evenly spread over range(available)."""
    count = min(available, wanted)
    return np.arange(count) * available // max(count, 1)


@dataclass(frozen=True)
class _Messages:
    """One language pair's messages, which PairSet reads like a shard set of two languages."""

    sides: tuple[list[np.ndarray], list[np.ndarray]]
    like: ShardSet = field(repr=False)
    max_sequence_tokens: int

    @property
    def samples_per_language(self) -> np.ndarray:
        return np.array([len(side) for side in self.sides])

    @property
    def tokenizer_fingerprint(self) -> str:
        return self.like.tokenizer_fingerprint

    @property
    def vocabulary_size(self) -> int:
        return self.like.vocabulary_size

    @property
    def special(self) -> SpecialIds:
        return self.like.special

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(b"".join(ids.tobytes() for side in self.sides for ids in side)).hexdigest()

    def sample(self, language: int, index: int) -> np.ndarray:
        return self.sides[language][index]


def heldout_micros(
    recipe: Recipe, shards: ShardSet, messages: Sequence[Message], *, indices: Sequence[int]
) -> list[Batch]:
    """Some micro-batches as the stream makes them, of held-out text, the same for every run of a recipe.

    Masks, pairs and shares are as the recipe says, by a seed of their own; nothing is dropped at random or switched.

    Args:
        recipe: batch size, masks, shares and which views of pairs its objectives read.
        shards: <data.folder>/shards_heldout, open with the recipe's languages.
        messages: held-out messages in several languages, for the pairs of a recipe that has pairs.
        indices: which micro-batches, from 0.
    """
    ratio = recipe.data.parallel_ratio if messages else 0.0
    calm = {"drop_tokens": 0.0, "code_switch_fraction": 0.0, "parallel_ratio": ratio}
    changed = {
        "data": recipe.data.model_copy(update=calm),
        "train": recipe.train.model_copy(update={"seed": HELDOUT_SEED}),
    }
    as_heldout = recipe.model_copy(update=changed)
    pairs = message_pairs(recipe, shards, messages) if ratio else None
    maker = Maker(as_heldout, shards, Mixture(as_heldout, shards, pairs))
    size = recipe.train.micro_batch_sequences
    return [maker.make(index * size) for index in indices]


def pairable(recipe: Recipe, messages: Sequence[Message]) -> list[Message]:
    """The messages in English and another language of a recipe; none where the recipe has no English."""
    known = set(recipe.languages)
    pairs = [message for message in messages if ENGLISH in message.texts and len(known & message.texts.keys()) > 1]
    return pairs if ENGLISH in known else []


def message_pairs(recipe: Recipe, shards: ShardSet, messages: Sequence[Message]) -> PairSet:
    """Messages as pairs of English with each other language, each side cut to half of data.max_sequence_tokens."""
    longest = recipe.data.max_sequence_tokens // 2
    place = {code: number for number, code in enumerate(recipe.languages)}
    encoded = _encode(messages, tokenizer=recipe.data.folder / "tokenizer", special=shards.special, longest=longest)
    sets: dict[tuple[int, int], Any] = {}
    for code in recipe.languages:
        rows = [texts for texts in encoded if code in texts and ENGLISH in texts]
        if code != ENGLISH and rows and ENGLISH in place:
            first, second = sorted((code, ENGLISH), key=place.__getitem__)
            sides = [texts[first] for texts in rows], [texts[second] for texts in rows]
            sets[place[first], place[second]] = _Messages(sides, shards, longest)
    return PairSet(sets, languages=recipe.languages)


def _encode(
    messages: Sequence[Message], *, tokenizer: Path, special: SpecialIds, longest: int
) -> list[Mapping[str, np.ndarray]]:
    """Token ids of every message in every language, with cls and sep."""
    made_by = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    made_by.no_padding()
    made_by.no_truncation()

    def ids(text: str) -> np.ndarray:
        inner = made_by.encode(text, add_special_tokens=False).ids[: longest - 2]
        return np.array([special.cls, *inner, special.sep], dtype=np.int64)

    return [{code: ids(text) for code, text in message.texts.items()} for message in messages]
