"""A teacher with another tokenizer reads the English sides of translation pairs as text of its own. No torch here.

Each English side is decoded from its pieces and tokenized again by the teacher's tokenizer, between the teacher's own
first and last special token, cut to `width`. A pair of two English sides is read once. Words, as words.py sees them in
either tokenizer, are matched where they begin at the same character of the text: the same index wherever both agree on
what a word is. A word is its first piece.

Where the pieces do not give back their text (unknown characters, data.drop_tokens: tokenizing it again gives other
pieces), the teacher reads what they decode to, and the words of that sentence are left out, since nobody could say
where they stand. Source: MMKD (Li et al., arXiv 2211.01200) lets an English teacher read the English side in its own
tokenizer and matches words by index; decoding and matching by characters are ours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from unibert.data.exports import newest_export
from unibert.data.mixture import Documents
from unibert.data.pieces import compare
from unibert.data.shard_format import SpecialIds, TokenizerFacts
from unibert.data.texts import Texts
from unibert.data.words import WordPieces, word_spans
from unibert.errors import ConfigError, DataError
from unibert.pair_rules import PIVOT, reads_teacher
from unibert.schema import Recipe

NOBODY = np.empty(0, dtype=np.int64)


def reads_text(recipe: Recipe) -> bool:
    """Whether the recipe's teacher reads text of its own: by teacher.reads, else where it lacks pieces of ours.

    A teacher that cannot be read yet is not judged; who loads it says so.
    """
    table = recipe.teacher
    if table is None or table.reads == "pieces" or table.more:
        return False
    if not any(reads_teacher(name, objective) for name, objective in recipe.objectives.on().items()):
        return False
    if table.reads == "text":
        return True
    try:
        source = newest_export(table.path or table.trimmed)
        found = compare(recipe.data.folder / "tokenizer", source, rows=_configuration(source)["vocab_size"])
    except (OSError, ValueError, KeyError, DataError):
        return False
    return found is not None and found.relation == "different"


def _configuration(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class EnglishSides:
    """The English sides of a batch's pairs, as the teacher reads them. E of them, in the order of their pairs."""

    documents_E: np.ndarray
    """Which documents they are."""
    texts: Texts
    """In the teacher's pieces; without targets."""
    own_words_W: np.ndarray
    """Where matched words begin, as places in the tokens of the batch's documents, ascending."""
    words_W: np.ndarray
    """Where the same words begin in `texts`."""


