"""Word dictionaries in use: which words of a translation pair's two sides are each other's translation. No torch."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from unibert.data.mixture import Documents
from unibert.errors import DataError
from unibert.schema import Recipe

CACHED_WORDS = 1 << 17


class Dictionaries:
    """The dictionaries of a data folder (<folder>/dictionaries/<a>-<b>.tsv, by `unibert data pairs`).

    Args:
        words: (language index, language index) -> word -> its translations, both lower case.
        tokenizer: turns a word's pieces back into text.
    """

    def __init__(self, words: Mapping[tuple[int, int], Mapping[str, set[str]]], *, tokenizer: Tokenizer) -> None:
        self.words = words
        self._text = lru_cache(maxsize=CACHED_WORDS)(lambda ids: tokenizer.decode(list(ids)).strip().lower())

    @classmethod
    def read(cls, recipe: Recipe) -> Dictionaries:
        """Of a recipe's data folder, both ways.

        Raises:
            DataError: there is none between two of the recipe's languages, or no tokenizer.
        """
        folder, place = recipe.data.folder / "dictionaries", {code: i for i, code in enumerate(recipe.languages)}
        words: dict[tuple[int, int], dict[str, set[str]]] = {}
        for path in sorted(folder.glob("*.tsv")):
            codes = _languages(path, place)
            if codes is None:
                continue
            there, back = (words.setdefault(key, defaultdict(set)) for key in (codes, (codes[1], codes[0])))
            for line in path.read_text(encoding="utf-8").splitlines():
                a, _, b = line.lower().partition("\t")
                there[a].add(b)
                back[b].add(a)
        if not words:
            raise DataError(
                f"{folder}: no dictionary between two of the recipe's languages, and [objectives.align_words] form = "
                "dictionary needs one: add a [[data.parallel]] of kind muse or freedict, then unibert data pairs RECIPE"
            )
        tokenizer = recipe.data.folder / "tokenizer" / "tokenizer.json"
        if not tokenizer.is_file():
            raise DataError(f"{tokenizer}: no such file; run: unibert data tokenize RECIPE")
        return cls(words, tokenizer=Tokenizer.from_file(str(tokenizer)))

    def matches(self, documents: Documents, ids_T: np.ndarray, *, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Words that translate each other and nothing else of the pair, int64 [N, 2] indices of words.

        Args:
            documents: with their pairs.
            ids_T: tokens of all documents, one after the other.
            starts: place in T of each word's first piece, ascending, [W].
            ends: place in T after its last one, [W].
        """
        stops = np.cumsum([len(text) for text in documents.texts])
        word_stops = np.searchsorted(starts, stops).tolist()
        found: list[tuple[int, int]] = []
        for a, b in documents.pairs.tolist():
            known = self.words.get((int(documents.language[a]), int(documents.language[b])))
            if known is None:
                continue
            ranges = [range(word_stops[d - 1] if d else 0, word_stops[d]) for d in (a, b)]
            texts = [[self._text(tuple(ids_T[starts[w] : ends[w]].tolist())) for w in words] for words in ranges]
            found += [(ranges[0][i], ranges[1][j]) for i, j in _unambiguous(*texts, known=known)]
        return np.array(found, dtype=np.int64).reshape(-1, 2)


def _languages(path: Path, place: Mapping[str, int]) -> tuple[int, int] | None:
    """The language indices of `<a>-<b>.tsv`, whatever hyphens the codes have; None where one is not the recipe's."""
    parts = path.stem.split("-")
    for cut in range(1, len(parts)):
        a, b = "-".join(parts[:cut]), "-".join(parts[cut:])
        if a in place and b in place:
            return place[a], place[b]
    return None


def _unambiguous(
    first: Sequence[str], second: Sequence[str], *, known: Mapping[str, set[str]]
) -> list[tuple[int, int]]:
    """(i, j) where word i of the first text translates word j of the second, and neither any other one."""
    place: dict[str, list[int]] = defaultdict(list)
    for j, word in enumerate(second):
        place[word].append(j)
    found = [(i, other) for i, word in enumerate(first) for other in sorted(known.get(word, ()))]
    both = [(i, j) for i, other in found for j in place.get(other, ())]
    times_i, times_j = Counter(i for i, _ in both), Counter(j for _, j in both)
    return [(i, j) for i, j in both if times_i[i] == times_j[j] == 1]
