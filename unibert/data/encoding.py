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
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import regex
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import Metaspace

from unibert.data.shard_format import TokenizerFacts
from unibert.data.trimming import normalised, unknown_characters

SHORTEST_REST = 8
"""Tokens, special ones not counted: a shorter last piece of a document is dropped."""
UNKNOWN_SHOWN = 20
CHECKED = 16
"""The first document and every so many-th are decoded again, to count exact round trips."""
SPACE = "\u2581"
"""With it begins every word in SentencePiece's tokenizers."""
WORDS_AT_ONCE = 64
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
        self._is_stray = np.isin(np.arange(facts.vocabulary_size), list(self.stray))
        self.new = np.zeros(facts.vocabulary_size, dtype=bool)
        if (folder / "kept_ids.npy").is_file():
            kept_ids = np.load(folder / "kept_ids.npy")
            self.new = kept_ids == kept_ids[facts.special.unk]
            self.new[facts.special.unk] = False
        self.word_by_word = splits_at_spaces(folder)
        self._begins = np.zeros(facts.vocabulary_size, dtype=bool)  # pieces at which a word begins
        if isinstance(self.tokenizer.pre_tokenizer, Metaspace):
            marked = (place for piece, place in self.tokenizer.get_vocab().items() if piece.startswith(SPACE))
            self._begins[list(marked)] = True
        added = (token.content for token in self.tokenizer.get_added_tokens_decoder().values())
        self._special_text = regex.compile("|".join(map(regex.escape, added)) or r"(?!)")
        self._words: dict[str, list[int]] = {}

    def encode(self, documents: Sequence[str], *, counted: TextFacts) -> tuple[np.ndarray, np.ndarray]:
        """(token ids of all samples, one after the other; tokens of each sample); adds to `counted`."""
        flat, lengths = self._flat(documents)
        self._count(documents, flat, lengths, counted)
        stray = self._is_stray[flat]
        if stray.any():
            counted.special_strings += int(stray.sum())
            lengths = lengths - _sums(stray, lengths)
            flat = flat[~stray]
        ordinary = lengths - _sums(flat == self.special.unk, lengths)
        counted.dropped_documents += int((ordinary == 0).sum())
        start, length, dropped = cut(np.where(ordinary, lengths, 0), room=self.room, starts=_starts(lengths))
        counted.dropped_pieces += dropped
        return self._samples(flat, start, length, counted)

    def ids(self, documents: Sequence[str]) -> list[list[int]]:
        """The token ids of each document, without the first and last special token: as the tokenizer gives them."""
        flat, lengths = self._flat(documents)
        return [piece.tolist() for piece in np.split(flat, np.cumsum(lengths)[:-1])] if len(lengths) else []

    def _flat(self, documents: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(token ids of all documents, one after the other; tokens of each document), int64."""
        # A document is tokenized as its words, or as the one piece of text that it is.
        parts = [self._words_of(text) for text in documents] if self.word_by_word else [[text] for text in documents]
        split = [words for words in parts if len(words) > 1]
        alone = [words[0] for words in parts if len(words) == 1]
        pieces = self._pieces(set(chain.from_iterable(split)), set(alone))
        number = {text: place for place, text in enumerate(pieces)}
        sizes = np.fromiter(map(len, pieces.values()), dtype=np.int64, count=len(pieces))
        ids = np.fromiter(chain.from_iterable(pieces.values()), dtype=np.int64, count=int(sizes.sum()))
        words_of_document = np.fromiter(map(len, parts), dtype=np.int64, count=len(parts))
        words = np.fromiter(map(number.__getitem__, chain.from_iterable(parts)), dtype=np.int64)
        flat = ids[_spread(_starts(sizes)[words], sizes[words])]
        return flat, _sums(sizes[words], words_of_document)

    def _words_of(self, text: str) -> list[str]:
        """The words of a text, when they can be tokenized one by one and it is worth it; else the text."""
        return text.split() if self._has_words_apart(text) else [text]

    def _has_words_apart(self, text: str) -> bool:
        """Whether the words of a text can be tokenized one by one, and it is worth it."""
        if len(text) > LONGEST_WORD * (1 + text.count(" ")):
            return False
        if not text.isascii() and _PERHAPS_TOUCHING.search(text) and _TOUCHING.search(text):
            return False
        return (text.isprintable() or not _TOUCHING.search(text)) and not self._special_text.search(text)

    def _whole(self, texts: Sequence[str]) -> list[list[int]]:
        return [found.ids for found in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def _pieces(self, words: set[str], alone: set[str]) -> dict[str, list[int]]:
        """The pieces of every word, and of every text that stands alone."""
        if len(self._words) > WORDS_KEPT:
            self._words.clear()
        found = {word: self._words[word] for word in words if word in self._words}
        new = list(words - found.keys())
        fresh = dict(zip(new, self._each_word(new), strict=True))
        self._words |= {word: pieces for word, pieces in fresh.items() if len(word) <= LONGEST_WORD}
        rest = list(alone - words)
        return found | fresh | dict(zip(rest, self._whole(rest), strict=True))

    def _each_word(self, words: Sequence[str]) -> list[list[int]]:
        """The pieces of each word: some words at a time, where the pieces show which word they are of."""
        if not self._begins.any():
            return self._whole(words)
        out: list[list[int]] = []
        groups = [words[start : start + WORDS_AT_ONCE] for start in range(0, len(words), WORDS_AT_ONCE)]
        for group, ids in zip(groups, self._whole([" ".join(group) for group in groups]), strict=True):
            first = np.flatnonzero(self._begins[ids]).tolist()
            if len(first) == len(group) and first[0] == 0:
                out += [ids[start:stop] for start, stop in pairwise([*first, len(ids)])]
            else:  # a word that is normalised to nothing, or to two
                out += self._whole(group)
        return out

    def _samples(
        self, flat: np.ndarray, start: np.ndarray, length: np.ndarray, counted: TextFacts
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pieces [start, start + length) of `flat` as samples, but those without an ordinary token."""
        inside = flat[_spread(start, length)]
        ordinary = length > _sums(inside == self.special.unk, length)
        inside, size = inside[np.repeat(ordinary, length)], length[ordinary] + 2
        counted.new_pieces += int(self.new[inside].sum())
        first = _starts(size)
        samples = np.empty(int(size.sum()), dtype=np.int64)
        is_inside = np.ones(len(samples), dtype=bool)
        for places, token in ((first, self.special.cls), (first + size - 1, self.special.sep)):
            samples[places], is_inside[places] = token, False
        samples[is_inside] = inside
        return samples, size

    def _count(self, documents: Sequence[str], flat: np.ndarray, lengths: np.ndarray, counted: TextFacts) -> None:
        unknown = _sums(flat == self.special.unk, lengths)
        for place in np.flatnonzero(unknown).tolist():
            counted.unknown_characters.update(unknown_characters(self.tokenizer, documents[place], known=self.known))
        counted.unknown_pieces += int(unknown.sum())
        counted.pieces += len(flat)
        counted.characters += sum(map(len, documents))
        counted.words += sum(len(text.split()) for text in documents)
        starts = _starts(lengths)
        for place in range(-counted.documents % CHECKED, len(documents), CHECKED):
            text, ids = documents[place], flat[starts[place] : starts[place] + lengths[place]].tolist()
            decoded = self.tokenizer.decode(ids, skip_special_tokens=False)
            counted.checked += 1
            # Most text is in normal form already, and normalising is the slower comparison.
            counted.round_trips += decoded == text or decoded.strip() == normalised(self.tokenizer, text)
        counted.documents += len(documents)


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


def cut(lengths: np.ndarray, *, room: int, starts: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, int]:
    """Cut documents into consecutive pieces of at most `room` tokens, but drop last pieces that are too short.

    Args:
        lengths: int64 [D], tokens of each document.
        room: most tokens of a piece.
        starts: int64 [D], where each begins; one after the other when absent.

    Returns:
        (first token of each piece, tokens of each piece, tokens that were dropped).
    """
    starts = _starts(lengths) if starts is None else starts
    pieces = -(-lengths // room)
    document = np.repeat(np.arange(len(lengths)), pieces)
    number = np.arange(len(document)) - np.repeat(_starts(pieces), pieces)
    length = np.minimum(lengths[document] - number * room, room)
    kept = (number == 0) | (length >= SHORTEST_REST)
    return (starts[document] + number * room)[kept], length[kept], int(length[~kept].sum())


def _starts(lengths: np.ndarray) -> np.ndarray:
    """Where each of several pieces that stand one after the other begins."""
    return np.cumsum(lengths) - lengths


def _spread(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """start, start + 1, ... start + length - 1 of each piece."""
    return np.arange(int(lengths.sum())) + np.repeat(starts - _starts(lengths), lengths)


def _sums(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Sum of the values of each piece, int64."""
    before = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    starts = _starts(lengths)
    return before[starts + lengths] - before[starts]
