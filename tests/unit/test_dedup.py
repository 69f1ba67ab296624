"""clean and dedup over several files of lines and of documents: exact numbers, whole documents, nothing held out."""

import random
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from tests.unit.small_data import recipe as small_recipe
from unibert.data import cleaning, dedup, parallel
from unibert.data.curation import near
from unibert.data.lines import document_of, file_facts, read_rows, text_key, write_json, write_row_files
from unibert.schema import Recipe

LANGUAGES = ("de", "en", "fr")
Rows = list[dict]


def sentence(code: str, number: int | str) -> str:
    rng = random.Random(f"{code} {number}")
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 9))) for _ in range(24)]
    return f"{' '.join(words)}."


def lines(code: str, count: int) -> Iterator[dict]:
    """Rows that are a document each, some of them in every language."""
    for number in range(count):
        text = sentence("all" if number % 5 == 0 else code, number)
        yield {"id": f"lines:{code}:{number}", "language": code, "text": text}


def documents(code: str, count: int) -> Iterator[dict]:
    """Documents of three to nine lines; every tenth has a line changed from another document's."""
    for number in range(count):
        for at in range(3 + number % 7):
            text = sentence(code, f"{number}.{at}")
            if number % 10 == 9 and at == 1:
                text = sentence(code, f"{number - 1}.1").replace(" ", " new ", 1)
            yield {"id": f"wiki:{code}:{number}", "line": at, "language": code, "text": text}


def prepared(folder: Path, sources: dict[str, Sequence[dict]], *, size: int = 1 << 24, **data: object) -> Recipe:
    """A recipe, and raw/ in files of about `size` bytes; no message is held out in all languages."""
    stamps = {}
    for name, rows in sources.items():
        files = write_row_files(folder / "raw" / name, rows, together=document_of, size=size)
        stamps[name] = {"files": file_facts(files, folder / "raw")}
    write_json(folder / "raw" / "manifest.json", {"sources": stamps})
    of = small_recipe(folder, languages=LANGUAGES, data={"identify_languages": False, **data})
    parallel.run(of)
    cleaning.run(of)
    return of


def both(*, count: int) -> dict[str, Rows]:
    return {
        "lines": [row for code in LANGUAGES for row in lines(code, 4 * count)],
        "wiki/a": [row for code in LANGUAGES for row in documents(code, count)],
    }


def rows_of(recipe: Recipe, part: str) -> dict[str, Rows]:
    """The rows of clean/ or heldout/lines/, by language."""
    files = {code: sorted((recipe.data.folder / part).glob(f"{code}*.jsonl")) for code in LANGUAGES}
    return {code: [row for path in paths for row in read_rows(path)] for code, paths in files.items()}


def in_files_of(recipe: Recipe, size: int) -> Recipe:
    """The recipe with files of clean text of about so many bytes."""
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"file_mib": size / 2**20})})


def test_how_the_work_is_divided_does_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"max_lines_per_language": 300, "heldout_lines_per_language": 30}
    whole = prepared(tmp_path / "whole", both(count=50), **limits)
    dedup.run(whole)
    cut = prepared(tmp_path / "cut", both(count=50), size=9000, **limits)
    monkeypatch.setattr(dedup, "ROWS_AT_ONCE", 37)
    report = dedup.run(in_files_of(cut, 12000))
    assert (
        min(map(len, report["files"].values())) > 3 and len(list((cut.data.folder / "cleaned").rglob("keys.npy"))) > 20
    )
    for part in ("clean", "heldout/lines"):
        assert rows_of(cut, part) == rows_of(whole, part)
    assert report["languages"] == dedup.run(whole)["languages"]


def test_numbers_are_exact_for_single_lines(tmp_path: Path) -> None:
    rows = [row | {"text": sentence(code, row["id"])} for code in LANGUAGES for row in lines(code, 400)]
    of = prepared(tmp_path, {"lines": rows}, max_lines_per_language=150, heldout_lines_per_language=40)
    report = dedup.run(of)
    for code, entry in report["languages"].items():
        assert (entry["rows"], entry["heldout_lines"]) == (150, 40) and entry["dropped"] == {"over_cap": 210}
        assert (len(rows_of(of, "clean")[code]), len(rows_of(of, "heldout/lines")[code])) == (150, 40)


def test_documents_stay_whole_and_in_order(tmp_path: Path) -> None:
    of = prepared(tmp_path, {"wiki/a": both(count=80)["wiki/a"]}, max_lines_per_language=200)
    dedup.run(of)
    for code in LANGUAGES:
        kept, held = (rows_of(of, part)[code] for part in ("clean", "heldout/lines"))
        assert 190 < len(kept) <= 200 and 90 < len(held) <= 100
        assert not {row["id"] for row in kept} & {row["id"] for row in held}
        numbers = [int(row["id"].rpartition(":")[2]) for row in kept]
        assert numbers == sorted(numbers)
        for rows in (kept, held):
            for identity, document in groupby(rows, key=document_of):
                number, found = int(identity.rpartition(":")[2]), [row["line"] for row in document]
                copied = {1} if number % 10 == 9 else set()  # its second line is a near duplicate
                assert found == [at for at in range(3 + number % 7) if at not in copied]


def test_nothing_that_is_held_out_is_trained_on_in_any_language(tmp_path: Path) -> None:
    """Lines that every language has, repeated in documents, in capitals and with a word more."""
    sources = both(count=60)
    sources["wiki/b"] = [
        {"id": f"b:{number}", "line": at, "language": code, "text": text}
        for code in LANGUAGES
        for number in range(60)
        for at, text in enumerate(
            [sentence("all" if number % 5 == 0 else code, number).upper(), sentence(code, 3 * number)[:-1] + " more."]
            + [sentence(code, f"own {number} {n}") for n in range(2)]
        )
    ]
    of = prepared(tmp_path, sources, max_lines_per_language=600, heldout_lines_per_language=60)
    report = dedup.run(of)
    clean, held = rows_of(of, "clean"), rows_of(of, "heldout/lines")
    keys = {text_key(row["text"]) for rows in clean.values() for row in rows}
    held_keys = {text_key(row["text"]) for rows in held.values() for row in rows}
    assert held_keys and not keys & held_keys
    assert {text_key(sentence("all", number)) for number in range(0, 240, 5)} & held_keys, "this would prove nothing"
    assert sum(entry["dropped"].get("heldout", 0) for entry in report["languages"].values()) > 5
    for code in LANGUAGES:
        kept, out = ([text_key(row["text"]) for row in rows[code]] for rows in (clean, held))
        signed = near.signatures([*out, *kept], shingle=near.shingle_of(code))
        for place in range(len(out)):
            apart = np.repeat(signed[place : place + 1], len(kept), axis=0)
            assert not near.are_near(apart, signed[len(out) :]).any()


def test_files_of_a_corpus_that_was_larger_go(tmp_path: Path) -> None:
    of = prepared(tmp_path, both(count=30), size=9000)
    dedup.run(in_files_of(of, 12000))
    before = {path.name for path in (tmp_path / "clean").iterdir()}
    prepared(tmp_path, both(count=10))
    report = dedup.run(of)
    after = {path.name for path in (tmp_path / "clean").iterdir()}
    assert {"en-00000.jsonl", "en-00000.done.json"} < after < before and "en-00001.jsonl" not in after
    assert sum(map(len, rows_of(of, "clean").values())) == report["rows"]
