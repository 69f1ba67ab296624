"""The rules that make clean text, on texts of several scripts, and the files that it is written to."""

import unicodedata
from pathlib import Path

import pytest

from unibert.data.curation.prose import reason_to_drop
from unibert.data.curation.unicode import clean_text
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
