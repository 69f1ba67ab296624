"""Remains of markup, placeholders and code, told from prose with the same signs: "$400 million", "[sic]", "100%ig"."""

from __future__ import annotations

import regex

_LARGE = (
    r"(?i:thousand|mill?i[oa]\w*|bill?i[oa]\w*|trill?i[oa]\w*|mil|bn|triệu|tỷ"
    r"|тыс|млн|млрд|милл?ион\w*|милл?иард\w*|мільйон\w*|мільярд\w*)\b"
)
_WORD = r"\p{Lu}?[\p{Ll}\p{Lo}\p{M}]+"
_INSERTED = rf"(?:\.\.\.|…|{_WORD}(?:[ '’-]{_WORD}){{0,5}})"  # what a writer puts between brackets
_MARKUP = regex.compile(
    r"[{}<>|\\]"  # templates, tags, tables, escapes
    # Links, options, sections of a file. Looking back after the sign lets the search go by first characters.
    rf"|\[(?:(?<=\A.)|(?!{_INSERTED}\]))|\](?:(?<!\[{_INSERTED}\])|\()"
    # A placeholder is a name or one figure; an amount has more figures, or says that it is large.
    rf"|\$(?!\d)\w|\$\d(?!\d|[.,]\d| ?{_LARGE})"
    r"|%(?<!\d%)[\d$(]*[sdSDnifu@]|%\w+%|&\w+;|__\w+__"  # placeholders and entities
    r"|https?:|www\.|\(\)|\.(?:php|js|json|html|css|ini)\b|''|~~~"  # addresses, code, wiki quotes
)


def has_markup(text: str) -> bool:
    """True when something in the text is no prose but markup, a placeholder, an address or code."""
    return _MARKUP.search(text) is not None
