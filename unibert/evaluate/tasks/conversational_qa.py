"""Questions of a conversation about a text: QuAC and CoQA, in their JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unibert.errors import DataError
from unibert.evaluate.tasks.base import Measured, Task, line_of, require_language
from unibert.evaluate.tasks.names import FileName
from unibert.evaluate.tasks.qa import Question, answer_rows, articles, field_of, spans_of

CANNOT_ANSWER = "CANNOTANSWER"
"""What QuAC puts at the end of every text, and gives as the answer of questions that have none."""


class ConversationalQa(Task):
    """F1 and exact match of each question, the conversation before it being the gold one.

    Of several gold answers the best counts. QuAC's script also leaves out questions on which people agree little, and
    scores people against each other; that is not done here.
    """

    name = "conversational_qa"
    sets = ("conversational_qa", "quac", "coqa")
    head = "conversation"
    metric = "f1"

    def read_file(self, name: FileName) -> Iterator[tuple[str, Question]]:
        code = require_language(name)
        for number, part in enumerate(articles(name.path)):
            group = f"{name.split}:{number}"
            if "story" in part:
                yield from ((code, question) for question in _coqa(part, group, name.path))
            else:
                for paragraph in field_of(part, "paragraphs", name.path):
                    yield from ((code, question) for question in _quac(paragraph, group, name.path))

    def measure(
        self, examples: Sequence[Question], predictions: Sequence[str], *, of: str, language: str
    ) -> dict[str, Measured]:
        return answer_rows(examples, predictions, style="squad", language=language)


def _quac(paragraph: Mapping[str, Any], group: str, path: Path) -> Iterator[Question]:
    context = field_of(paragraph, "context", path)
    history: list[tuple[str, str]] = []
    for asked in field_of(paragraph, "qas", path):
        question = str(field_of(asked, "question", path)).strip()
        spans = tuple(span for span in spans_of(asked, context, path) if span[0] != CANNOT_ANSWER)
        yield Question(str(asked.get("id")), group, context, question, spans, tuple(history))
        history.append((question, spans[0][0] if spans else CANNOT_ANSWER))


def _coqa(part: Mapping[str, Any], group: str, path: Path) -> Iterator[Question]:
    story, where = field_of(part, "story", path), str(part.get("id"))
    questions, answers = field_of(part, "questions", path), field_of(part, "answers", path)
    others = list(part.get("additional_answers", {}).values())
    if any(len(column) != len(questions) for column in (answers, *others)):
        raise DataError(f"{path}:{line_of(path, where)}: story {where}: not as many answers as questions; mend it")
    history: list[tuple[str, str]] = []
    for turn, (asked, answer) in enumerate(zip(questions, answers, strict=True)):
        question, said = str(field_of(asked, "input_text", path)), str(field_of(answer, "input_text", path))
        start, end = int(field_of(answer, "span_start", path)), int(field_of(answer, "span_end", path))
        text = story[start:end].strip() if 0 <= start < end <= len(story) else ""
        span = ((text, story.index(text, start)),) if text else ()
        gold = (said, *(str(field_of(other[turn], "input_text", path)) for other in others)) if span else ()
        yield Question(f"{where}:{turn}", group, story, question, span, tuple(history), gold)
        history.append((question, said))
