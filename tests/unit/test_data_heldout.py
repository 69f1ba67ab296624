"""parallel, clean and dedup over made-up raw text: nothing held out is trained on, and every row is accounted for."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from unibert.data import cleaning, dedup, parallel
from unibert.data.lines import document_of, file_facts, read_json, read_rows, text_key, write_json, write_row_files
from unibert.errors import DataError
from unibert.evaluate.tasks.texts import heldout_texts
from unibert.objective_tables import MaskedLM, Objectives
from unibert.schema import Data, Recipe, Student

ALPHABETS = {
    "en": "abcdefghijklmnopqrstuvwxyz",
    "de": "abcdefghijklmnopqrstuvwxyzäöü",
    "ru": "абвгдежзиклмнопрстуфхцчшщыэюя",
    "el": "αβγδεζηθικλμνξοπρστυφχψω",
}
LANGUAGES = tuple(ALPHABETS)


def sentence(code: str, number: int, *, topic: str) -> str:
    rng = random.Random(f"{code} {number} {topic}")
    words = ["".join(rng.choices(ALPHABETS[code], k=rng.randint(3, 9))) for _ in range(rng.randint(7, 14))]
    return " ".join(words).capitalize() + "."


def raw_rows(source: str, count: int) -> Iterator[dict[str, str]]:
    for code in LANGUAGES:
        for number in range(count):
            if (number + len(code) + LANGUAGES.index(code)) % 7 == 0 and code != "en":
                continue  # not every message has every translation
            text = sentence(code, number, topic=source)
            yield {"id": f"{source}:k{number}", "language": code, "text": text, "source": source, "licence": "CC0"}


def write_raw(folder: Path, sources: dict[str, list[dict[str, str]]]) -> None:
    """raw/ as the fetch leaves it."""
    stamps = {}
    for name, rows in sources.items():
        files = write_row_files(folder / "raw" / name, rows, together=document_of, size=1e9)
        stamps[name] = {"files": file_facts(files, folder / "raw")}
    write_json(folder / "raw" / "manifest.json", {"sources": stamps})


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """300 aligned messages in four languages, and a second source that repeats some of them in other clothes."""
    messages = list(raw_rows("mediawiki", 300))
    for row in [row for row in messages if row["language"] in ("en", "de")]:  # a twin: the same English, other German
        text = row["text"] if row["language"] == "en" else sentence("de", 0, topic=row["id"])
        messages.append(row | {"id": row["id"].replace(":k", ":twin"), "text": text})
    other = list(raw_rows("other", 200))
    for number, row in enumerate(messages[::3]):  # the same text again: shouted, under other keys, in any language
        code = LANGUAGES[number % 2] if row["language"] in ("en", "de") else row["language"]
        other.append(row | {"id": f"other:again{number}", "source": "other", "text": f"«{row['text'].upper()}»"})
        other.append(row | {"id": f"other:near{number}", "source": "other", "text": row["text"] + " x"})
        other.append(row | {"id": f"other:moved{number}", "source": "other", "language": code})
    other.append(other[0] | {"id": "other:untranslated", "language": "de", "text": sentence("en", 5, topic="other")})
    other.append(other[0] | {"id": "other:markup", "text": "Please look at {{this}} once more today."})
    write_raw(tmp_path, {"mediawiki": messages, "other": sorted(other, key=lambda row: row["language"] != "en")})
    return Recipe(
        name="test",
        languages=LANGUAGES,
        data=Data(folder=tmp_path, max_lines_per_language=250, heldout_keys=40, heldout_lines_per_language=30),
        student=Student(start="random"),
        objectives=Objectives(masked_lm=MaskedLM()),
    )


def run_all(recipe: Recipe, *, force: bool = False) -> tuple[dict, dict, dict]:
    return tuple(stage.run(recipe, force=force) for stage in (parallel, cleaning, dedup))  # type: ignore[return-value]


def texts_of(recipe: Recipe, folder: str) -> dict[str, list[dict[str, str]]]:
    files = {code: sorted((recipe.data.folder / folder).glob(f"{code}*.jsonl")) for code in recipe.languages}
    return {code: [row for path in paths for row in read_rows(path)] for code, paths in files.items()}


def test_labelled_tasks_read_the_folder_that_is_held_out(recipe: Recipe, tmp_path: Path) -> None:
    run_all(recipe)
    (tmp_path / "labelled").mkdir()
    (tmp_path / "labelled" / "heldout").symlink_to(recipe.data.folder.absolute() / "heldout")
    lines = texts_of(recipe, "heldout/lines")
    found = heldout_texts(tmp_path / "labelled")
    assert found == {"heldout": {code: [row["text"] for row in lines[code]] for code in LANGUAGES}}


def test_nothing_held_out_is_in_clean(recipe: Recipe) -> None:
    run_all(recipe)
    folder = recipe.data.folder
    messages = list(read_rows(folder / "heldout" / "parallel.jsonl"))
    lines = texts_of(recipe, "heldout/lines")
    clean = texts_of(recipe, "clean")
    assert len(messages) == 40
    assert all(len(rows) == 30 for rows in lines.values())

    clean_keys = {text_key(row["text"]) for rows in clean.values() for row in rows}
    clean_ids = {row["id"] for rows in clean.values() for row in rows}
    parallel_keys = {text_key(text) for message in messages for text in message["texts"].values()}
    line_keys = {text_key(row["text"]) for rows in lines.values() for row in rows}
    assert not clean_keys & parallel_keys  # in no language, from no source, in no other case or punctuation
    assert not clean_keys & line_keys
    assert not parallel_keys & line_keys
    assert not clean_ids & {message["key"] for message in messages}  # nor any translation under the same key
    assert not clean_ids & {message["key"].replace(":k", ":twin") for message in messages}  # nor of an equal message
    for code in LANGUAGES:  # near duplicates go too, in their language: "text x" is there for every third message
        held = [message["texts"].get(code, "") for message in messages] + [row["text"] for row in lines[code]]
        assert not {text_key(row["text"]) for row in clean[code]} & {text_key(text + "x") for text in held}

    raw = {text_key(row["text"]) for row in read_rows(folder / "raw" / "other-00000.jsonl")}
    assert parallel_keys & raw, "the test proves nothing unless held-out texts are also in the other source"


def test_clean_has_no_duplicates_no_markup_and_no_english_in_german(recipe: Recipe) -> None:
    *_, report = run_all(recipe)
    for rows in texts_of(recipe, "clean").values():
        keys = [text_key(row["text"]) for row in rows]
        assert len(keys) == len(set(keys)) <= 250
        assert {row["source"] for row in rows} == {"mediawiki", "other"}
    ids = {row["id"] for rows in texts_of(recipe, "clean").values() for row in rows}
    assert not ids & {"other:untranslated", "other:markup"}
    dropped = report["languages"]["de"]["dropped"]
    assert dropped["english"] >= 1 and dropped["duplicate"] > 0 and dropped["near_duplicate"] > 0
    assert report["languages"]["en"]["dropped"]["markup"] == 1


def test_every_raw_row_is_accounted_for(recipe: Recipe) -> None:
    *_, report = run_all(recipe)
    raw: dict[str, int] = dict.fromkeys(LANGUAGES, 0)
    for name in ("mediawiki", "other"):
        for row in read_rows(recipe.data.folder / "raw" / f"{name}-00000.jsonl"):
            raw[row["language"]] += 1
    clean = texts_of(recipe, "clean")
    for code, entry in report["languages"].items():
        assert entry["rows_in"] == raw[code]
        assert entry["rows_in"] == entry["rows"] + entry["heldout_lines"] + sum(entry["dropped"].values())
        assert entry["rows"] == len(clean[code])
        assert entry["characters"] == sum(len(row["text"]) for row in clean[code])
    assert report["rows"] == sum(entry["rows"] for entry in report["languages"].values())


def test_the_parallel_part_is_long_enough_and_in_most_languages(recipe: Recipe) -> None:
    report = parallel.run(recipe)
    messages = list(read_rows(recipe.data.folder / "heldout" / "parallel.jsonl"))
    assert all(len(message["texts"]["en"]) >= 30 for message in messages)
    assert all(len(message["texts"]) == 4 for message in messages)  # enough messages have all four
    assert report["languages"] == dict.fromkeys(sorted(LANGUAGES), 40)


def written(recipe: Recipe, *folders: str) -> dict[str, int]:
    """When each file of the folders was written; what is put together anew in every run left out."""
    anew = {"report.json", "dropped.jsonl", *(f"{code}.jsonl" for code in LANGUAGES)}
    paths = (path for folder in folders for path in (recipe.data.folder / folder).rglob("*") if path.is_file())
    return {str(path): path.stat().st_mtime_ns for path in paths if path.name not in anew}


def test_stages_are_skipped_when_done_and_repeat_to_the_byte(recipe: Recipe) -> None:
    stages = ("heldout", "cleaned", "dedup", "clean")
    reports = run_all(recipe)
    folder = recipe.data.folder
    before = {path: path.read_bytes() for stage in stages for path in (folder / stage).rglob("*") if path.is_file()}
    when = written(recipe, *stages)
    assert run_all(recipe) == reports and written(recipe, *stages) == when
    assert run_all(recipe, force=True) == reports
    again = written(recipe, *stages)
    assert again.keys() == when.keys() and all(again[path] > when[path] for path in when)
    assert {path: path.read_bytes() for path in before} == before


def test_another_cap_redoes_only_the_last_stage(recipe: Recipe) -> None:
    run_all(recipe)
    before = written(recipe, "cleaned", "dedup")
    data = recipe.data.model_copy(update={"max_lines_per_language": 60})
    *_, report = run_all(recipe.model_copy(update={"data": data}))
    after = written(recipe, "cleaned", "dedup")
    assert {path for path in after if after[path] != before[path]} == {path for path in after if "/chosen/" in path}
    cleaned = read_json(recipe.data.folder / "cleaned" / "report.json")["languages"]
    for code, entry in report["languages"].items():
        # Of the 60 that may be kept those go that are held out in another language.
        like_heldout = entry["dropped"]["heldout"] - cleaned[code]["heldout"]
        assert 60 - like_heldout <= entry["rows"] <= 60 and like_heldout < 60
    assert sum(entry["rows"] for entry in report["languages"].values()) > 230


def test_the_same_english_under_another_key_is_held_out_in_every_language() -> None:
    texts = {"en": "A message that is quite long enough.", "de": "Eine Nachricht, die lang genug ist."}
    messages = {"mw:a": texts, "mw:b": {"en": "a message that is quite long ENOUGH", "de": "Etwas anderes steht hier."}}
    chosen = parallel.choose(messages, count=5)
    assert len(chosen) == 1
    assert parallel.same_english(messages, chosen) == {"mw:a", "mw:b"}


def test_a_translation_that_occurs_twice_is_left_out_of_the_second_message() -> None:
    messages = {
        "mw:a": {"en": "The first message is about apples.", "de": "Eine Nachricht.", "fr": "Un message."},
        "mw:b": {"en": "Another sentence speaks of old pears.", "de": "Eine Nachricht.", "fr": "Autre chose."},
    }
    chosen = parallel.choose(messages, count=2)
    assert sorted(len(texts) for texts in chosen.values()) == [2, 3]


def test_stages_out_of_order_say_what_to_run(recipe: Recipe) -> None:
    with pytest.raises(DataError, match="fetch, parallel, clean, dedup"):
        cleaning.run(recipe)
    with pytest.raises(DataError, match="fetch, parallel, clean, dedup"):
        dedup.run(recipe)


def test_a_language_without_text_is_an_error_that_names_it(recipe: Recipe) -> None:
    wider = recipe.model_copy(update={"languages": (*LANGUAGES, "fr")})
    parallel.run(wider)
    cleaning.run(wider)
    with pytest.raises(DataError, match=r"^fr: no text"):
        dedup.run(wider)


def test_without_an_aligned_source_the_parallel_part_is_empty_and_this_is_said(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = recipe.data.folder / "raw" / "manifest.json"
    content = read_json(manifest)
    del content["sources"]["mediawiki"]
    write_json(manifest, content)
    _, _, report = run_all(recipe)
    assert "retrieval cannot be measured" in capsys.readouterr().out
    assert list(read_rows(recipe.data.folder / "heldout" / "parallel.jsonl")) == []
    assert report["rows"] > 0
