"""Named entities as spans: the span F1 of IOB2 tags, as seqeval counts it.

A span is (type, first, last) of a sentence; it is right when all three are. Two readings of tags that break the scheme
(I- after O, or after another type), which a tagger is free to write:
- default, as seqeval's default and the CoNLL script: such an I- begins a span;
- strict, as seqeval's mode="strict" with IOB2: it belongs to none, and a span begins with B- alone.
They agree on tags that keep to the scheme. The score is micro-averaged: of the sums over all sentences.
"""

from __future__ import annotations

from collections.abc import Sequence

Span = tuple[str, int, int]
"""Type, first and last token."""


def spans(tags: Sequence[str], *, strict: bool = False) -> set[Span]:
    """The spans of a sentence's tags `O`, `B-TYPE` and `I-TYPE`; of a tag without a type it is "_"."""
    found: set[Span] = set()
    begin, inside = -1, None  # of the span that is open
    for place, tag in enumerate([*tags, "O"]):
        kind = None if tag == "O" else tag[2:] or "_"
        if inside is not None and (tag[0] != "I" or kind != inside):
            found.add((inside, begin, place - 1))
            inside = None
        if inside is None and kind is not None and (tag[0] == "B" or not strict):
            begin, inside = place, kind
    return found


def span_counts(predicted: Sequence[str], gold: Sequence[str], *, strict: bool = False) -> tuple[int, int, int]:
    """(right, predicted, gold) numbers of spans in a sentence: the row it leaves for the score `f1`."""
    ours, theirs = spans(predicted, strict=strict), spans(gold, strict=strict)
    return len(ours & theirs), len(ours), len(theirs)
