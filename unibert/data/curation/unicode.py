"""One form of Unicode for every text: composed, visible, single spaces."""

from __future__ import annotations

import unicodedata

import regex

# Zero-width (non-)joiners shape letters in Persian and Indic scripts; every other invisible character goes.
_INVISIBLE = regex.compile(r"[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Cn}--[\u200c\u200d\s]]", regex.V1)
_BEFORE, _AFTER = " *#:;=•·|/-", " *#=•·|/"  # marks of lists and headings
_BROKEN = regex.compile(r"(?<![\p{L}\p{M}\p{N}\u200c\u200d])\p{M}|\ufffd")


def clean_text(text: str) -> str:
    """NFC; no control, directional, private or unassigned characters; single spaces; no list marks at the ends."""
    text = unicodedata.normalize("NFC", text)
    if not text.isprintable():  # true of the few texts with anything invisible besides the space
        text = _INVISIBLE.sub("", text)
    return " ".join(text.split()).lstrip(_BEFORE).rstrip(_AFTER)


def is_broken(text: str) -> bool:
    """True with a replacement character, or a combining mark without a letter before it."""
    return _BROKEN.search(text) is not None
