"""Named entities: CoNLL columns (word first, tag last, blank line after a sentence), WikiANN/PAN-X, MasakhaNER.

Tags are IOB2; a file in IOB1, where a span begins with I- unless it touches one of its type, is read as IOB2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from unibert.errors import DataError
from unibert.evaluate.scorers.spans import span_counts
from unibert.evaluate.tasks.base import Example, Measured, Task, require_language, text_of
from unibert.evaluate.tasks.names import FileName

_TAG = re.compile(r"O|[BI]-\S+")


@dataclass(frozen=True)
class Sentence(Example):
    """Words and their tags."""

    words: tuple[str, ...]
    tags: tuple[str, ...]


class Ner(Task):
    """Span F1 of named entities, micro-averaged (seqeval's default; `strict_f1` is its strict mode for IOB2)."""

    name = "ner"
    sets = ("ner", "wikiann", "panx", "masakhaner", "conll")
    head = "tokens"
    metric = "f1"
    parallel = False  # sentences are numbered, and those of another language are other sentences

    def read_file(self, name: FileName) -> Iterator[tuple[str, Sentence]]:
        language, sentences = require_language(name), list(_sentences(name))
        is_iob1 = _is_iob1([tags for _, tags in sentences])
        for count, (words, tags) in enumerate(sentences):
            yield language, Sentence(str(count), str(count), words, as_iob2(tags) if is_iob1 else tags)

    def measure(
        self, examples: Sequence[Sentence], predictions: Sequence[Sequence[str]], *, of: str, language: str
    ) -> dict[str, Measured]:
        found = {}
        for metric, strict in (("f1", False), ("strict_f1", True)):
            pairs = zip(predictions, examples, strict=True)
            rows = [span_counts(predicted, example.tags, strict=strict) for predicted, example in pairs]
            found[metric] = Measured("f1", np.array(rows, float))
        return found

    def labels(self, examples: Sequence[Sentence]) -> list[str]:
        return sorted({tag for example in examples for tag in example.tags} | {"O"})


def _sentences(name: FileName) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """(words, tags) of each sentence."""
    words: list[str] = []
    tags: list[str] = []
    for number, line in enumerate([*text_of(name.path).split("\n"), ""], 1):
        if line.strip() and not line.startswith("-DOCSTART-"):
            word, tag = _columns(name, number, line.rstrip("\r"))
            words.append(word)
            tags.append(tag)
        elif words:
            yield tuple(words), tuple(tags)
            words, tags = [], []


def _is_iob1(sentences: Sequence[Sequence[str]]) -> bool:
    """Whether more spans begin with I- than with B-; not those right after a span of their type, B- in both schemes.

    A few broken tags in a file of IOB2 stay as they are: published scores are of them.
    """
    begun = {"B": 0, "I": 0, "O": 0}
    for tags in sentences:
        for before, tag in pairwise(("O", *tags)):
            begun[tag[0]] += before[1:] != tag[1:]
    return begun["I"] > begun["B"]


def as_iob2(tags: Sequence[str]) -> tuple[str, ...]:
    """The same spans with a B- at the beginning of each."""
    return tuple(
        f"B{tag[1:]}" if tag[0] == "I" and before[1:] != tag[1:] else tag for before, tag in pairwise(("O", *tags))
    )


def _columns(name: FileName, number: int, line: str) -> tuple[str, str]:
    """Word and tag; PAN-X writes its language before each word ("en:word")."""
    columns = line.split("\t") if "\t" in line else line.split(" ")
    if len(columns) < 2 and name.split == "unlabelled":
        columns.append("O")
    if len(columns) < 2:
        raise DataError(f"{name.path}:{number}: one column, {line!r}; write the word, a tab or a space, and its tag")
    word, tag = columns[0], columns[-1].strip()
    if not _TAG.fullmatch(tag):
        raise DataError(f"{name.path}:{number}: {tag!r} is not an IOB2 tag; write O, B-TYPE or I-TYPE")
    before, colon, after = word.partition(":")
    return (after if colon and after and before in name.path.parts[-2:] else word), tag
