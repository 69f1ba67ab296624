"""Duplicates in units: the same verdicts however the text is cut and the values are divided; the first copy stays."""

import random
from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest

from unibert.data import duplicates, units
from unibert.data.duplicates import BOILERPLATE, DUPLICATE, NEAR_DUPLICATE, Comparison, Range, compare, verdicts_of
from unibert.data.lines import text_key
from unibert.data.units import Unit

ALPHABETS = {
    "en": "abcdefghijklmnopqrstuvwxyz",
    "ru": "абвгдежзиклмнопрстуфхцчшщыэюя",
    "ja": "あいうえおかきくけこ日本語文",
}
Row = tuple[str, str] | tuple[str, int, str]
"""(id, text), or (id, line, text) of a document of several lines."""


def sentence(code: str, number: int | str) -> str:
    rng = random.Random(f"{code} {number}")
    return " ".join("".join(rng.choices(ALPHABETS[code], k=rng.randint(3, 9))) for _ in range(20))


def edited(text: str) -> str:
    """A copy with one word changed."""
    words = text.split()
    return " ".join([*words[:7], "zzzz", *words[8:]])


def line(row: Row) -> units.Line:
    identity, *number, text = row
    return units.Line({"id": identity, **({"line": number[0]} if number else {}), "text": text}, text_key(str(text)))


def unit(folder: Path, number: int, rows: Mapping[str, Sequence[Row]], *, source: str = "s") -> Unit:
    place = folder / str(number)
    result, _ = units.write(place, source=source, kept={code: list(map(line, of)) for code, of in rows.items()})
    return Unit.from_result(number, place, result)


def verdicts(found: Sequence[Unit], code: str, *, parts: int = 1, tasks: int = 1) -> list[int]:
    """The verdict on every row of a language, in the order of the corpus."""
    ranges = [Range(code, part, parts) for part in range(parts)]
    files = []
    for number in range(tasks):
        job = Comparison(tuple(found), tuple(ranges[number::tasks]), found[0].folder.parent / f"{code}-{number}.npy")
        files += compare(job).files
    return [int(v) for each in found if code in each.slices for v in verdicts_of(each, code, files)]


def corpus(code: str) -> list[Row]:
    """150 rows and documents, in which rows come again as they are, in capitals, and with a word changed."""
    rng = random.Random(code)
    rows: list[Row] = [(f"{code}:{n}", sentence(code, n)) for n in range(100)]
    rows += [(f"{code}:d{n}", at, sentence(code, f"{n}.{at}")) for n in range(10) for at in range(1 + n % 4)]
    for number in rng.sample(range(100), k=20):
        rows.append((f"{code}:again{number}", sentence(code, number).upper() + "!"))
        rows.append((f"{code}:near{number}", edited(sentence(code, number))))
    rng.shuffle(rows)
    return rows


@pytest.mark.parametrize("code", ALPHABETS)
def test_verdicts_do_not_depend_on_units_ranges_and_tasks(tmp_path: Path, code: str) -> None:
    rows = corpus(code)
    whole = verdicts([unit(tmp_path / "whole", 0, {code: rows})], code)
    assert whole.count(DUPLICATE) == 20 and whole.count(NEAR_DUPLICATE) >= 18 and not whole.count(BOILERPLATE)
    other = {"en": corpus("en")} if code != "en" else {"ru": corpus("ru")}
    cuts = [0, 1, 40, 41, 100, len(rows)]
    pieces = [rows[start:stop] for start, stop in pairwise(cuts)]
    found = [unit(tmp_path / "cut", n, {**other, code: piece}) for n, piece in enumerate(pieces)]
    found.insert(2, unit(tmp_path / "cut", 9, other))  # a unit without the language, and numbers that are not in order
    for parts, tasks in ((1, 1), (7, 3)):
        assert verdicts(found, code, parts=parts, tasks=tasks) == whole


