"""Questions of a conversation about a text: QuAC and CoQA, in their JSON, scored as their own scripts do.

With several gold answers, F1 and exact match are means over them, each left out in turn (scorers/answers.py). Facts of
the scripts, QuAC's scorer.py (min_f1 0.4) and CoQA's evaluate-v1.0.py:
- QuAC: no answer is the gold answer, alone, where at least as many people gave none as gave one, and is else no gold
  answer. It is worth 1 to say so and 0 to say anything else. Questions with several answers left, on which people agree
  with an F1 below 0.4, are not scored: no example is made of them, in any split, and the turns after them read them.
- QuAC's human equivalence: `heq_q` is the share of questions whose F1 is at least people's own, `heq_d` the share of
  conversations all of whose questions are so, of those that are scored. (The script counts a conversation of which
  nothing is scored as equal to people; here it is not there.)
- CoQA: "unknown" is a gold answer as any other, and F1 is SQuAD 2.0's.

CoQA's scores by domain are not counted; exact match on QuAC is ours. The past is the gold one, never the model's own
answers: QuAC's `orig_answer`, and CoQA's `answers`. Predictions are spans, so that CoQA's "yes" and "no" are found only
where the text says them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unibert.errors import DataError
from unibert.evaluate.scorers.answers import agreement, answer_f1, exact_match, left_out
from unibert.evaluate.tasks.base import Measured, Task, line_of, require_language
from unibert.evaluate.tasks.names import FileName
from unibert.evaluate.tasks.qa import Question, articles, field_of, list_of, place_of, spans_of

CANNOT_ANSWER = "CANNOTANSWER"
"""What QuAC puts at the end of every text, and gives as the answer of questions that have none."""
NO_ANSWER = {"quac": CANNOT_ANSWER, "coqa": "unknown"}
"""How each set writes that there is no answer."""
LEAST_AGREEMENT = 0.4
"""QuAC's: the human F1 below which a question is not scored."""
ROUNDING = 1e-9
"""What two equal F1 may differ by, being means of the same fractions in another order."""


@dataclass(frozen=True)
class Turn(Question):
    """A question of a conversation. Its gold answers are all there, in the set's own words for no answer too."""

    script: Literal["quac", "coqa"] = "quac"
    """Whose way of scoring it is."""


class ConversationalQa(Task):
    """F1, exact match and human equivalence of each question, the conversation before it being the gold one."""

    name = "conversational_qa"
    sets = ("conversational_qa", "quac", "coqa")
    head = "conversation"
    metric = "f1"

    def read_file(self, name: FileName) -> Iterator[tuple[str, Turn]]:
        code = require_language(name)
        for number, part in enumerate(articles(name.path)):
            group = f"{name.split}:{number}"
            if isinstance(part, Mapping) and "story" in part:
                yield from ((code, question) for question in _coqa(part, group, name.path))
            else:
                for paragraph in list_of(part, "paragraphs", name.path):
                    yield from ((code, question) for question in _quac(paragraph, group, name.path))

    def measure(
        self, examples: Sequence[Turn], predictions: Sequence[str], *, of: str, language: str
    ) -> dict[str, Measured]:
        scores = [turn_scores(said, turn) for said, turn in zip(predictions, examples, strict=True)]
        f1s, matches = np.array(scores).reshape(-1, 2, 1).swapaxes(0, 1)
        found = {"f1": Measured("mean", f1s), "exact_match": Measured("mean", matches)}
        if all(turn.script == "quac" for turn in examples):
            found |= _human_equivalence(examples, f1s)
        return found


def turn_scores(predicted: str, turn: Turn) -> tuple[float, float]:
    """F1 and exact match of an answer, empty for none."""
    said = predicted or NO_ANSWER[turn.script]
    if turn.gold == (CANNOT_ANSWER,) and turn.script == "quac":
        return float(said == CANNOT_ANSWER), float(said == CANNOT_ANSWER)
    f1s = [answer_f1(said, [text], no_answer=turn.script == "coqa") for text in turn.gold]
    return left_out(f1s), left_out([exact_match(said, [text]) for text in turn.gold])


def _human_equivalence(examples: Sequence[Turn], f1s: np.ndarray) -> dict[str, Measured]:
    """Of questions, and of conversations: one is counted where its last question is, the other rows being (0, 0)."""
    people = np.array([agreement(turn.gold) for turn in examples]).reshape(-1, 1)
    as_good = f1s >= people - ROUNDING
    conversations: dict[tuple[str, str], list[int]] = {}
    for number, turn in enumerate(examples):
        conversations.setdefault((turn.group, turn.context), []).append(number)
    whole = np.zeros((len(examples), 2))
    for numbers in conversations.values():
        whole[numbers[-1]] = as_good[numbers].all(), 1
    return {"heq_q": Measured("mean", as_good.astype(float)), "heq_d": Measured("ratio", whole)}


def _quac(paragraph: Mapping[str, Any], group: str, path: Path) -> Iterator[Turn]:
    context = str(field_of(paragraph, "context", path))
    history: list[tuple[str, str]] = []
    for asked in list_of(paragraph, "qas", path):
        question = str(field_of(asked, "question", path)).strip()
        given = spans_of(asked, context, path)
        spans = tuple(span for span in given if span[0] != CANNOT_ANSWER)
        if 2 * len(spans) <= len(given):
            spans = ()
        gold = tuple(text for text, _ in spans) or (CANNOT_ANSWER,)
        if agreement(gold) >= LEAST_AGREEMENT:
            number = str(field_of(asked, "id", path))
            yield Turn(number, group, context, question, spans, tuple(history), gold, script="quac", own_id=True)
        original = asked.get("orig_answer")
        history.append((question, gold[0] if original is None else str(field_of(original, "text", path))))


def _coqa(part: Mapping[str, Any], group: str, path: Path) -> Iterator[Turn]:
    story, where = str(field_of(part, "story", path)), str(field_of(part, "id", path))
    line = line_of(path, where)
    questions, answers = list_of(part, "questions", path), list_of(part, "answers", path)
    more = part.get("additional_answers") or {}
    others = [list_of(more, person, path) for person in more]
    if any(len(column) != len(questions) for column in (answers, *others)):
        raise DataError(f"{path}:{line}: story {where}: not as many answers as questions; mend it")
    history: list[tuple[str, str]] = []
    for turn, (asked, answer) in enumerate(zip(questions, answers, strict=True)):
        question, said = (str(field_of(one, "input_text", path, line=line)) for one in (asked, answer))
        start, end = (place_of(answer, key, path, line=line) for key in ("span_start", "span_end"))
        text = story[start:end].strip() if 0 <= start < end <= len(story) else ""
        span = ((text, story.index(text, start)),) if text else ()
        gold = (said, *(str(field_of(other[turn], "input_text", path, line=line)) for other in others))
        yield Turn(f"{where}:{turn}", group, story, question, span, tuple(history), gold, script="coqa", own_id=True)
        history.append((question, said))
