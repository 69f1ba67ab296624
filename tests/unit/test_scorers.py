"""Scorers against oracles written another way, on 1,000 random cases each, hostile ones among them."""

import itertools
import os
import random
import re
import shutil
import string
import subprocess
import sys
import types
import unicodedata

import pytest
import torch

from unibert.evaluate.scorers.answers import answer_f1, exact_match, normalise
from unibert.evaluate.scorers.ranking import ranks, reciprocal, top1
from unibert.evaluate.scorers.spans import span_counts, spans
from unibert.evaluate.statistics.scores import score

CASES = 1000
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-A-B", "I-A-B"]


# --- spans ------------------------------------------------------------------------------------------------------------


def oracle_spans(tags, *, strict):
    """By definition: every range of tokens is asked whether it is a span."""
    found = set()
    for first, last in itertools.combinations_with_replacement(range(len(tags)), 2):
        inside = tags[first : last + 1]
        if "O" in inside or len({tag[2:] for tag in inside}) > 1 or any(tag[0] == "B" for tag in inside[1:]):
            continue
        goes_on = last + 1 < len(tags) and tags[last + 1] == "I-" + inside[0][2:]
        before = tags[first - 1] if first else "O"
        continues = inside[0][0] == "I" and before != "O" and before[2:] == inside[0][2:]
        if not goes_on and not continues and not (strict and inside[0][0] == "I"):
            found.add((inside[0][2:], first, last))
    return found


def sentences(chance):
    length = chance.randint(0, 9)
    gold = chance.choices(TAGS, k=length)
    predicted = [tag if chance.random() < 0.7 else chance.choice(TAGS) for tag in gold]
    return predicted, gold


@pytest.mark.parametrize("strict", [False, True])
def test_spans_are_those_of_the_definition(strict):
    chance = random.Random(0)
    for _ in range(CASES):
        predicted, gold = sentences(chance)
        ours, theirs = oracle_spans(predicted, strict=strict), oracle_spans(gold, strict=strict)
        assert spans(predicted, strict=strict) == ours
        assert span_counts(predicted, gold, strict=strict) == (len(ours & theirs), len(ours), len(theirs))


def test_broken_tags():
    broken = ["I-PER", "I-LOC", "O", "I-LOC", "B-LOC", "I-PER"]
    assert spans(broken) == {("PER", 0, 0), ("LOC", 1, 1), ("LOC", 3, 3), ("LOC", 4, 4), ("PER", 5, 5)}
    assert spans(broken, strict=True) == {("LOC", 4, 4)}
    assert spans([]) == set() and spans(["B", "I"]) == {("_", 0, 1)}


@pytest.mark.slow
def test_spans_are_seqevals(tmp_path, monkeypatch):
    """Its own source from the registry: it needs scikit-learn for the class of a warning alone, which stands in."""
    # pip runs its setup.py to fetch it, and that cannot use the newest setuptools_scm.
    (constraint := tmp_path / "constraint.txt").write_text("setuptools_scm<9\n")
    fetch = [sys.executable, "-m", "pip", "download", "--use-pep517", "--no-deps", "--no-binary=seqeval"]
    environment = os.environ | {"PIP_CONSTRAINT": str(constraint)}
    if subprocess.run([*fetch, "-d", str(tmp_path), "seqeval==1.2.2"], env=environment, capture_output=True).returncode:
        pytest.skip("seqeval cannot be fetched")
    shutil.unpack_archive(next(tmp_path.glob("seqeval-*.tar.gz")), tmp_path)
    exceptions = types.ModuleType("sklearn.exceptions")
    exceptions.UndefinedMetricWarning = UserWarning  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sklearn", types.ModuleType("sklearn"))
    monkeypatch.setitem(sys.modules, "sklearn.exceptions", exceptions)
    monkeypatch.syspath_prepend(str(tmp_path / "seqeval-1.2.2"))
    import numpy as np
    from seqeval.metrics import f1_score  # type: ignore[import-not-found]
    from seqeval.scheme import IOB2  # type: ignore[import-not-found]

    chance = random.Random(1)
    for _ in range(CASES):
        several = [sentences(chance) for _ in range(chance.randint(1, 6))]
        predicted, gold = ([pair[side] for pair in several if pair[0]] or [["O"]] for side in (0, 1))
        for strict in (False, True):
            how = {"mode": "strict", "scheme": IOB2} if strict else {}
            rows = [span_counts(p, g, strict=strict) for p, g in zip(predicted, gold, strict=True)]
            assert score("f1", np.array(rows)) == pytest.approx(f1_score(gold, predicted, zero_division=0, **how))


# --- answers ----------------------------------------------------------------------------------------------------------

WORDS = {
    "en": "the The a an An cat Cats' don't U.S. 3,5 -- theatre",
    "de": "die der Das Katze, ein «ja» Straße —",
    "es": "el La los ¿qué? unos gato",
    "vi": "của cái mèo những là",
    "ar": "ال الكتاب، كتاب والكتاب ٣٫٥ ؟",
    "hi": "किताब। एक है,",
    "zh": "猫 坐在 垫子 上。 abc猫 NBA， 𠮷",
    "th": "แมวนั่ง บนเสื่อ",
}
ARTICLES = {
    "en": {"a", "an", "the"},
    "es": {"un", "una", "unos", "unas", "el", "la", "los", "las"},
    "vi": {"của", "là", "cái", "chiếc", "những"},
    "de": set("ein eine einen einem eines einer der die das den dem des".split()),
}


