"""The rules that make clean text, and the duplicate finder, on texts of several scripts."""

import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from unibert.data.cleaning import clean_text, reason_to_drop
from unibert.data.dedup import Line, near_duplicates, split, spread
from unibert.data.lines import read_rows, text_key, write_rows
from unibert.errors import DataError


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        (unicodedata.normalize("NFD", "Größe über alles"), "Größe über alles"),
        ("left\u200eto\u202eright\x07 text\ufeff", "lefttoright text"),
        ("two\n\tlines\u00a0here", "two lines here"),
        ("* # a list item =", "a list item"),
        ("می\u200cخواهم", "می\u200cخواهم"),  # the joiner is part of the word
    ],
)
def test_clean_text(raw: str, clean: str) -> None:
    assert clean_text(raw) == clean


@pytest.mark.parametrize(
    ("language", "text", "reason"),
    [
        ("en", "This is a plain sentence, as it should be.", None),
        ("ru", "Это обычное предложение на русском языке.", None),
        ("zh", "这是一个普通的句子。", None),
        ("ja", "これはふつうの文です。", None),
        ("th", "นี่คือประโยคธรรมดาในภาษาไทย", None),
        ("hi", "यह हिंदी में एक साधारण वाक्य है।", None),
        ("sr", "Ово је обична реченица на српском.", None),
        ("en", "Too short", "length"),
        ("zh", "太短了。", "length"),
        ("en", "word " * 401, "length"),
        ("en", "Do you want to delete $1 from here?", "markup"),
        ("en", "The file %s could not be opened at all.", "markup"),
        ("en", "Open { -brand-short-name } once more please", "markup"),
        ("en", "Dollars: $5 were given, or was it $1?", "markup"),
        ("en", "The image $image must be an object", "markup"),
        ("en", "It cost them $400 million, or about $1,200 for every head of the population", None),
        ("en", "They paid $3 million for the whole company", None),
        ("ru", "Они заплатили $3 млн за всю компанию", None),
        ("en", "He wrote that it was their [sic] own fault", None),
        ("en", "We hold these truths [...] that all are equal", None),
        ("ja", "彼は[後に]東京へ移った。", None),
        ("en", "Then [Lord Henry] went home to his [elder] sister", None),
        ("en", "Property that has [LenientThis] is ignored", "markup"),
        ("en", "The [[Moon|moon]] is full this very night", "markup"),
        ("en", "See the [manual](manual page) for details", "markup"),
        ("en", "[Wikipedia] Please confirm your address", "markup"),
        ("en", "Usage is program [-x] and then [OPTIONS]", "markup"),
        ("en", "A bracket that is never closed [is markup", "markup"),
        ("en", "And one that was never opened] is markup too", "markup"),
        ("de", "Das ist eine 100%ige Lösung des Problems", None),
        ("en", "The file %1$s was moved there by %2$s", "markup"),
        ("en", "See https://example.org for the details", "markup"),
        ("en", "Left <b>over markup in the sentence", "markup"),
        ("my", "ဝင်ရန် ြပန်သွားပါ ဆိုသည့် စာကြောင်း", "broken"),
        ("ta", "\ufffdபக்கங்களை உருவாக்குதல் மற்றும் தொகுத்தல்", "broken"),
        ("en", "Internationalisation settings", "words"),
        ("en", "8, 1, 2, 7, 6, 3, 4, 5 is the order", "letters"),
        ("ru", "This one was left in English by them", "script"),
        ("sr", "Ovo je rečenica u drugom pismu", "script"),
        ("en", "Это предложение не на английском", "script"),
        ("ru", "Файл config был сохранён на сервере", None),  # some letters of another script are fine
    ],
)
def test_reason_to_drop(language: str, text: str, reason: str | None) -> None:
    assert reason_to_drop(text, language) == reason


def test_text_key_sees_through_case_spaces_and_punctuation_but_not_marks() -> None:
    assert text_key("Hello,  World!") == text_key("hello world") == text_key("«HELLO» – world…")
    assert text_key("ﬁle１") == text_key("file1")
    assert text_key("कि") != text_key("की")  # differ by a combining vowel
    assert text_key("can") != text_key("can't")


