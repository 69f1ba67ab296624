"""What curation has to know of scripts: how much a character says, whether words are spaced, which letters are own."""

from __future__ import annotations

from functools import cache

import regex

from unibert.data.sources.base import DENSE_SCRIPTS
from unibert.languages import script_of

WITHOUT_SPACES = frozenset({"Thai", "Khmr", "Mymr"})
"""Scripts of letters whose words are not spaced."""

_LETTERS = {
    "Arab": r"\p{Arabic}",
    "Armn": r"\p{Armenian}",
    "Beng": r"\p{Bengali}",
    "Cyrl": r"\p{Cyrillic}",
    "Deva": r"\p{Devanagari}",
    "Ethi": r"\p{Ethiopic}",
    "Geor": r"\p{Georgian}",
    "Grek": r"\p{Greek}",
    "Gujr": r"\p{Gujarati}",
    "Guru": r"\p{Gurmukhi}",
    "Hans": r"\p{Han}",
    "Hant": r"\p{Han}\p{Bopomofo}",
    "Hebr": r"\p{Hebrew}",
    "Jpan": r"\p{Han}\p{Hiragana}\p{Katakana}ー",
    "Khmr": r"\p{Khmer}",
    "Knda": r"\p{Kannada}",
    "Kore": r"\p{Hangul}\p{Han}",
    "Latn": r"\p{Latin}",
    "Mlym": r"\p{Malayalam}",
    "Mymr": r"\p{Myanmar}",
    "Sinh": r"\p{Sinhala}",
    "Taml": r"\p{Tamil}",
    "Telu": r"\p{Telugu}",
    "Thai": r"\p{Thai}",
}


def is_dense(language: str) -> bool:
    """True where a character is a syllable or a word."""
    return script_of(language) in DENSE_SCRIPTS


def has_words(language: str) -> bool:
    """True where words can be counted by their spaces; Korean's can, but are too few and long to count on."""
    return not is_dense(language) and script_of(language) not in WITHOUT_SPACES


@cache
def foreign_letters(language: str) -> regex.Pattern[str]:
    """Matches each letter that is not of the language's script."""
    return regex.compile(rf"[^{_LETTERS[script_of(language)]}\P{{L}}]")
