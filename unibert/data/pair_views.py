"""What objectives on translation pairs read besides the two sides: both as one text, and where words begin. No torch.

Everything is a pure function of (seed, pair, epoch), as the masks are. Legend: P pairs, T tokens, M masked targets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from unibert.data.dictionaries import Dictionaries
from unibert.data.mixture import Documents
from unibert.data.sampler import combine, hash64
from unibert.data.shard_format import SpecialIds
from unibert.data.shards import ShardSet
from unibert.data.words import WordPieces, words_of
from unibert.objective_tables import TranslationLM
from unibert.schema import Recipe

_ORDER, _JOINED = 5, 6  # what a pair's random bits are for, so that they differ from those of its documents' masks

Mask = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""From (ids [T], lengths, ids of the documents, epochs) to what `mask_many` gives."""


@dataclass(frozen=True)
class Texts:
    """Masked documents, one after the other."""

    shown: np.ndarray
    """Ids as the model sees them, [T]."""
    places: np.ndarray
    """Position of each token, [T]."""
    lengths: np.ndarray
    """Tokens of each document."""
    targets: np.ndarray
    """Masked places, ascending in T, [M]."""
    target_ids: np.ndarray
    """The ids that were there, [M]."""


@dataclass(frozen=True)
class PairViews:
    """Which views of its pairs a recipe's objectives ask for."""

    joined: TranslationLM | None
    """How both sides are made one text; None when nobody reads it."""
    pieces: WordPieces | None
    """Where words begin; None when no objective is about words."""
    dictionaries: Dictionaries | None
    """Words that are each other's translation; None when no objective asks for them."""

    @classmethod
    def of(cls, recipe: Recipe, shards: ShardSet) -> PairViews | None:
        """Those of a recipe; None when it has no pairs.

        Raises:
            DataError: the tokenizer does not show where words begin, or there are no dictionaries.
        """
        if not recipe.data.parallel_ratio:
            return None
        words, tokenizer = recipe.objectives.align_words, recipe.data.folder / "tokenizer"
        pieces = WordPieces.read(tokenizer, vocabulary_size=shards.vocabulary_size) if words else None
        by_dictionary = words is not None and words.form == "dictionary"
        return cls(recipe.joined, pieces, Dictionaries.read(recipe) if by_dictionary else None)


def flipped(documents: Documents, *, seed: int) -> np.ndarray:
    """An even coin for each pair and epoch, bool [P]: where the order of its sides is random, the second goes first."""
    heads = documents.pairs[:, 0]
    return (hash64(seed, _ORDER, documents.ids[heads], documents.epoch[heads]) & np.uint64(1)).astype(bool)


def join(documents: Documents, *, form: TranslationLM, flips: np.ndarray, mask: Mask) -> tuple[Texts, np.ndarray]:
    """Both sides of each pair as one text, in BERT's form: cls, one side, sep, the other side, sep.

    Each side has masks of its own, as many as it would have alone, but other ones.

    Returns:
        (the texts; int64 [P, 2]: what to add to a token's place in each side to get its place in the joined text).
    """
    sides = np.where((flips & form.shuffle_order)[:, None], documents.pairs[:, ::-1], documents.pairs)
    order = sides.ravel()
    lengths = np.array([len(documents.texts[d]) for d in order.tolist()], dtype=np.int64)
    ids_T = np.concatenate([documents.texts[d] for d in order.tolist()] or [np.empty(0, dtype=np.int64)])
    own = combine(documents.ids[order], np.full(len(order), _JOINED, dtype=np.uint64))
    shown_T, targets_M, target_ids_M = mask(ids_T, lengths, own, documents.epoch[order])
    starts = np.cumsum(lengths) - lengths
    kept_T = np.ones(len(ids_T), dtype=bool)
    kept_T[starts[1::2]] = False  # the second side's cls
    first_P, both_P = lengths[::2], lengths[::2] + lengths[1::2] - 1
    own_places = np.arange(len(ids_T)) - np.repeat(starts, lengths)  # as in the side alone
    shift = np.stack([np.zeros_like(first_P), first_P - 1], axis=1)
    places_T = own_places if form.reset_positions else own_places + np.repeat(shift.ravel(), lengths)
    texts = Texts(shown_T[kept_T], places_T[kept_T], both_P, (np.cumsum(kept_T) - 1)[targets_M], target_ids_M)
    return texts, np.where((sides == documents.pairs), shift, shift[:, ::-1])


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
