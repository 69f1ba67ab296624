"""Answers to questions: exact match and F1 of words, as the scripts of SQuAD, XQuAD and MLQA count them.

Both texts are normalised first, and of several gold answers the best counts; QuAC and CoQA leave each of them out in
turn (`left_out`). Two ways of normalising:
- squad: lower case, no ASCII punctuation, no a, an or the, single spaces, in any language: SQuAD's script, which is
  the published way for XQuAD too;
- mlqa: no punctuation of any script, the articles of the language, and single characters as words in Chinese.

What MLQA's script does not know is ours: other languages have no articles; Japanese and traditional Chinese are cut as
Chinese is. SQuAD 2.0 has questions without an answer, whose gold answer is the empty text: it is matched by an empty
prediction alone. Two answers of which nothing is left ("the" and "an") match, but have an F1 of 0 in SQuAD 1.1
and MLQA, and 1 in SQuAD 2.0: `no_answer` says which.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Literal

Style = Literal["squad", "mlqa"]

_ENGLISH = "a an the"
_ARTICLES = {
    "en": _ENGLISH,
    "es": "un una unos unas el la los las",
    "vi": "của là cái chiếc những",
    "de": "ein eine einen einem eines einer der die das den dem des",
}
_ARABIC_ARTICLE = re.compile(r"\sال^|ال")
"""MLQA's: the letters alif and lam wherever they stand, also inside a word."""
_BY_CHARACTER = frozenset({"zh", "zh-hant", "ja"})


def normalise(text: str, *, language: str = "en", style: Style = "squad") -> str:
    """The form in which two answers count as equal: words with single spaces between."""
    text = text.lower()
    if style == "squad":
        text = text.translate(_ASCII_PUNCTUATION)
        return " ".join(_articles(_ENGLISH).sub(" ", text).split())
    text = "".join(char for char in text if not _is_punctuation(char))
    if language == "ar":
        text = _ARABIC_ARTICLE.sub(" ", text)
    elif language in _ARTICLES:
        text = _articles(_ARTICLES[language]).sub(" ", text)
    if language in _BY_CHARACTER:
        text = _HAN.sub(r" \g<0> ", text)
    return " ".join(text.split())


def exact_match(predicted: str, gold: Sequence[str], *, language: str = "en", style: Style = "squad") -> float:
    """1 if the prediction is one of the gold answers, else 0."""
    ours = normalise(predicted, language=language, style=style)
    return float(any(ours == normalise(text, language=language, style=style) for text in gold))


def answer_f1(
    predicted: str, gold: Sequence[str], *, language: str = "en", style: Style = "squad", no_answer: bool = False
) -> float:
    """The best over gold answers of the harmonic mean of precision and recall of words, each as often as it occurs.

    Args:
        predicted: the answer; empty for none.
        gold: one or more; an empty one says that there is no answer.
        language: of the answers.
        style: how both are normalised.
        no_answer: SQuAD 2.0's rule: where one of both is empty, F1 is 1 if the other is too.
    """
    ours = Counter(normalise(predicted, language=language, style=style).split())
    best = 0.0
    for text in gold:
        theirs = Counter(normalise(text, language=language, style=style).split())
        if no_answer and not (ours and theirs):
            best = max(best, float(ours == theirs))
        elif common := (ours & theirs).total():
            precision, recall = common / ours.total(), common / theirs.total()
            best = max(best, 2 * precision * recall / (precision + recall))
    return best


def left_out(scores: Sequence[float]) -> float:
    """The mean over gold answers of the best score on the n - 1 others, as the scripts of QuAC and CoQA count.

    So a model is compared with as many gold answers as a person is, whose own one is left out. The best of all is left
    out once, and then the second best counts: ((n - 1) best + second) / n; the score itself for a single gold answer.

    Args:
        scores: of one prediction, on each gold answer.
    """
    best, *others = sorted(scores, reverse=True)
    return ((len(scores) - 1) * best + others[0]) / len(scores) if others else best


def agreement(gold: Sequence[str]) -> float:
    """The mean over gold answers of the best F1 on the others: QuAC's human F1; 1 for a single gold answer."""
    if len(gold) == 1:
        return 1.0
    return sum(answer_f1(text, [*gold[:i], *gold[i + 1 :]]) for i, text in enumerate(gold)) / len(gold)


_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
_HAN = re.compile("[\u4e00-\u9fa5]")


@cache
def _articles(words: str) -> re.Pattern[str]:
    return re.compile(rf"\b({'|'.join(words.split())})\b")


@cache
def _is_punctuation(char: str) -> bool:
    return char in string.punctuation or unicodedata.category(char).startswith("P")