def sentences(count: int, *, seed: int, alphabet: str = "abcdefghijklmnopqrstuvwxyz") -> list[str]:
    random.seed(seed)
    words = ["".join(random.choices(alphabet, k=random.randint(3, 9))) for _ in range(4000)]
    return [" ".join(random.choices(words, k=random.randint(8, 20))) for _ in range(count)]


def test_near_duplicates_finds_planted_pairs_and_nothing_else() -> None:
    texts = sentences(600, seed=1)
    planted = [text[:10] + "x" + text[11:] for text in texts[:200]]
    drop = near_duplicates([*texts, *planted])
    assert not drop[:600].any()  # the first of a pair stays, unrelated texts stay
    assert drop[600:].mean() > 0.9  # MinHash may miss a few


def test_near_duplicates_agrees_with_all_pairs() -> None:
    texts = sentences(120, seed=2)
    rng = random.Random(3)
    for text in texts[:60]:
        words = text.split()
        for _ in range(rng.randint(1, 6)):
            words[rng.randrange(len(words))] = rng.choice(words)
        texts.append(" ".join(words))

    def shingles(text: str) -> set[str]:
        return {text[at : at + 5] for at in range(len(text) - 4)}

    sets = [shingles(text) for text in texts]
    drop = near_duplicates(texts)
    for row in np.flatnonzero(drop):  # each dropped text has a kept, earlier one that is similar enough
        assert any(
            not drop[other] and len(sets[row] & sets[other]) >= 0.8 * len(sets[row] | sets[other])
            for other in range(row)
        )
    for row in np.flatnonzero(~drop):  # and none that stays is nearly equal to another that stays
        assert not any(
            not drop[other] and len(sets[row] & sets[other]) >= 0.95 * len(sets[row] | sets[other])
            for other in range(row)
        )


def test_near_duplicates_of_short_and_few_texts() -> None:
    assert near_duplicates([]).tolist() == []
    assert near_duplicates(["a"]).tolist() == [False]
    assert near_duplicates(["ab", "", "ab", "abc"], shingle=5).tolist() == [False, False, True, False]


def lines(source: str, count: int) -> list[Line]:
    return [Line(f"{source}:{n}", f"text {n}", source, f"{source}{n}") for n in range(count)]


def test_spread_is_even_over_sources_and_independent_of_file_order() -> None:
    found = lines("big", 1000) + lines("small", 10) + lines("middle", 100)
    order = spread(found)
    first = [line.source for line in order[:90]]
    assert (first.count("small"), first.count("middle"), first.count("big")) == (10, 40, 40)
    assert spread(reversed(found)) == order
    assert [line.id for line in order if line.source == "big"] != [f"big:{n}" for n in range(1000)]


def test_split_takes_a_part_with_the_same_mixture() -> None:
    order = spread(lines("big", 5000) + lines("small", 300))
    held, rest = split(order, heldout=100, cap=2000)
    assert len(held) == 100 and not set(held) & set(rest) and len(held) + len(rest) == 5300
    share = sum(line.source == "small" for line in held) / 100
    assert share == pytest.approx(sum(line.source == "small" for line in rest[:2000]) / 2000, abs=0.02)
    held, rest = split(order[:40], heldout=100, cap=2000)
    assert (len(held), len(rest)) == (10, 30)  # a poor language gives a quarter at most


def test_a_damaged_row_is_named_by_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    assert write_rows(path, ({"id": str(number)} for number in range(3))) == 3
    path.write_text(path.read_text() + '{"id": "3", "te')
    with pytest.raises(DataError, match=r"x\.jsonl:4"):
        list(read_rows(path))


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_rows(path, [{"id": "old"}])

    def rows():  # type: ignore[no-untyped-def]
        yield {"id": "new"}
        raise RuntimeError("cut off")

    with pytest.raises(RuntimeError, match="cut off"):
        write_rows(path, rows())
    assert list(read_rows(path)) == [{"id": "old"}] and list(tmp_path.iterdir()) == [path]
