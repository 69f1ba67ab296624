"""Examples as rows that an encoder reads, with the places where a head looks and what it should say there.

A row is [cls] text [sep], or [cls] first [sep] second [sep]; segments are 0 and 1 where the model has segments. Every
head reads hidden states at `places` alone, so that all share one forward pass:
- tokens: the first piece of each word; the label of each;
- classes, value: the first token; the class, or the number;
- span, conversation: the first token ("no answer here") and then every token of the context; first and last of the
  answer, as indices into the places, 0 and 0 when the window does not hold it.

A context longer than a row is read in windows that overlap by `stride`. A conversation's window has several rows over
the same context: with the question, and with each past question and each past answer (Ohsugi et al. 2019).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from unibert.errors import DataError
from unibert.evaluate.finetune.settings import Settings
from unibert.evaluate.tasks.base import Head
from unibert.evaluate.tasks.ner import Sentence
from unibert.evaluate.tasks.nli import Pair
from unibert.evaluate.tasks.qa import Question

VALUE = 5.0
"""What numbers are divided by, so that a new head need not first learn their size; correlations do not see it."""


@dataclass(frozen=True)
class Row:
    """What the encoder reads at once; an empty one is no past turn."""

    ids: tuple[int, ...] = ()
    second: int = 0
    """Where the second segment begins; the row's length when there is none."""
    places: tuple[int, ...] = ()


@dataclass(frozen=True)
class Window:
    """One reading of one example."""

    example: int
    rows: tuple[Row, ...]
    targets: tuple[float, ...]
    """One a place (tokens), the class or the number alone, or the answer's first and last place."""
    marks: tuple[Any, ...] = ()
    """What the places are: numbers of words, or (first, last + 1) characters of the context, without the null."""


class Windows:
    """Makes windows with a model's tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_tokens: int, settings: Settings) -> None:
        """Keep what encoding needs; `max_tokens` is at most what the model can read.

        Raises:
            DataError: a tokenizer that does not say where its pieces are, or has no cls or sep.
        """
        if not tokenizer.is_fast:
            raise DataError("this model's tokenizer has no tokenizer.json, and answers need to know where pieces are")
        cls = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
        sep = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
        if cls is None or sep is None:
            raise DataError("this model's tokenizer has no cls or sep token, which every row begins and ends with")
        self._tokenizer, self._cls, self._sep = tokenizer, cls, sep
        self._max, self._settings = max_tokens, settings

    def of(self, examples: Sequence[Any], head: Head, *, labels: Sequence[str] = ()) -> list[Window]:
        """All windows of all examples, in their order."""
        make = {
            "tokens": self._tagged,
            "classes": self._pairs,
            "value": self._pairs,
            "span": self._questions,
            "conversation": self._questions,
        }[head]
        number = {label: i for i, label in enumerate(labels)}
        return [window for i, example in enumerate(examples) for window in make(i, example, head, number)]

    def _tagged(self, index: int, example: Sentence, head: Head, number: dict[str, int]) -> Iterator[Window]:
        pieces = self._tokenizer(list(example.words), is_split_into_words=True, add_special_tokens=False, verbose=False)
        words = pieces.word_ids()
        ids: list[int] = pieces["input_ids"]
        room, start = self._max - 2, 0
        while start < len(ids):
            stop = min(start + room, len(ids))
            while stop < len(ids) and words[stop] == words[stop - 1] and words[start] != words[stop]:
                stop -= 1  # a window ends where a word ends
            first = [i for i in range(start, stop) if i == 0 or words[i] != words[i - 1]]
            row = self._row(ids[start:stop], places=[1 + i - start for i in first])
            marks = tuple(word for i in first if (word := words[i]) is not None)
            yield Window(index, (row,), tuple(number.get(example.tags[mark], -100) for mark in marks), marks)
            start = stop

    def _pairs(self, index: int, example: Pair, head: Head, number: dict[str, int]) -> Iterator[Window]:
        first, second = self._ids(example.first), self._ids(example.second)
        while len(first) + len(second) > self._max - 3:
            (first if len(first) > len(second) else second).pop()
        target = float(number.get(example.label, -100)) if head == "classes" else float(example.label) / VALUE
        yield Window(index, (self._row(first, second, places=[0]),), (target,))

    def _questions(self, index: int, example: Question, head: Head, number: dict[str, int]) -> Iterator[Window]:
        past: list[str] = []
        if head == "conversation":
            turns = [*[("", "")] * self._settings.history, *example.history][-self._settings.history :]
            past = [text for turn in turns for text in turn] if self._settings.history else []
        third = max(1, (self._max - 3) // 3)  # a question takes a third of a row at most
        asked = [self._ids(text)[:third] for text in (example.question, *past)]
        pieces = self._tokenizer(example.context, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, offsets = pieces["input_ids"], pieces["offset_mapping"]
        room = self._max - 3 - max(map(len, asked))
        for start in window_starts(len(ids), room=room, stride=min(self._settings.stride, room // 2)):
            part, marks = ids[start : start + room], tuple(offsets[start : start + room])
            rows = [
                self._row(before, part, places=[0, *range(2 + len(before), 2 + len(before) + len(part))])
                if before or i == 0
                else Row()
                for i, before in enumerate(asked)
            ]
            yield Window(index, tuple(rows), _answer(example, marks), marks)

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) if text else []

    def _row(self, first: list[int], second: list[int] | None = None, *, places: Sequence[int]) -> Row:
        ids = [self._cls, *first, self._sep]
        tail = [] if second is None else [*second, self._sep]
        return Row((*ids, *tail), len(ids), tuple(places))


def window_starts(length: int, *, room: int, stride: int) -> list[int]:
    """Where windows of `room` tokens begin that together cover `length` and overlap by `stride`; one at least."""
    return [0, *range(room - stride, max(length - stride, room - stride), room - stride)]


def _answer(example: Question, marks: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Indices into the places of the first answer's first and last token, 0 and 0 when it is not all in the window."""
    if not example.answers:
        return 0, 0
    text, begin = example.answers[0]
    end = begin + len(text)
    inside = [i for i, (first, last) in enumerate(marks, 1) if first < end and last > begin and last > first]
    if not inside or marks[0][0] > begin or marks[-1][1] < end:
        return 0, 0
    return inside[0], inside[-1]
