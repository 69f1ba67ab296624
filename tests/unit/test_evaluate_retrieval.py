from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from unibert.errors import DataError
from unibert.evaluate.heldout import Message
from unibert.evaluate.retrieval import at_most, english_of, quick_pairs, quick_retrieval, retrieval, to_pairs

MESSAGES = [
    Message(f"m{i}", {"en": f"english {i}", "de": f"deutsch {i}", "fr": f"francais {i}", "ru": f"русский {i}"})
    for i in range(50)
]
PAIRS = to_pairs(MESSAGES, languages=("en", "de", "fr", "ru"))


def by_number(texts: Sequence[str]) -> Tensor:
    """The number at the end decides the vector: every translation has its English's."""
    return torch.eye(50)[[int(text.split()[-1]) for text in texts]] * 3


def test_translations_with_equal_vectors_are_all_found() -> None:
    scores = retrieval(by_number, PAIRS)
    assert set(scores) == {"de", "fr", "ru"}
    for score in scores.values():
        assert score.to_english == score.from_english == 1.0
        assert score.chance_to_english == score.chance_from_english == 1 / 50
        assert score.messages == 50


def test_wrong_neighbours_are_counted_as_wrong() -> None:
    def embed(texts: Sequence[str]) -> Tensor:
        vectors = by_number(texts)
        for i, text in enumerate(texts):
            number = int(text.split()[-1])
            if text.startswith("deutsch") and number < 10:
                vectors[i] = torch.eye(50)[(number + 1) % 50]  # nearest to another message
        return vectors

    scores = retrieval(embed, PAIRS)
    assert scores["de"].to_english == pytest.approx(40 / 50)
    assert scores["fr"].to_english == 1.0


def test_random_vectors_are_near_chance() -> None:
    def embed(texts: Sequence[str]) -> Tensor:
        return torch.randn(len(texts), 64, generator=torch.Generator().manual_seed(3))

    scores = retrieval(embed, PAIRS)
    assert sum(score.to_english for score in scores.values()) / 3 < 0.08


def test_length_of_a_vector_does_not_matter() -> None:
    def embed(texts: Sequence[str]) -> Tensor:
        scale = torch.tensor([100.0 if text.endswith("7") else 0.01 for text in texts])
        return by_number(texts) * scale[:, None]

    assert retrieval(embed, PAIRS)["ru"].to_english == 1.0


def test_untranslated_and_repeated_texts_are_no_pairs() -> None:
    messages = [
        Message("a", {"en": "Save page", "de": "save PAGE!"}),
        Message("b", {"en": "Save page", "de": "Seite speichern"}),
        Message("c", {"en": "Save page", "de": "Seite speichern"}),
        Message("d", {"de": "ohne Englisch"}),
    ]
    assert to_pairs(messages, languages=("en", "de")) == {"de": [("Seite speichern", "Save page")]}


def test_two_messages_with_one_translation_are_both_right() -> None:
    pairs = {"de": [("deutsch 2", "english 2"), ("gleich 0", "english 0"), ("gleich 0", "english 1")]}
    score = retrieval(by_number, pairs, minimum=1)["de"]
    assert score.to_english == 1.0
    assert score.chance_from_english == 1 / 2  # two candidates in German
    assert score.from_english == pytest.approx(2 / 3)  # "english 1" is as near to both, and the first is taken


def test_languages_with_few_messages_are_left_out() -> None:
    pairs = {**PAIRS, "fr": PAIRS["fr"][:39]}
    assert set(retrieval(by_number, pairs)) == {"de", "ru"}


def test_no_language_with_enough_messages_is_an_error_that_says_how_to_mend_it() -> None:
    with pytest.raises(DataError, match=r"39, in de.*data\.heldout_keys"):
        retrieval(by_number, {"de": PAIRS["de"][:39], "fr": PAIRS["fr"][:3]})


def test_capped_languages_face_all_english_messages() -> None:
    few = at_most(PAIRS, 12)
    assert {code: len(rows) for code, rows in few.items()} == {"de": 12, "fr": 12, "ru": 12}
    assert {e for _, e in few["de"]} == {e for _, e in few["ru"]}, "languages should get the same messages"
    assert at_most({"de": PAIRS["de"][::-1]}, 12)["de"] == few["de"], "the order of the file must not matter"
    score = retrieval(by_number, few, english=english_of(PAIRS), minimum=1)["de"]
    assert score.chance_to_english == 1 / 50 and score.messages == 12


def test_quick_retrieval_is_the_mean_over_a_small_part() -> None:
    quick = quick_pairs(PAIRS, languages=2, messages=20)
    assert len(quick) == 2
    assert all(len(rows) == 20 for rows in quick.values())

    def embed(texts: Sequence[str]) -> Tensor:
        hopeless = next(iter(quick))
        names = {"de": "deutsch", "fr": "francais", "ru": "русский"}
        rows = by_number(texts)
        for i, text in enumerate(texts):
            if text.startswith(names[hopeless]):
                rows[i] = -rows[i]
        return rows

    assert quick_retrieval(embed, quick) == pytest.approx(0.5)
