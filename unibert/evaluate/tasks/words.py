"""Translating words: dictionaries with a word and its translation a line, as MUSE's and `unibert data pairs` write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from unibert.errors import DataError
from unibert.evaluate.tasks.base import ENGLISH, Example, Measured, Task, text_of
from unibert.evaluate.tasks.names import FileName


@dataclass(frozen=True)
class Word(Example):
    """A word and all its English translations."""

    word: str
    translations: tuple[str, ...]


class WordTranslation(Task):
    """Precision at 1 of the nearest word by cosine, among all words of the dictionary's other side.

    A word is read alone, as a sentence of one word. A prediction is (is the nearest English word one of the
    translations, share of its translations whose own nearest word has them as a translation).
    """

    name = "word_translation"
    sets = ("words", "dictionaries", "muse")
    head = "none"
    metric = "to_english"

    def read_file(self, name: FileName) -> Iterator[tuple[str, Word]]:
        if len(name.languages) != 2 or ENGLISH not in name.languages:
            raise DataError(f"{name.path}: its name must say English and another language, as en-de.tsv")
        english_first = name.languages[0] == ENGLISH
        code = name.languages[english_first]
        found: dict[str, list[str]] = {}
        for line, row in enumerate(text_of(name.path).split("\n"), 1):
            if not row.strip():
                continue
            sides = [side.strip() for side in (row.split("\t") if "\t" in row else row.split())]
            if len(sides) != 2 or not all(sides):
                raise DataError(f"{name.path}:{line}: {row!r}; write a word, a tab or a space, and its translation")
            found.setdefault(sides[english_first], []).append(sides[not english_first])
        for word, translations in found.items():
            yield code, Word(f"{code}:{word}", word, word, tuple(dict.fromkeys(translations)))

    def measure(
        self, examples: Sequence[Word], predictions: Sequence[Sequence[float]], *, of: str, language: str
    ) -> dict[str, Measured]:
        hits_N2 = np.asarray(predictions, float)
        return {name: Measured("mean", hits_N2[:, i : i + 1]) for i, name in enumerate(("to_english", "from_english"))}
