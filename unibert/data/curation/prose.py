"""Is a cleaned line text in its language's script? The rules by which a line is dropped, in the order of their cost."""

from __future__ import annotations

import string

import regex

from unibert.data.curation import scripts
from unibert.data.curation.markup import has_markup
from unibert.data.curation.unicode import is_broken
from unibert.data.sources.base import MAXIMUM_CHARACTERS, minimum_characters

RULES = 4
"""Raised when a rule of a line changes (here, in unicode.py or markup.py), so that old text is cleaned again."""
MINIMUM_WORDS = 3
MINIMUM_LETTERS = 0.75
"""Least share of letters, marks and spaces; 0.6 in dense scripts, where the same punctuation weighs more."""
MINIMUM_LETTERS_DENSE = 0.6
MINIMUM_OWN_SCRIPT = 0.5
"""Least share of the letters that is in the language's own script."""

_LETTERS = regex.compile(r"\p{L}")
_NOT_PROSE = regex.compile(r"[^\p{L}\p{M} ]")
_ASCII_PROSE = (string.ascii_letters + " ").encode()


def reason_to_drop(text: str, language: str) -> str | None:
    """Why a cleaned text is not used; None when it is fine.

    `length`: too short or long; `markup`: remains of markup, placeholders or code; `broken`: a replacement character,
    or a combining mark without a letter before it; `words`: too few; `letters`: too few letters among its characters;
    `script`: its letters are mostly of another script than the language's.
    """
    if not minimum_characters(language) <= len(text) <= MAXIMUM_CHARACTERS:
        return "length"
    if has_markup(text):
        return "markup"
    if is_broken(text):
        return "broken"
    if scripts.has_words(language) and text.count(" ") < MINIMUM_WORDS - 1:
        return "words"
    prose = 1 - _not_prose(text) / len(text)
    if prose < (MINIMUM_LETTERS_DENSE if scripts.is_dense(language) else MINIMUM_LETTERS):
        return "letters"
    others = len(scripts.foreign_letters(language).findall(text))
    if others and others > (1 - MINIMUM_OWN_SCRIPT) * len(_LETTERS.findall(text)):
        return "script"
    return None


def _not_prose(text: str) -> int:
    """Characters that are no letter, mark or space."""
    if text.isascii():
        return len(text.encode().translate(None, _ASCII_PROSE))
    return len(_NOT_PROSE.findall(text))
