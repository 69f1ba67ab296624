"""Sentence retrieval between English and every other language over held-out messages, by cosine.

Shapes: N texts, H width, Q queries, C candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unibert.data.lines import stable_hash, text_key
from unibert.errors import DataError
from unibert.evaluate.heldout import ENGLISH, Message
from unibert.evaluate.language_removal import Parts, remove_parts

MINIMUM_MESSAGES = 40
"""A language with fewer pairs says too little (one message is over 2.5 points) and is left out."""

Pairs = Mapping[str, Sequence[tuple[str, str]]]
"""language -> (text, its English)."""


@dataclass(frozen=True)
class RetrievalScore:
    """Top-1 accuracy of one language, each way, and what guessing gives."""

    to_english: float
    from_english: float
    chance_to_english: float
    chance_from_english: float
    messages: int


def to_pairs(messages: Sequence[Message], *, languages: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """(text, English) pairs of each language but English, each once, in the order of the messages.

    A text equal to its English but for letter case and punctuation is left out: copying is not translating.
    """
    pairs: dict[str, list[tuple[str, str]]] = {}
    for code in languages:
        if code != ENGLISH:
            both = [(m.texts[code], m.texts[ENGLISH]) for m in messages if code in m.texts and ENGLISH in m.texts]
            pairs[code] = [pair for pair in dict.fromkeys(both) if text_key(pair[0]) != text_key(pair[1])]
    return pairs


def english_of(pairs: Pairs) -> list[str]:
    """The English texts of all pairs, each once: the candidates that every language faces alike."""
    return list(dict.fromkeys(text for rows in pairs.values() for _, text in rows))


def at_most(pairs: Pairs, count: int) -> dict[str, list[tuple[str, str]]]:
    """At most `count` pairs a language, chosen by a hash of the English so that languages get the same messages."""
    return {code: sorted(rows, key=lambda pair: stable_hash(pair[1]))[:count] for code, rows in pairs.items()}


def enough(pairs: Pairs, *, minimum: int = MINIMUM_MESSAGES) -> Pairs:
    """Of the languages that are scored: those with at least `minimum` pairs."""
    return {code: rows for code, rows in pairs.items() if len(rows) >= minimum}


def retrieval(
    embed: Callable[[Sequence[str]], Tensor],
    pairs: Pairs,
    *,
    english: Sequence[str] | None = None,
    minimum: int = MINIMUM_MESSAGES,
    parts: Parts | None = None,
) -> dict[str, RetrievalScore]:
    """Top-1 retrieval accuracy to and from English, per language with at least `minimum` pairs.

    Args:
        embed: N texts to [N, H], any norm; called once.
        pairs: of `to_pairs`.
        english: candidates into English, the pairs' English among them; `english_of(pairs)` when None. From English
            the candidates are the language's own texts. Equal texts are one candidate.
        minimum: fewest pairs of a language that is scored.
        parts: taken out of every vector of their language, English among them; nothing when None.

    Raises:
        DataError: no language has enough pairs.
    """
    asked_of = enough(pairs, minimum=minimum)
    if not asked_of:
        most = max(pairs, key=lambda code: len(pairs[code]), default=None)
        found = f"the most are {len(pairs[most])}, in {most}" if most else "there is no language but English"
        raise DataError(
            f"retrieval needs {minimum} held-out messages in a language and in English, and no language has them "
            f"({found}): raise data.heldout_keys and run `unibert data parallel` with --force"
        )
    english = english_of(pairs) if english is None else list(english)
    texts = list(dict.fromkeys([*english, *(text for rows in asked_of.values() for text, _ in rows)]))
    vectors_NH = embed(texts).float()
    place = {text: i for i, text in enumerate(texts)}

    def vectors(of: Sequence[str], code: str) -> Tensor:
        own_NH = vectors_NH[torch.tensor([place[text] for text in of])]
        if parts is not None:
            own_NH = remove_parts(own_NH, languages=[code] * len(of), parts=parts)
        return torch.nn.functional.normalize(own_NH, dim=-1)

    scores = {}
    english_CH = vectors(english, ENGLISH)
    for code, rows in asked_of.items():
        own = list(dict.fromkeys(text for text, _ in rows))
        asked = list(dict.fromkeys(text for _, text in rows))
        scores[code] = RetrievalScore(
            to_english=_top1(vectors(own, code), english_CH, _answers(own, english, rows)),
            from_english=_top1(
                vectors(asked, ENGLISH), vectors(own, code), _answers(asked, own, [(e, x) for x, e in rows])
            ),
            chance_to_english=1 / len(english),
            chance_from_english=1 / len(own),
            messages=len(rows),
        )
    return scores


def quick_pairs(pairs: Pairs, *, languages: int = 12, messages: int = 64) -> dict[str, list[tuple[str, str]]]:
    """A small part of `pairs` for the look that a running training takes: languages evenly spread over the list.

    The first `messages` messages that most of these languages share are taken, so the choice of candidates stays
    small: the number is higher than the report's and only to be compared with itself.
    """
    codes = [code for code, rows in pairs.items() if len(rows) >= MINIMUM_MESSAGES]
    step = max(1.0, len(codes) / languages)
    chosen = [codes[int(i * step)] for i in range(min(languages, len(codes)))]
    often: dict[str, int] = {}
    for code in chosen:
        for _, english in pairs[code]:
            often[english] = often.get(english, 0) + 1
    kept = set(sorted(often, key=lambda text: -often[text])[:messages])
    return {code: [pair for pair in pairs[code] if pair[1] in kept] for code in chosen}


def quick_retrieval(embed: Callable[[Sequence[str]], Tensor], pairs: Pairs) -> float:
    """Mean over languages of the top-1 accuracy to English on `quick_pairs`."""
    scores = retrieval(embed, pairs, minimum=1)
    return sum(score.to_english for score in scores.values()) / len(scores)


def _answers(queries: Sequence[str], candidates: Sequence[str], rows: Sequence[tuple[str, str]]) -> list[set[int]]:
    """The candidates that are right for each query: one, or more where a text has two translations."""
    place = {text: i for i, text in enumerate(candidates)}
    right: dict[str, set[int]] = {}
    for query, answer in rows:
        right.setdefault(query, set()).add(place[answer])
    return [right[query] for query in queries]


def _top1(queries_QH: Tensor, candidates_CH: Tensor, answers: Sequence[set[int]]) -> float:
    best_Q = (queries_QH @ candidates_CH.T).argmax(1).tolist()
    return sum(best in right for best, right in zip(best_Q, answers, strict=True)) / len(answers)
