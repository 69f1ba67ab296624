"""Documents to token ids, word by word where the tokenizer allows it, and the counts of what happened to them.

Tokenizers that split at white space before anything else give a word the same pieces wherever it stands, so each
different word is tokenized once. A text is few different words, which makes this several times as fast as the library
on whole texts; a document in which neighbouring words could touch each other goes through the library as a whole.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import regex
from tokenizers import Tokenizer

from unibert.data.lines import stable_hash
from unibert.data.shard_format import TokenizerFacts
from unibert.data.trimming import normalised, unknown_characters

SHORTEST_REST = 8
"""Tokens, special ones not counted: a shorter last piece of a document is dropped."""
UNKNOWN_SHOWN = 20
CHECKED = 16
"""The first document and one in so many are decoded again, to count exact round trips."""
WORDS_KEPT = 1 << 18
"""Words whose pieces are remembered; a longer list is begun anew."""
LONGEST_WORD = 24
"""Characters. What is longer is hardly met twice: sentences of scripts without spaces, addresses."""

# Marks and invisible characters at the edge of a word could join it to the space beside it, and some characters that
# are no space become one in a tokenizer's normaliser.
_TOUCHING = regex.compile(
    r"(?:^|\s)[\p{M}\p{Cf}]|\p{Cf}(?:\s|$)|\p{GCB=Prepend}"
    r"|[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\u2581\ufffd--[\u200c\u200d]]",
    regex.V1,
)

_PERHAPS_TOUCHING = regex.compile(r"[\p{M}\p{Cf}\p{Cc}\p{Zl}\p{Zp}\p{GCB=Prepend}\u2581\ufffd]", regex.V1)


@dataclass
class TextFacts:
    """What is counted while text is tokenized; it goes into the shards' entry."""

    documents: int = 0
    characters: int = 0
    words: int = 0
    """Separated by white space."""
    pieces: int = 0
    """Tokens of the documents, without the special ones."""
    new_pieces: int = 0
    """Tokens that are characters which the teacher does not know."""
    unknown_pieces: int = 0
    unknown_characters: Counter[str] = field(default_factory=Counter)
    checked: int = 0
    """Documents that were decoded again."""
    round_trips: int = 0
    """Those of them that decoding gives back as the tokenizer's normaliser left them."""
    dropped_pieces: int = 0
    """Tokens of last pieces that were too short."""
    dropped_documents: int = 0
    """Documents without a single ordinary token."""
    special_strings: int = 0
    """Special tokens spelt out in the text, such as a literal <s>; taken out."""

    def add(self, other: dict[str, Any]) -> None:
        """Add what another task counted, as `vars` of its facts."""
        for name, count in other.items():
            if isinstance(count, dict):
                self.unknown_characters.update(count)
            else:
                setattr(self, name, getattr(self, name) + count)

    def as_json(self) -> dict[str, Any]:
        """For the shards' entry; of the unknown characters the most frequent ones, ties by code point."""
        frequent = sorted(self.unknown_characters.items(), key=lambda item: (-item[1], item[0]))
        return vars(self) | {"unknown_characters": dict(frequent[:UNKNOWN_SHOWN])}


