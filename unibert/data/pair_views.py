"""What objectives on translation pairs read besides the two sides: both as one text, and where words begin. No torch.

Everything is a pure function of (seed, pair, epoch), as the masks are. Legend: P pairs, T tokens, M masked targets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from unibert.data.dictionaries import Dictionaries
from unibert.data.foreign import TeacherText
from unibert.data.mixture import Documents
from unibert.data.sampler import combine, hash64
from unibert.data.shards import ShardSet
from unibert.data.texts import Texts
from unibert.data.words import WordPieces
from unibert.objective_tables import TranslationLM
from unibert.schema import Recipe

_ORDER, _JOINED = 5, 6  # what a pair's random bits are for, so that they differ from those of its documents' masks

Mask = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""From (ids [T], lengths, ids of the documents, epochs) to what `mask_many` gives."""


@dataclass(frozen=True)
class PairViews:
    """Which views of its pairs a recipe's objectives ask for."""

    joined: TranslationLM | None
    """How both sides are made one text; None when nobody reads it."""
    pieces: WordPieces | None
    """Where words begin; None when no objective is about words."""
    dictionaries: Dictionaries | None
    """Words that are each other's translation; None when no objective asks for them."""
    foreign: TeacherText | None = None
    """How the teacher reads the English sides; None when it reads our pieces, or nothing."""

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
        dictionaries = Dictionaries.read(recipe) if by_dictionary else None
        return cls(recipe.joined, pieces, dictionaries, TeacherText.of(recipe))


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