def oracle_words(text, *, language, style):
    """Character by character instead of patterns."""
    punctuation = set(string.punctuation)
    kept = ""
    for char in text.lower():
        drop = char in punctuation or (style == "mlqa" and unicodedata.category(char)[0] == "P")
        kept += "" if drop else char
    if style == "mlqa" and language == "ar":
        kept = " ".join(kept.split("ال"))
    gone = ARTICLES["en"] if style == "squad" else ARTICLES.get(language, set())
    # An article is a run of word characters; what is no word character (a combining mark, say) ends a run.
    runs = ["".join(run) for _, run in itertools.groupby(kept, key=lambda char: bool(re.match(r"\w", char)))]
    kept = "".join(" " if run in gone else run for run in runs)
    if style == "mlqa" and language == "zh":
        kept = "".join(f" {char} " if "\u4e00" <= char <= "\u9fa5" else char for char in kept)
    return kept.split()


def oracle_f1(ours, theirs):
    left, same = list(theirs), 0
    for word in ours:
        if word in left:
            left.remove(word)
            same += 1
    return 2 * same / (len(ours) + len(theirs)) if same else 0.0


@pytest.mark.parametrize("style", ["squad", "mlqa"])
def test_answers_are_those_of_the_oracle(style):
    chance = random.Random(2)
    for case in range(CASES):
        language = chance.choice(list(WORDS))

        def text(language=language):
            words = WORDS[language].split()
            glue = chance.choice([" ", " ", "", "  ", "-", "\t"])
            return glue.join(chance.choices(words, k=chance.randint(0, 5)))

        predicted, gold = text(), [text() for _ in range(chance.randint(1, 3))]
        if case % 7 == 0:
            gold[0] = predicted[: chance.randint(0, len(predicted))]
        ours, *theirs = [oracle_words(one, language=language, style=style) for one in (predicted, *gold)]
        assert normalise(predicted, language=language, style=style).split() == ours, (language, predicted)
        assert exact_match(predicted, gold, language=language, style=style) == (ours in theirs)
        best = max(oracle_f1(ours, one) for one in theirs)
        assert answer_f1(predicted, gold, language=language, style=style) == pytest.approx(best), (predicted, gold)


def test_known_answers():
    assert exact_match("The U.S.", ["us"]) == 1 and exact_match("", ["x"]) == 0
    assert answer_f1("", ["cat"]) == 0 and answer_f1("", [""]) == 0  # SQuAD 1.1 has no such question
    assert answer_f1("", [""], no_answer=True) == 1 and answer_f1("cat", [""], no_answer=True) == 0
    assert answer_f1("the cat sat", ["cat"]) == pytest.approx(2 / 3)
    assert exact_match("der Katze", ["Katze"], language="de", style="mlqa") == 1
    assert exact_match("der Katze", ["Katze"], language="de") == 0
    assert answer_f1("坐在猫上", ["猫上"], language="zh", style="mlqa") == pytest.approx(2 * 2 / (4 + 2))
    assert answer_f1("坐在猫上", ["猫上"], language="zh") == 0
    assert answer_f1("الكتاب", ["كتاب"], language="ar", style="mlqa") == 1
    assert exact_match("«Straße»", ["straße"], language="de", style="mlqa") == 1


# --- ranking ----------------------------------------------------------------------------------------------------------


def oracle_ranks(x, y, *, margin, k):
    def cosine(a, b):
        return sum(p * q for p, q in zip(a, b, strict=True)) / (
            sum(p * p for p in a) ** 0.5 * sum(q * q for q in b) ** 0.5
        )

    table = [[cosine(a, b) for b in y] for a in x]
    if margin:
        k = min(k, len(y))
        rows = [sum(sorted(row)[-k:]) / k for row in table]
        columns = [sum(sorted(column)[-k:]) / k for column in zip(*table, strict=True)]
        table = [[value / ((rows[i] + columns[j]) / 2) for j, value in enumerate(row)] for i, row in enumerate(table)]

    def rank(scores, own):
        better = sum(value > scores[own] + 1e-12 for value in scores)
        return 1 + better + (sum(abs(value - scores[own]) <= 1e-12 for value in scores) - 1) / 2

    forward = [rank(row, i) for i, row in enumerate(table)]
    return forward, [rank(column, j) for j, column in enumerate(zip(*table, strict=True))]


@pytest.mark.parametrize("margin", [False, True])
def test_ranks_are_those_of_loops(margin):
    chance = random.Random(3)
    lowest = 0 if margin else -2  # between vectors that point apart the margin divides by next to nothing
    for _ in range(CASES):
        count = chance.randint(1, 8)
        x, y = ([[float(chance.randint(lowest, 3)) + 0.5 for _ in range(3)] for _ in range(count)] for _ in range(2))
        if count > 1 and chance.random() < 0.5:
            y[0] = y[-1]  # two candidates that are the same
        found = ranks(torch.tensor(x), torch.tensor(y), margin=margin, neighbours=3)
        assert (found.forward.tolist(), found.backward.tolist()) == oracle_ranks(x, y, margin=margin, k=3)


def test_what_ranks_are_worth():
    found = ranks(torch.eye(4), torch.eye(4)[[0, 1, 3, 2]])
    assert top1(found.forward) == [1, 1, 0, 0]
    assert reciprocal(torch.tensor([1.0, 2.0, 4.0])) == [1, 0.5, 0.25]
    same = ranks(torch.ones(4, 2), torch.ones(4, 2))
    assert top1(same.forward) == [0] * 4, "vectors that are all alike find nothing"
    hub = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    assert top1(ranks(torch.tensor([[1.0, 0.2], [0.97, 0.25]]), hub).forward) == [1, 0]
    assert top1(ranks(torch.tensor([[1.0, 0.2], [0.6, 0.9]]), hub, margin=True).forward) == [1, 1]