class Encoder:
    """A tokenizer that turns documents into samples and counts what happens to them."""

    def __init__(self, folder: Path, *, facts: TokenizerFacts, max_sequence_tokens: int) -> None:
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.special = facts.special
        self.room = max_sequence_tokens - 2
        self.known = {piece for piece in self.tokenizer.get_vocab() if len(piece) == 1}
        self.stray = set(facts.special.all()) - {facts.special.unk}
        self.new = np.zeros(facts.vocabulary_size, dtype=bool)
        if (folder / "kept_ids.npy").is_file():
            kept_ids = np.load(folder / "kept_ids.npy")
            self.new = kept_ids == kept_ids[facts.special.unk]
            self.new[facts.special.unk] = False
        self.word_by_word = splits_at_spaces(folder)
        added = (token.content for token in self.tokenizer.get_added_tokens_decoder().values())
        self._special_text = regex.compile("|".join(map(regex.escape, added)) or r"(?!)")
        self._words: dict[str, list[int]] = {}

    def encode(self, documents: Sequence[str], *, counted: TextFacts) -> tuple[np.ndarray, np.ndarray]:
        """(token ids of all samples, one after the other; tokens of each sample); adds to `counted`."""
        samples: list[list[int]] = []
        for text, ids in zip(documents, self.ids(documents), strict=True):
            samples += self._samples(ids, counted)
            self._count(text, ids, counted)
        lengths = np.fromiter(map(len, samples), dtype=np.int64, count=len(samples))
        flat = np.fromiter(chain.from_iterable(samples), dtype=np.int64, count=int(lengths.sum()))
        counted.new_pieces += int(self.new[flat].sum())
        return flat, lengths

    def ids(self, documents: Sequence[str]) -> list[list[int]]:
        """The token ids of each document, without the first and last special token: as the tokenizer gives them."""
        if not self.word_by_word:
            return self._whole(documents)
        apart = list(map(self._has_words_apart, documents))
        whole = iter(self._whole([text for text, words in zip(documents, apart, strict=True) if not words]))
        split = [text.split() if words else [] for text, words in zip(documents, apart, strict=True)]
        pieces = self._pieces(split)
        return [
            list(chain.from_iterable(map(pieces.__getitem__, words))) if is_apart else next(whole)
            for words, is_apart in zip(split, apart, strict=True)
        ]

    def _has_words_apart(self, text: str) -> bool:
        """Whether the words of a text can be tokenized one by one, and it is worth it."""
        if len(text) > LONGEST_WORD * (1 + text.count(" ")):
            return False
        if not text.isascii() and _PERHAPS_TOUCHING.search(text) and _TOUCHING.search(text):
            return False
        return (text.isprintable() or not _TOUCHING.search(text)) and not self._special_text.search(text)

    def _whole(self, documents: Sequence[str]) -> list[list[int]]:
        return [found.ids for found in self.tokenizer.encode_batch_fast(list(documents), add_special_tokens=False)]

    def _pieces(self, documents: Sequence[list[str]]) -> dict[str, list[int]]:
        """The pieces of every word."""
        words = set(chain.from_iterable(documents))
        if len(self._words) > WORDS_KEPT:
            self._words.clear()
        new = [word for word in words if word not in self._words]
        found = dict(zip(new, self._whole(new), strict=True))
        self._words |= {word: pieces for word, pieces in found.items() if len(word) <= LONGEST_WORD}
        return found | {word: self._words[word] for word in words if word not in found}

    def _samples(self, ids: list[int], counted: TextFacts) -> list[list[int]]:
        if not self.stray.isdisjoint(ids):
            counted.special_strings += sum(token in self.stray for token in ids)
            ids = [token for token in ids if token not in self.stray]
        if ids.count(self.special.unk) == len(ids):
            counted.dropped_documents += 1
            return []
        pieces, dropped = cut(ids, room=self.room)
        counted.dropped_pieces += dropped
        ordinary = [piece for piece in pieces if piece.count(self.special.unk) < len(piece)]
        return [[self.special.cls, *piece, self.special.sep] for piece in ordinary]

    def _count(self, text: str, ids: list[int], counted: TextFacts) -> None:
        counted.documents += 1
        counted.characters += len(text)
        counted.words += len(text.split())
        counted.pieces += len(ids)
        if unknown := ids.count(self.special.unk):
            counted.unknown_pieces += unknown
            counted.unknown_characters.update(unknown_characters(self.tokenizer, text, known=self.known))
        if not counted.checked or stable_hash(text) % CHECKED == 0:
            decoded = self.tokenizer.decode(ids, skip_special_tokens=False)
            counted.checked += 1
            # Most text is in normal form already, and normalising is the slower comparison.
            counted.round_trips += decoded == text or decoded.strip() == normalised(self.tokenizer, text)


@lru_cache(maxsize=2)
def encoder(folder: Path, facts: TokenizerFacts, max_sequence_tokens: int) -> Encoder:
    """The encoder of a process, kept from task to task; the facts are those of the tokenizer in the folder."""
    return Encoder(folder, facts=facts, max_sequence_tokens=max_sequence_tokens)


def splits_at_spaces(folder: Path) -> bool:
    """Whether a tokenizer gives a word the same pieces wherever it stands between spaces."""
    tree = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    split: dict[str, Any] = tree.get("pre_tokenizer") or {}
    if split.get("type") == "Metaspace":
        return split.get("prepend_scheme") == "always" and split.get("split", True)
    return split.get("type") == "BertPreTokenizer"


def cut(ids: list[int], *, room: int) -> tuple[list[list[int]], int]:
    """(consecutive pieces of at most `room` ids, ids of a last piece that was dropped as too short)."""
    pieces = [ids[start : start + room] for start in range(0, len(ids), room)]
    if len(pieces) > 1 and len(pieces[-1]) < SHORTEST_REST:
        return pieces[:-1], len(pieces[-1])
    return pieces, 0
