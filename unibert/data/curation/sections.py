"""What of a document is no running text: headings, sections of references and links, lists; and documents without much.

Works on the paragraphs of a plain-text article (`wikimedia/wikipedia`, a crawl) in any language. There, headings are
short lines without a full stop and have no levels, and lists have lost their marks. So a paragraph is told by how it
ends and how long it is, and by what stands around it. A document that does not end its longer paragraphs with a stop
(Thai never does, verses seldom) is told by length alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import regex

from unibert.data.curation import scripts
from unibert.data.sources import wiki_words

SHORT, SHORT_DENSE = 80, 25
"""Characters: a heading or an item of a list is no longer; without a stop, only from twice as many is it text."""
SHORTEST_LIST = 3
"""Unfinished lines in a row that are a list; fewer are headings when text follows."""
STUB, STUB_DENSE = 300, 100
"""Characters of running text below which a document is a stub."""
RESUMES, RESUMES_DENSE = 200, 70
"""Characters of text without citations that end a section of references."""

_AFTER = r"(?:[\p{Pe}\p{Pf}\p{Pi}\"'’ ]|\[\d+\])*$"
_STOP = regex.compile(rf"[.!?…。！？．।॥۔؟։።៕។။]{_AFTER}")
_PAUSE = regex.compile(rf"[,;:،؛，；：、՝፣፤]{_AFTER}")  # a long line that ends so goes on in the next: verse, law
_ITEM = regex.compile(r"(?:[•◦▪‣*·–—-]|\d{1,3}[.)])\s")
_CITATION = regex.compile(
    r"\bISBN|\bISSN|\bdoi\b|https?:|www\.|\(\d{4}[a-z]?\)|\b(?:pp?|S|vol|стр?|т)\. ?\d|, \d{4}\.$|№ ?\d", regex.I
)
_DIGIT, _LETTER = regex.compile(r"\p{N}"), regex.compile(r"\p{L}")


class _Sizes(NamedTuple):
    short: int
    stub: int
    resumes: int


def judge(paragraphs: Sequence[str], language: str) -> list[str | None]:
    """Why each paragraph of a document is dropped, in its order; None for running text.

    `heading`; `section`: below a heading of references, links, galleries and their like; `list`: lines that are not
    sentences, three in a row or more or the document's last, and lines of figures and dates; `stub`: running text of
    a document that has less than STUB characters of it.
    """
    sizes = (
        _Sizes(SHORT_DENSE, STUB_DENSE, RESUMES_DENSE) if scripts.is_dense(language) else _Sizes(SHORT, STUB, RESUMES)
    )
    names = wiki_words.dropped_sections(language)
    titles = [_title(text) in names if len(text) <= sizes.short else False for text in paragraphs]
    reasons = _lines(paragraphs, titles, sizes)
    _mark_sections(reasons, paragraphs, titles, sizes)
    left = sum(len(text) for text, reason in zip(paragraphs, reasons, strict=True) if reason is None)
    if left < sizes.stub:
        return [reason or "stub" for reason in reasons]
    return reasons


def _title(text: str) -> str:
    return " ".join(text.split()).strip(" :=.–-").casefold()


def _lines(paragraphs: Sequence[str], titles: Sequence[bool], sizes: _Sizes) -> list[str | None]:
    """`heading`, `list` or None for each paragraph by its form and its neighbours'."""
    long = [text for text in paragraphs if len(text) > sizes.short]
    stops = sum(_STOP.search(text) is not None for text in long) * 2 >= len(long)
    text = [_is_text(text, sizes, stops=stops) and not title for text, title in zip(paragraphs, titles, strict=True)]
    reasons: list[str | None] = [None] * len(paragraphs)
    for start, end in _runs(text):
        is_list = end - start >= SHORTEST_LIST
        for at in range(start, end):
            is_short = len(paragraphs[at]) <= sizes.short
            if titles[at] or (is_short and end < len(text) and (at == end - 1 or not is_list)):
                reasons[at] = "heading" if titles[at] or not _is_figures(paragraphs[at]) else "list"
            elif is_list or is_short:
                reasons[at] = "list"
    return reasons


def _runs(text: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """(start, end) of each longest row of paragraphs that are no text."""
    at = 0
    for is_text, group in itertools.groupby(text):
        size = len(list(group))
        if not is_text:
            yield at, at + size
        at += size


def _is_text(text: str, sizes: _Sizes, *, stops: bool) -> bool:
    """Whether a paragraph is a sentence or more by its form alone."""
    if _is_figures(text):
        return False
    if not stops:
        return len(text) * 2 > sizes.short
    if len(text) > 2 * sizes.short:
        return True
    if len(text) > sizes.short and _PAUSE.search(text):
        return True
    return _STOP.search(text) is not None and _ITEM.match(text) is None


def _is_figures(text: str) -> bool:
    digits = len(_DIGIT.findall(text))
    return digits > 2 and len(_LETTER.findall(text)) < 1.5 * digits


def _mark_sections(reasons: list[str | None], paragraphs: Sequence[str], titles: Sequence[bool], sizes: _Sizes) -> None:
    """Mark what is below the headings of dropped sections, up to a heading with text that is none of them."""
    starts = [at for at, reason in enumerate(reasons) if reason == "heading"]
    dropped = False
    for start, end in itertools.pairwise([*starts, len(reasons)]):
        if titles[start] or dropped:
            dropped = not _resumes(paragraphs[start + 1 : end], sizes)
        if dropped:
            reasons[start + 1 : end] = ["section"] * (end - start - 1)


def _resumes(body: Sequence[str], sizes: _Sizes) -> bool:
    """Whether the body of a section is text that no list of references or links has."""
    prose = [
        text
        for text in body
        if len(text) > sizes.short
        and _STOP.search(text)
        and not _CITATION.search(text)
        and len(_DIGIT.findall(text)) < 0.05 * len(text)
    ]
    size = sum(map(len, prose))
    return size >= sizes.resumes and 2 * size >= sum(map(len, body))