def test_ranges_cover_every_value_once() -> None:
    for dtype in (np.uint32, np.uint64):
        most = np.iinfo(dtype).max
        values = np.sort(np.random.default_rng(1).integers(0, most, size=1000, dtype=dtype, endpoint=True))
        values[[0, -1]] = 0, most
        for parts in (1, 2, 3, 1000):
            places = [Range("en", part, parts).of(values) for part in range(parts)]
            assert [place.start for place in places[1:]] == [place.stop for place in places[:-1]]
            assert (places[0].start, places[-1].stop) == (0, 1000)
        assert Range("en", 0, 3).of(values[:0]) == slice(0, 0)


def test_the_first_of_equal_texts_stays_whatever_the_unit(tmp_path: Path) -> None:
    text = sentence("en", 1)
    found = [
        unit(tmp_path, 0, {"ru": [("r", text)], "en": [("a", sentence("en", 2)), ("b", text)]}),
        unit(tmp_path, 1, {"en": [("c", text.upper()), ("d", sentence("en", 3)), ("e", f"«{text}»")]}),
        unit(tmp_path, 2, {"en": [("f", text)]}),
    ]
    assert verdicts(found, "en") == [0, 0, DUPLICATE, 0, DUPLICATE, DUPLICATE]
    assert verdicts(found, "ru") == [0]  # the same text in another language is another matter


def test_a_near_duplicate_goes_when_an_earlier_text_is_near(tmp_path: Path) -> None:
    rows: list[Row] = [("a", sentence("en", 1)), ("b", sentence("en", 2)), ("c", edited(sentence("en", 1)))]
    found = [unit(tmp_path, n, {"en": [row], "ru": [row]}) for n, row in enumerate(rows)]
    assert verdicts(found, "en") == verdicts(found, "ru") == [0, 0, NEAR_DUPLICATE]
    found = [unit(tmp_path, n, {"en" if n < 2 else "ru": [row]}) for n, row in enumerate(rows)]
    assert verdicts(found, "en") == [0, 0] and verdicts(found, "ru") == [0]


def test_a_line_of_many_documents_is_boilerplate_and_no_copy_stays(tmp_path: Path) -> None:
    notice, often = sentence("en", "notice"), sentence("en", "often")
    many = duplicates.BOILERPLATE_DOCUMENTS

    def document(number: int, *texts: str) -> list[Row]:
        own = sentence("en", number)
        return [(f"d{number}", at, text) for at, text in enumerate([own, *texts])]

    documents = [document(n, notice, *([often] * 3 if n < many - 1 else [])) for n in range(many)]
    single: list[Row] = [(f"s{n}", often) for n in range(many)]  # of no document of several lines
    pieces = [*documents[:4], single, list(chain.from_iterable(documents[4:]))]
    found = [unit(tmp_path, number, {"en": rows}) for number, rows in enumerate(pieces)]
    by_text: dict[str, list[int]] = {}
    texts = [row["text"] for each in found for row in each.rows("en")]
    for text, verdict in zip(texts, verdicts(found, "en", parts=3), strict=True):
        by_text.setdefault(text, []).append(verdict)
    assert sorted(by_text[notice]) == [DUPLICATE] * (many - 1) + [BOILERPLATE]
    assert sorted(by_text[often]) == [0] + [DUPLICATE] * (4 * many - 4)
    assert all(by_text[sentence("en", n)] == [0] for n in range(1, many))


def test_lines_that_come_again_in_one_document_are_no_boilerplate(tmp_path: Path) -> None:
    refrain: list[Row] = [("song", at, sentence("en", "refrain")) for at in range(20)]
    assert verdicts([unit(tmp_path, 0, {"en": refrain})], "en") == [0] + [DUPLICATE] * 19


def test_a_language_without_rows_in_a_range_or_at_all(tmp_path: Path) -> None:
    found = [unit(tmp_path, 0, {"en": [("a", sentence("en", 1))], "ru": []})]
    assert verdicts(found, "en", parts=64, tasks=5) == [0] and verdicts(found, "ru") == []
    assert "ru" not in found[0].slices
