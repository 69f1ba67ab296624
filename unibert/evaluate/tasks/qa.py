"""Questions on a text: SQuAD 1.1 and 2.0, XQuAD and MLQA, all in SQuAD's JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unibert.errors import DataError
from unibert.evaluate.scorers.answers import Style, answer_f1, exact_match
from unibert.evaluate.tasks.base import Example, Measured, Task, json_of, line_of, require_language
from unibert.evaluate.tasks.names import FileName

_FORM = "SQuAD's form is data > paragraphs > context, qas > id, question, answers > text, answer_start"


@dataclass(frozen=True)
class Question(Example):
    """A question, its context, and gold answers as (text, first character); none when it has no answer."""

    context: str
    question: str
    answers: tuple[tuple[str, int], ...]
    history: tuple[tuple[str, str], ...] = ()
    """Questions and answers before it in a conversation, the latest last."""
    gold: tuple[str, ...] = ()
    """Texts that count as right, where they are others than the spans: CoQA's."""
    style: Style = field(default="squad", repr=False)
    """How its answers are compared, which is its set's. Not a part of what an example's fingerprint is made of."""


class Qa(Task):
    """Exact match and F1: MLQA's way in the folder mlqa, SQuAD's (and XQuAD's) elsewhere."""

    name = "qa"
    sets = ("qa", "squad", "xquad", "mlqa")
    head = "span"
    metric = "f1"

    def read_file(self, name: FileName) -> Iterator[tuple[str, Question]]:
        code, count = require_language(name), 0
        style: Style = "mlqa" if name.set == "mlqa" else "squad"
        for article_number, article in enumerate(articles(name.path)):
            group = f"{name.split}:{article_number}"
            for paragraph in list_of(article, "paragraphs", name.path):
                context = str(field_of(paragraph, "context", name.path))
                for asked in list_of(paragraph, "qas", name.path):
                    question = str(field_of(asked, "question", name.path)).strip()
                    answers = () if asked.get("is_impossible") else spans_of(asked, context, name.path)
                    count += 1
                    own = bool(asked.get("id"))
                    number = str(asked["id"]) if own else f"{name.split}:{count}"
                    yield code, Question(number, group, context, question, answers, style=style, own_id=own)

    def measure(
        self, examples: Sequence[Question], predictions: Sequence[str], *, of: str, language: str
    ) -> dict[str, Measured]:
        language = language.partition("+")[0]
        no_answer = any(not example.answers for example in examples)  # SQuAD 2.0's rule holds then
        f1s, matches = [], []
        for predicted, example in zip(predictions, examples, strict=True):
            gold, style = tuple(text for text, _ in example.answers) or ("",), example.style
            f1s.append(answer_f1(predicted, gold, language=language, style=style, no_answer=no_answer))
            matches.append(exact_match(predicted, gold, language=language, style=style))
        return {
            metric: Measured("mean", np.array(values)[:, None])
            for metric, values in (("f1", f1s), ("exact_match", matches))
        }


def articles(path: Path) -> list[Any]:
    """The list `data` of a SQuAD-like document.

    Raises:
        DataError: there is none.
    """
    return list_of(json_of(path), "data", path)


def field_of(part: Any, key: str, path: Path, *, line: int | None = None) -> Any:
    """A key of a JSON object; `line` is where errors point to, where the object has no id of its own.

    Raises:
        DataError: it is missing or null, or `part` is no object.
    """
    if not isinstance(part, Mapping):
        found = json.dumps(part, ensure_ascii=False)
        where = line or line_of(path, found)
        raise DataError(f"{path}:{where}: {found[:80]} where an object with {key!r} must be; {_FORM}")
    if part.get(key) is None:
        raise DataError(f"{path}:{line or _line(part, path)}: no {key!r}; {_FORM}")
    return part[key]


def list_of(part: Any, key: str, path: Path) -> list[Any]:
    """A key of a JSON object that has a list.

    Raises:
        DataError: it is missing or no list.
    """
    found = field_of(part, key, path)
    if not isinstance(found, list):
        raise DataError(f"{path}:{_line(part, path)}: {key!r} is no list; {_FORM}")
    return found


def place_of(part: Any, key: str, path: Path, *, line: int) -> int:
    """A key of a JSON object that has the number of a character.

    Raises:
        DataError: it is missing or no whole number.
    """
    found = field_of(part, key, path, line=line)
    try:
        return int(found)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}:{line}: {key} {found!r} is no number; write that of the first character") from error


def _line(part: Mapping[str, Any], path: Path) -> int:
    return line_of(path, str(part["id"])) if part.get("id") else 1


def spans_of(asked: Mapping[str, Any], context: str, path: Path) -> tuple[tuple[str, int], ...]:
    """The answers of a question, each where it says it is in the context.

    Raises:
        DataError: the context has another text there.
    """
    spans, line = [], _line(asked, path)
    for answer in list_of(asked, "answers", path):
        text = str(field_of(answer, "text", path, line=line))
        start = place_of(answer, "answer_start", path, line=line)
        if not text or start < 0 or context[start : start + len(text)] != text:
            other = context.find(text) if text else -1
            fix = f"it is at {other}" if other >= 0 else "the context does not hold it: mend or remove the question"
            raise DataError(
                f"{path}:{line}: question {asked.get('id')}: the answer {text!r} is not at answer_start {start} of its "
                f"context; {fix}"
            )
        spans.append((text, start))
    return tuple(spans)
