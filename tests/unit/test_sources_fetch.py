"""A recipe's own sources from the command line to shards; killed and started again; what the recipe got wrong."""

import bz2
import json
import os
import signal
import subprocess
import sys
import time
from itertools import groupby
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from tokenizers import Tokenizer

from tests.unit.small_data import write_teacher
from tests.unit.small_dumps import EDITIONS, SKIPPED, dump, sentence
from unibert.cli import main
from unibert.config import load_recipe, to_toml
from unibert.data import corpora, fetch
from unibert.data.lines import document_of, read_rows
from unibert.data.shards import ShardSet
from unibert.errors import ConfigError, DataError

CODES = tuple(EDITIONS)


def write_corpora(folder: Path) -> None:
    """A corpus of every kind: dumps of all languages, and each other kind in one or two of them."""
    (folder / "wiki").mkdir(parents=True)
    for code in CODES:
        packed = bz2.compress(dump(code).encode())
        (folder / "wiki" / f"{code}wiki-20240101-pages-articles.xml.bz2").write_bytes(packed)
    (folder / "wiki" / "frwiki-20240101-pages-articles.xml.bz2").write_bytes(b"of a language that is not asked for")
    for number, code in enumerate(("en", "ru")):
        lines = [sentence(code, 100 + 20 * number + n) for n in range(20)]
        (folder / f"news.{code}.txt").write_text("\n".join(lines), encoding="utf-8")
    rows = [
        {"text": sentence(code, 200 + n), "lang": code, "n": n} for n in range(20) for code in ("ar", "ja", "fr")[:2]
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for name, start in (("p", 300), ("hub/train", 400)):
        path = folder / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        columns = {"text": [sentence("ru", start + n) for n in range(20)]}
        pyarrow.parquet.write_table(pyarrow.table(columns), path)


def write_recipe(folder: Path, sources: str, *, languages: tuple[str, ...] = CODES) -> Path:
    path = folder / "own.toml"
    path.write_text(f"""
name = "own"
languages = {json.dumps(languages)}
[data]
folder = "{folder}/data"
heldout_lines_per_language = 5
max_sequence_tokens = 64
{sources}
[teacher]
original = "{folder}/teacher"
[objectives.masked_lm]
""")
    return path


def every_kind(folder: Path) -> str:
    return f"""
[[data.sources]]
kind = "wikipedia_dump"
path = "{folder}/wiki/*.xml.bz2"

[[data.sources]]
kind = "text"
name = "news"
path = "{folder}/news.{{language}}.txt"
licence = "CC0"

[[data.sources]]
kind = "jsonl"
name = "rows"
path = "{folder}/rows.jsonl"
language_column = "lang"
id_column = "n"
licence = "CC-BY-4.0"

[[data.sources]]
kind = "parquet"
name = "table"
path = "{folder}/p.parquet"
language = "ru"
licence = "CC0"

[[data.sources]]
kind = "datasets"
name = "hub"
dataset = "{folder}/hub"
language = "ru"
title_column = ""
id_column = ""
licence = "CC0"
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    write_corpora(tmp_path)
    return write_recipe(tmp_path, every_kind(tmp_path))


def raw_bytes(folder: Path) -> dict[str, bytes]:
    raw = folder / "data" / "raw"
    return {str(path.relative_to(raw)): path.read_bytes() for path in sorted(raw.rglob("*")) if path.is_file()}


def test_every_kind_goes_from_the_command_line_to_shards(own: Path, tmp_path: Path) -> None:
    write_teacher(tmp_path / "teacher", codes=("en", "ru", "ar", "zh"))
    for stage in ("fetch", "parallel", "clean", "dedup", "tokenize"):
        main(["data", stage, str(own)])
    manifest = json.loads((tmp_path / "data" / "raw" / "manifest.json").read_text())
    by_source = {name.partition("/")[0]: stamp for name, stamp in manifest["sources"].items()}
    assert list(by_source) == ["wikipedia", "news", "rows", "table", "hub"]
    counted = {reason: entry["count"] for reason, entry in by_source["wikipedia"]["skipped"].items()}
    assert counted == SKIPPED
    assert "1 not of the recipe's languages: frwiki" in manifest["skipped"]["wikipedia"]
    clean = {code: list(read_rows(tmp_path / "data" / "clean" / f"{code}-00000.jsonl")) for code in CODES}
    sources = {code: {row["source"] for row in rows} for code, rows in clean.items()}
    assert sources["ru"] == {"wikipedia", "news", "table", "hub"} and sources["ja"] == {"wikipedia", "rows"}
    shards = ShardSet.open(tmp_path / "data" / "shards", languages=CODES, verify="checksum")
    tokenizer = Tokenizer.from_file(str(tmp_path / "data" / "tokenizer" / "tokenizer.json"))
    for language, code in enumerate(CODES):
        # The lines of a document are one text; in wikipedia an article's.
        documents = [" ".join(row["text"] for row in rows) for _, rows in groupby(clean[code], key=document_of)]
        assert 8 <= len(documents) < len(clean[code]) and shards.samples_per_language[language] >= len(documents)
        decoded = tokenizer.decode(shards.sample(language, 0).tolist())
        expected = tokenizer.normalizer.normalize_str(documents[0])  # type: ignore[union-attr]
        assert len(decoded) > 50 and expected.startswith(decoded)


def test_raw_rows_say_where_they_come_from(own: Path, tmp_path: Path) -> None:
    fetch.run(load_recipe(own))
    rows = [row for files in fetch.raw_files(load_recipe(own)).values() for file in files for row in read_rows(file)]
    keys = [(row["language"], row["id"], row["line"]) for row in rows]
    assert len(set(keys)) == len(keys)
    first = next(row for row in rows if row["source"] == "wikipedia" and row["language"] == "ar")
    assert (
        (first["id"], first["line"]) == ("wikipedia:ar:10", 0)
        and first["title"] == "T0"
        and first["licence"] == "CC-BY-SA-4.0"
    )
    assert {row["licence"] for row in rows if row["source"] == "rows"} == {"CC-BY-4.0"}


KILLED = """
import os, signal, sys
from unibert.data import lines
encode, rows = lines.json_line, 0
def json_line(row):
    global rows
    rows += 1
    if rows == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return encode(row)
lines.json_line = json_line
from unibert.cli import main
main(["data", "fetch", sys.argv[1], "--workers", "1"])
"""


def test_a_fetch_that_is_killed_goes_on_and_gives_the_same_files(own: Path, tmp_path: Path) -> None:
    sources = every_kind(tmp_path).partition('[[data.sources]]\nkind = "datasets"')[0]  # whose import is slow
    write_recipe(tmp_path, sources)
    fetch.run(load_recipe(own))
    whole = raw_bytes(tmp_path)
    fetch.run(load_recipe(own, ["--data.folder", str(tmp_path / "again" / "data")]))
    assert raw_bytes(tmp_path / "again") == whole
    broken = tmp_path / "broken"
    command = [sys.executable, "-c", KILLED, str(own)]
    text = own.read_text().replace(f'"{tmp_path}/data"', f'"{broken}/data"')
    own.write_text(text)
    for row in (1, 50, 60, 130):  # of those that are still to be read
        assert subprocess.run([*command, str(row)], capture_output=True).returncode == -signal.SIGKILL
        assert not (broken / "data" / "raw" / "manifest.json").exists()
    done = {name: (broken / "data" / "raw" / name).stat().st_mtime_ns for name in raw_bytes(broken) if "done" in name}
    assert 2 <= len(done) < sum("done" in name for name in whole)
    main(["data", "fetch", str(own), "--workers", "1"])
    assert raw_bytes(broken) == whole
    assert all((broken / "data" / "raw" / name).stat().st_mtime_ns == was for name, was in done.items())


def test_only_a_file_that_changed_is_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_corpora(tmp_path)
    sources = f"""
[[data.sources]]
kind = "text"
name = "news"
path = "{tmp_path}/news.{{language}}.txt"
licence = "CC0"
"""
    recipe = load_recipe(write_recipe(tmp_path, sources, languages=("en", "ru")))
    fetch.run(recipe)
    assert capsys.readouterr().out.count(" rows, skipped ") == 2
    fetch.run(recipe)
    assert " rows, skipped " not in capsys.readouterr().out
    path = tmp_path / "news.en.txt"
    path.write_text(path.read_text() + "\nAnother line that nobody has seen before.\n")
    assert fetch.run(recipe)["rows"] == 41
    out = capsys.readouterr().out
    assert out.count(" rows, skipped ") == 1 == out.count("news.en.txt") and "1 of 2 were done before" in out
    os.utime(path, (time.time() + 9, time.time() + 9))
    fetch.run(recipe)
    assert capsys.readouterr().out.count(" rows, skipped ") == 1


def test_a_file_a_document_gives_one_part_a_language(tmp_path: Path) -> None:
    for code in ("en", "ru"):
        for number in range(3):
            path = tmp_path / code / f"{number}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text("\n".join(sentence(code, 3 * number + n) for n in range(3)), encoding="utf-8")
    sources = f"""
[[data.sources]]
kind = "text"
name = "books"
path = "{tmp_path}/{{language}}/*.txt"
documents = "file"
licence = "CC0"
"""
    manifest = fetch.run(load_recipe(write_recipe(tmp_path, sources, languages=("en", "ru"))))
    assert list(manifest["sources"]) == ["books/en", "books/ru"] and manifest["rows"] == 18


def test_missing_text_is_an_error_with_its_place(tmp_path: Path) -> None:
    write_corpora(tmp_path)
    source = f'[[data.sources]]\nkind = "text"\nname = "a"\npath = "{tmp_path}/%s"\nlicence = "CC0"\nlanguage = "en"\n'
    one = ("en",)
    with pytest.raises(DataError, match=r"nothing\.txt: no such file"):
        fetch.run(load_recipe(write_recipe(tmp_path, source % "nothing.txt", languages=one)))
    (tmp_path / "empty.txt").write_bytes(b"\n\n\xff\xff\n")
    with pytest.raises(DataError, match=r"source a: no text in a/empty.*not UTF-8.*empty\.txt:3"):
        fetch.run(load_recipe(write_recipe(tmp_path, source % "empty.txt", languages=one)))
    with pytest.raises(DataError, match="no text was fetched for ru"):
        fetch.run(load_recipe(write_recipe(tmp_path, source % "news.en.txt", languages=("en", "ru"))))
    (tmp_path / "dump.xml").write_text(dump("en"))
    named = f'[[data.sources]]\nkind = "wikipedia_dump"\npath = "{tmp_path}/dump.xml"\n'
    with pytest.raises(DataError, match=r"dump\.xml: the name does not say.*set `language`"):
        fetch.run(load_recipe(write_recipe(tmp_path, named, languages=one)))
    unknown = (source % "news.en.txt").replace('"en"', '"klingon"')
    with pytest.raises(ConfigError, match="'klingon' is not a known language"):
        fetch.run(load_recipe(write_recipe(tmp_path, unknown, languages=one)))


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ('kind = "text"\npath = "a"\nlicence = "x"\nname = "a"', "no language: give one of"),
        ('kind = "text"\npath = "{language}"\nlanguage = "en"\nlicence = "x"\nname = "a"', "contradict each other"),
        ('kind = "text"\npath = "a"\nlanguage = "en"\nname = "a"', "licence: is missing"),
        ('kind = "text"\npath = "a"\nlanguage = "en"\nname = "a/b"\nlicence = "x"', "should match pattern"),
        ('kind = "text"\npath = "a"\nlanguage = "en"\nname = "a"\nlicence = "x"\npth = 1', "unknown key"),
        ('kind = "dump"\npath = "a"', "kind"),
        ('kind = "datasets"\ndataset = "my/own"\nlanguage = "en"', "say its name and licence"),
        ('kind = "datasets"\nlanguage = "en"', "contradict each other"),
        ('kind = "demo"\n[[data.sources]]\nkind = "demo"', "two sources are called demo"),
    ],
)
def test_a_table_that_cannot_be_right_is_refused(tmp_path: Path, table: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_recipe(write_recipe(tmp_path, f"[[data.sources]]\n{table}\n"))


def test_the_resolved_recipe_reads_back(own: Path, tmp_path: Path) -> None:
    recipe = load_recipe(own)
    again = tmp_path / "again.toml"
    again.write_text(to_toml(recipe), encoding="utf-8")
    assert load_recipe(again) == recipe
    assert [type(table).__name__ for table in load_recipe("demo").data.sources] == ["Demo"]


def test_every_kind_has_a_reader() -> None:
    from typing import get_args

    from unibert.source_tables import Corpus

    assert set(corpora.READERS) == {kind.model_fields["kind"].default for kind in get_args(Corpus)}
