from __future__ import annotations

import pytest
import torch

from unibert.errors import DataError
from unibert.evaluate.heldout import split_fraction
from unibert.evaluate.probe import language_probe, wilson

CODES = ("de", "en", "fr", "ru")
TEXTS = [f"text {i} in {code}" for code in CODES for i in range(60)]
LABELS = [code for code in CODES for _ in range(60)]
NOISE = torch.randn(len(TEXTS), 12, generator=torch.Generator().manual_seed(1))


def with_language(strength: float) -> torch.Tensor:
    features = NOISE.clone()
    for i, code in enumerate(LABELS):
        features[i, CODES.index(code)] += strength
    return features


def test_features_that_hold_the_language_are_read() -> None:
    score = language_probe(with_language(8.0), texts=TEXTS, languages=LABELS)
    assert score.accuracy > 0.97
    assert min(score.recall.values()) > 0.8
    assert score.train + score.test == len(TEXTS)


def test_noise_is_read_at_chance() -> None:
    score = language_probe(NOISE, texts=TEXTS, languages=LABELS)
    assert score.chance == 0.25
    assert score.low < 0.3 and score.accuracy < 0.45
    assert score.low < score.accuracy < score.high


def test_more_language_is_more_accuracy() -> None:
    found = [language_probe(with_language(s), texts=TEXTS, languages=LABELS).accuracy for s in (0.0, 1.0, 4.0)]
    assert found == sorted(found) and found[2] - found[0] > 0.3


def test_scale_and_offset_of_a_feature_do_not_matter() -> None:
    features = with_language(2.0)
    moved = features * torch.logspace(-3, 3, 12) + 1000 * torch.logspace(-3, 3, 12)
    one, other = (language_probe(x, texts=TEXTS, languages=LABELS) for x in (features, moved))
    assert other.accuracy == pytest.approx(one.accuracy, abs=0.03)


def test_same_input_same_score() -> None:
    one, other = (language_probe(with_language(1.0), texts=TEXTS, languages=LABELS) for _ in range(2))
    assert one == other


def test_split_depends_on_the_text_alone() -> None:
    assert split_fraction("Hello, world") == split_fraction("hello world!")
    sides = [split_fraction(text) < 0.7 for text in TEXTS]
    assert 0.6 < sum(sides) / len(sides) < 0.8


def test_majority_is_the_test_share_of_the_most_frequent_training_language() -> None:
    keep = [i for i, code in enumerate(LABELS) if code != "ru" or i % 3 == 0]
    labels = ["en" if LABELS[i] in ("en", "fr") else LABELS[i] for i in keep]
    score = language_probe(NOISE[keep], texts=[TEXTS[i] for i in keep], languages=labels)
    test = [code for i, code in zip(keep, labels, strict=True) if split_fraction(TEXTS[i]) >= 0.7]
    assert score.majority == pytest.approx(test.count("en") / len(test))


def test_one_language_cannot_be_probed() -> None:
    with pytest.raises(DataError, match="at least two languages"):
        language_probe(NOISE[:60], texts=TEXTS[:60], languages=LABELS[:60])


def test_language_without_test_lines_is_named() -> None:
    texts = [*TEXTS[:120], "one line only"]
    with pytest.raises(DataError, match=r"'zh'.*heldout_lines_per_language"):
        language_probe(NOISE[:121], texts=texts, languages=[*LABELS[:120], "zh"])


def test_wilson_interval() -> None:
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # R: binom::binom.wilson(8, 10)
    assert wilson(0, 20)[0] == 0.0 and wilson(0, 20)[1] == pytest.approx(0.1611, abs=1e-4)
    assert wilson(20, 20)[1] == 1.0
