"""Which pieces of a vocabulary begin and end words, for whole-word masking. No torch here.

A word is a run of pieces begun by one that the tokenizer marks: with a leading ▁ (SentencePiece, Metaspace) or Ġ
(byte-level BPE), or without the leading ## of the others (WordPiece). As in BERT's own pre-tokenizer, a piece of
punctuation alone is a word, and so is each piece with a character of a script that is written without spaces (Chinese,
Japanese, Thai, Lao, Khmer, Burmese, Tibetan, ...), where such a run would be a whole sentence. It is the piece that
decides, not the language, so that a Chinese name in an English text is no exception.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unibert.data.shard_format import SpecialIds
from unibert.errors import DataError

MAX_PIECES = 10
"""A run of more pieces is no word (a sentence in a script this module cannot see, an address): a piece is one then."""
# Unicode blocks of scripts without spaces: Thai, Lao, Tibetan; Myanmar; Khmer; Tai Le to Khmer symbols; Tai Tham;
# radicals, kana, bopomofo and Han (Hangul's letters, 3130 to 318F, are not among them), Yi; Javanese to Myanmar; Han.
NO_SPACES = "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u2e80-\u312f"
NO_SPACES += "\u3190-\ua4cf\ua9e0-\ua9ff\uaa60-\uaa7f\uf900-\ufaff\U0001b000-\U0001b16f\U00020000-\U0003ffff"
UNSPACED = re.compile(f"[{NO_SPACES}]")


@dataclass(frozen=True)
class WordPieces:
    """What each piece of a vocabulary does to words."""

    begins: np.ndarray
    """bool [V]: a word begins with it."""
    ends: np.ndarray
    """bool [V]: no word goes on after it."""

    @classmethod
    def read(cls, folder: Path, *, vocabulary_size: int) -> WordPieces:
        """Of the Hugging Face tokenizer in `folder`.

        Raises:
            DataError: there is none, it is damaged, or its pieces do not show where words begin.
        """
        path = folder / "tokenizer.json"
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            vocabulary = tree["model"]["vocab"]
            is_list = isinstance(vocabulary, list)  # Unigram's, with scores
            numbers = {piece: i for i, (piece, _) in enumerate(vocabulary)} if is_list else dict(vocabulary)
            split = _splitter(tree, numbers)
        except FileNotFoundError:
            raise DataError(f'{path}: no such file; masking.unit = "word" needs the tokenizer of the shards') from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: not a tokenizer: {error!r}") from None
        if split is None:
            raise DataError(
                f'{path}: its pieces do not show where words begin (no ▁, Ġ or ##): take masking.unit = "token"'
            )
        begins, ends = np.zeros(vocabulary_size, dtype=bool), np.zeros(vocabulary_size, dtype=bool)
        for piece, number in numbers.items():
            marked, text = split(piece)
            alone = bool(text) and (_is_punctuation(text) or UNSPACED.search(text) is not None)
            begins[number], ends[number] = marked or alone, alone
        return cls(begins, ends)


def words_of(ids: np.ndarray, *, document: np.ndarray, place: np.ndarray, pieces: WordPieces) -> np.ndarray:
    """Number of the word that each token belongs to, ascending, int64 [C].

    Args:
        ids: of ordinary tokens, [C]; those that are special are left out.
        document: of each, [C], ascending.
        place: of each in its document, [C]; where one is left out, a word ends.
        pieces: of the vocabulary.
    """
    if not len(ids):
        return np.zeros(0, dtype=np.int64)
    starts = pieces.begins[ids]
    apart = (document[1:] != document[:-1]) | (place[1:] != place[:-1] + 1)
    starts[1:] |= pieces.ends[ids[:-1]] | apart
    starts[0] = True
    run = np.cumsum(starts) - 1
    starts |= np.bincount(run)[run] > MAX_PIECES
    return np.cumsum(starts) - 1


def word_spans(
    ids_T: np.ndarray, lengths: np.ndarray, *, pieces: WordPieces, special: SpecialIds
) -> tuple[np.ndarray, np.ndarray]:
    """Where the first piece of each word stands, and the place after its last one, ascending in T, int64 [W] each."""
    ordinary = np.flatnonzero(~np.isin(ids_T, list(special.all())))
    document = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(ids_T)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    word = words_of(ids_T[ordinary], document=document[ordinary], place=place[ordinary], pieces=pieces)
    first = np.flatnonzero(np.diff(word, prepend=-1))
    return ordinary[first], ordinary[np.append(first[1:], len(ordinary)) - 1] + 1 if len(first) else ordinary[:0]


def _splitter(tree: dict[str, Any], pieces: Iterable[str]) -> Callable[[str], tuple[bool, str]] | None:
    """A function from a piece to (whether it is marked as a word's first, its text); None when nothing is marked."""
    model = tree["model"]
    if model.get("type") == "WordPiece":
        inside = model.get("continuing_subword_prefix", "##")
        return lambda piece: (not piece.startswith(inside), piece.removeprefix(inside))
    if "ByteLevel" in _pre_tokenizers(tree.get("pre_tokenizer")):
        # A byte is shown as a letter; only what is ASCII can be judged by its text.
        return lambda piece: (piece.startswith("Ġ"), text if (text := piece.lstrip("Ġ")).isascii() else "")
    if any(piece.startswith("▁") for piece in pieces):
        return lambda piece: (piece.startswith("▁"), piece.lstrip("▁"))
    return None


def _pre_tokenizers(tree: dict[str, Any] | None) -> set[str]:
    inner = (tree or {}).get("pretokenizers", [])
    return {(tree or {}).get("type", "")}.union(*(_pre_tokenizers(one) for one in inner))


def _is_punctuation(text: str) -> bool:
    """Without letter, mark (a vowel sign is one) or number."""
    return not any(unicodedata.category(character)[0] in "LMN" for character in text)