@dataclass(frozen=True)
class TeacherText:
    """Turns English sides into a teacher's pieces. Safe to share between threads."""

    own: Tokenizer
    """Ours, by which pieces become text."""
    theirs: Tokenizer
    special: SpecialIds
    """The teacher's."""
    pieces: WordPieces | None
    """Where words begin in the teacher's pieces; None when no objective asks for words."""
    english: int
    """Index of the language."""
    width: int
    """Most tokens of a side, special ones included."""

    @classmethod
    def of(cls, recipe: Recipe) -> TeacherText | None:
        """That of a recipe's teacher; None where it reads our pieces.

        Raises:
            ConfigError: the teacher has no fast tokenizer.
            DataError: there is no tokenizer of ours, or words do not show in the teacher's pieces.
        """
        if not reads_text(recipe):
            return None
        assert recipe.teacher is not None
        source, own = newest_export(recipe.teacher.path or recipe.teacher.trimmed), recipe.data.folder / "tokenizer"
        if not (source / "tokenizer.json").is_file():
            raise ConfigError(f"{source}: no tokenizer.json, and the teacher reads text of its own: save its tokenizer")
        facts, words = TokenizerFacts.read(source), recipe.objectives.align_words
        asked = words is not None and words.form == "index"
        return cls(
            own=Tokenizer.from_file(str(own / "tokenizer.json")),
            theirs=_plain(source),
            special=facts.special,
            pieces=WordPieces.read(source, vocabulary_size=facts.vocabulary_size) if asked else None,
            english=recipe.languages.index(PIVOT),
            width=min(recipe.data.max_sequence_tokens, _positions(source)),
        )

    def read(self, documents: Documents, *, own_spans: np.ndarray) -> EnglishSides:
        """The English sides of some documents.

        Args:
            documents: with their pairs.
            own_spans: where words begin and end in the tokens of all documents, one after the other, ascending [W, 2].
        """
        chosen_E = english_sides(documents.language, documents.pairs, english=self.english)
        ids = [documents.texts[d][1:-1].tolist() for d in chosen_E.tolist()]
        texts = self.own.decode_batch(ids)
        theirs = self.theirs.encode_batch(texts, add_special_tokens=False)
        rows = [[self.special.cls, *one.ids[: self.width - 2], self.special.sep] for one in theirs]
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        ids_T = np.array([piece for row in rows for piece in row], dtype=np.int64)
        places_T = np.arange(len(ids_T)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        sides = Texts(ids_T, places_T, lengths, NOBODY, NOBODY)
        if self.pieces is None:
            return EnglishSides(chosen_E, sides, NOBODY, NOBODY)
        own = self.own.encode_batch(texts, add_special_tokens=False)
        whole = [encoding if encoding.ids == row else None for encoding, row in zip(own, ids, strict=True)]
        all_lengths = np.array([len(text) for text in documents.texts])
        ours = _beginnings(own_spans, all_lengths, chosen_E, whole, texts)
        spans = np.stack(word_spans(ids_T, lengths, pieces=self.pieces, special=self.special), axis=1)
        others = _beginnings(spans, lengths, np.arange(len(rows)), theirs, texts)
        both = [(place, others[key]) for key, place in ours.items() if key in others]
        matched = np.array(both, dtype=np.int64).reshape(-1, 2)
        return EnglishSides(chosen_E, sides, matched[:, 0], matched[:, 1])


def english_sides(language: np.ndarray, pairs: np.ndarray, *, english: int) -> np.ndarray:
    """The document of each pair that is in English, [E]; the second one where both are."""
    is_english_P2 = language[pairs] == english
    return np.where(is_english_P2[:, 1], pairs[:, 1], pairs[:, 0])[is_english_P2.any(axis=1)]


def _beginnings(
    spans: np.ndarray,
    lengths: np.ndarray,
    chosen_E: np.ndarray,
    encodings: Sequence[Encoding | None],
    texts: Sequence[str],
) -> dict[tuple[int, int, bool, int], int]:
    """(text, character, whether it is white space alone, how many were there before) of words: their places, ascending.

    Args:
        spans: places of words in the tokens of all documents, ascending: the first piece, and after the last one.
        lengths: tokens of each document, with the first and the last special one.
        chosen_E: the documents of the texts.
        encodings: of the texts, in the documents' pieces; None where these are not the document's.
        texts: that were encoded.
    """
    ends = np.cumsum(lengths)
    found: dict[tuple[int, int, bool, int], int] = {}
    for number, (document, encoding) in enumerate(zip(chosen_E.tolist(), encodings, strict=True)):
        if encoding is None:
            continue
        first, text = int(ends[document] - lengths[document]), texts[number]
        low, high = np.searchsorted(spans[:, 0], [first, int(ends[document])])
        for place, after in spans[low:high].tolist():
            # The first token is special. Some tokenizers count the space before a word, or make it a piece of the word.
            begin, end = encoding.offsets[place - first - 1][0], encoding.offsets[after - first - 2][1]
            word = text[begin:end]
            key = (number, end - len(word.lstrip()), not word.strip())
            # Of one character several words can come: `…` as three dots.
            found[*key, next(copy for copy in count() if (*key, copy) not in found)] = place
    return found


def _plain(folder: Path) -> Tokenizer:
    """The tokenizer of a folder, without the cutting and padding that it may have been saved with."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _positions(folder: Path) -> int:
    """Tokens that a model can read; RoBERTa's kind counts positions from its padding's id + 1."""
    tree = _configuration(folder)
    shift = tree.get("pad_token_id", 0) + 1 if "roberta" in tree.get("model_type", "") else 0
    return tree.get("max_position_embeddings", 1 << 20) - shift
