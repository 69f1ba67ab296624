"""Held-out and evaluation texts are shown to be absent from the shards of made-up text, and found where planted."""

import json
import random
from pathlib import Path

import pytest

from tests.unit.small_data import TEXT, recipe, write_rows, write_teacher
from unibert.data import check, cleaning, dedup, pairing, parallel, tokenizing
from unibert.data.lines import file_facts, read_json, read_rows, write_json
from unibert.data.work import ALONE, crew
from unibert.errors import DataError
from unibert.schema import Recipe

CODES = ("en", "de", "ru")
LETTERS = {code: sorted({letter for letter in "".join(TEXT[code]).lower() if letter.isalpha()}) for code in CODES}


def sentence(code: str, number: int) -> str:
    """A text of a language that is like no other."""
    rng = random.Random(f"{code} {number}")
    return " ".join("".join(rng.choices(LETTERS[code], k=rng.randint(3, 8))) for _ in range(9)) + "."


def evaluation(of: Recipe, *rows: dict) -> Recipe:
    """The recipe with an evaluation set."""
    path = of.data.folder.parent / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return of.model_copy(update={"data": of.data.model_copy(update={"evaluation_sets": (path,)})})


@pytest.fixture
def made(tmp_path: Path) -> Recipe:
    """A data folder after every stage, from 200 messages in three languages."""
    raw = tmp_path / "data/raw"
    raw.mkdir(parents=True)
    rows = [
        {"id": f"mediawiki:{number}", "language": code, "text": sentence(code, number), "licence": "CC0"}
        for code in CODES
        for number in range(200)
    ]
    write_rows(raw / "mediawiki-00000.jsonl", rows)
    stamp = {
        "files": file_facts([raw / "mediawiki-00000.jsonl"], raw),
        "licence": "CC0",
        "rows": len(rows),
        "languages": dict.fromkeys(CODES, 200),
    }
    write_json(raw / "manifest.json", {"sources": {"mediawiki": stamp}, "skipped": {}})
    data = {"folder": tmp_path / "data", "parallel": [{"kind": "demo"}], "max_sequence_tokens": 256}
    data |= {"heldout_lines_per_language": 20, "heldout_keys": 20, "identify_languages": False}
    write_teacher(tmp_path / "teacher", codes=CODES)
    of = recipe(tmp_path, languages=CODES, data=data)
    parallel.run(of)
    of = evaluation(
        of, {"id": 1, "context": f"It is said: {trained(of, 'en')[0]}"}, {"text": trained(of, "ru")[1].upper()}
    )
    again(of)
    return of


def trained(of: Recipe, code: str) -> list[str]:
    """Texts of a language that are not held out for retrieval."""
    held = {row["texts"].get(code) for row in read_rows(of.data.folder / "heldout/parallel.jsonl")}
    return [text for number in range(200) if (text := sentence(code, number)) not in held]


def again(of: Recipe) -> None:
    """The stages from clean on."""
    for stage in (cleaning, dedup, tokenizing, pairing):
        stage.run(of)


def hits(report: dict) -> dict[str, int]:
    """By code and test, where there are any."""
    return {
        f"{code} {test}": entry[test]["hits"]
        for code, entry in report["languages"].items()
        for test in check.TESTS
        if entry[test]["hits"]
    }


def test_nothing_kept_out_is_in_the_shards(made: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made.data.folder
    report = check.run(made)
    assert report == read_json(folder / "check.json")
    assert hits(report) == {} and report["heldout_texts"] == 3 * 20 + 3 * 20 and report["evaluation_files"] == 1
    assert report["shards"] == ["shards", "shards_parallel/en-de", "shards_parallel/en-ru"]
    dropped = read_json(folder / "cleaned/report.json")["languages"]
    assert [dropped[code].get("evaluation") for code in CODES] == [1, None, 1], "there was nothing to leave out"
    assert [dropped[code].get("heldout") for code in CODES] == [20, 20, 20]
    rows = {code: entry["rows"] for code, entry in read_json(folder / "clean/report.json")["languages"].items()}
    pairs = read_json(folder / "shards_parallel/manifest.json")["language_pairs"]
    pairs = {name: entry["pairs"] for name, entry in pairs.items()}
    assert {code: entry["samples"] for code, entry in report["languages"].items()} == {
        "en": rows["en"] + pairs["en-de"] + pairs["en-ru"],
        "de": rows["de"] + pairs["en-de"],
        "ru": rows["ru"] + pairs["en-ru"],
    }
    assert min(rows.values()) > 150 and min(pairs.values()) > 130
    assert "no data.evaluation_sets" not in capsys.readouterr().out


def test_what_was_planted_is_found_in_any_language(made: Recipe) -> None:
    folder = made.data.folder
    line = next(read_rows(folder / "heldout/lines/ru.jsonl"))["text"]
    message = next(read_rows(folder / "heldout/parallel.jsonl"))["texts"]
    planted = [line.upper(), f"He said: «{trained(made, 'en')[0]}»", f"{message['de']} and more of it"]
    with (folder / "clean/de-00000.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps({"id": text, "source": "own", "text": text}) + "\n" for text in planted)
    tokenizing.run(made)
    pairing.run(made)  # the tokenizer may be another now
    with pytest.raises(
        DataError, match=r"in the shards of de: de, evaluation: .He said.*; de, heldout: .*again: .*clean"
    ):
        check.run(made)
    report = read_json(folder / "check.json")
    assert hits(report) == {"de evaluation": 1, "de heldout": 1, "de passage": 1}
    assert trained(made, "en")[0] in report["languages"]["de"]["evaluation"]["examples"][0]
    with crew(2) as those, pytest.raises(DataError):
        check.run(made, force=True, crew=those or ALONE)
    assert read_json(folder / "check.json") == report


def test_a_new_evaluation_set_is_found_and_the_stages_leave_it_out(made: Recipe) -> None:
    held = {row["text"] for row in read_rows(made.data.folder / "heldout/lines/ru.jsonl")}
    text = next(text for text in trained(made, "ru")[2:] if text not in held)
    tested = evaluation(made, {"text": text})
    with pytest.raises(DataError, match=r"ru, evaluation: "):
        check.run(tested)
    assert hits(read_json(made.data.folder / "check.json")) == {"ru evaluation": 2}  # in the aligned shards too
    again(tested)
    assert hits(check.run(tested)) == {}
    none = made.model_copy(update={"data": made.data.model_copy(update={"evaluation_sets": ()})})
    assert hits(check.run(none)) == {}


def test_without_shards_there_is_nothing_to_check(made: Recipe) -> None:
    (made.data.folder / "shards_parallel/manifest.json").unlink()
    assert check.run(made)["shards"] == ["shards"]
    (made.data.folder / "shards/manifest.json").unlink()
    with pytest.raises(DataError, match="begun but not finished; make them: unibert data tokenize"):
        check.run(made)
