"""Text, JSON Lines, parquet and Hugging Face data sets as corpora: what is read, what is counted, what is refused."""

import bz2
import gzip
import json
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from unibert.data import corpora
from unibert.data.sources import files, hugging_face, text
from unibert.data.sources.base import MAXIMUM_CHARACTERS, Document, Part, Skips
from unibert.errors import DataError
from unibert.source_tables import Corpus, Datasets, Jsonl, Parquet, PlainText

COMMON = {"name": "own", "licence": "CC0"}


def read(table: Corpus, *paths: Path, language: str | None = "en") -> tuple[list[Document], Skips]:
    skips = Skips()
    part = Part("part", paths, language, ("en", "de"))
    return list(corpora.READERS[table.kind](table, part, skips)), skips


def texts(found: Sequence[Document]) -> list[str]:
    return [document.text for document in found]


# --- plain text -------------------------------------------------------------------------------------------------------


def plain(path: Path, **fields: str) -> PlainText:
    return PlainText.model_validate({"path": str(path), "language": "en", **COMMON, **fields})


def test_documents_of_plain_text_are_lines_groups_or_files(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffOne\r\ntwo\r\n\r\n \r\nThree\r\n".encode())
    lines, _ = read(plain(path), path)
    assert [(found.id, found.text) for found in lines] == [("part:1", "One"), ("part:2", "two"), ("part:5", "Three")]
    assert texts(read(plain(path, documents="paragraph"), path)[0]) == ["One two", "Three"]
    assert texts(read(plain(path, documents="paragraph", language="ja"), path, language="ja")[0]) == ["Onetwo", "Three"]
    other = tmp_path / "b.txt"
    other.write_text("Four")
    whole, _ = read(plain(path, documents="file"), path, other)
    assert texts(whole) == ["One\ntwo\nThree", "Four"] and len({found.id for found in whole}) == 2


def test_compressed_text_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    for name, pack in (("a.gz", gzip.compress), ("b", bz2.compress), ("c.txt", bytes)):
        path = tmp_path / name
        path.write_bytes(pack("Größe\n".encode()))
        assert texts(read(plain(path), path)[0]) == ["Größe"]
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(bytes(range(97, 123)) * 5000)[:-9])
    with pytest.raises(DataError, match=r"a\.gz: damaged or cut off"):
        read(plain(path), path)


def test_lines_that_are_no_text_are_counted_with_the_first_place(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"good\nb\xffd\nN\0L\nb\xfed\nfine\n")
    found, skips = read(plain(path), path)
    assert texts(found) == ["good", "fine"]
    assert skips.as_json() == {
        "line that is not UTF-8": {"count": 2, "first": f"{path}:2"},
        "line with NUL bytes": {"count": 1, "first": f"{path}:3"},
    }
    path.write_bytes("Größe".encode("utf-16"))
    with pytest.raises(DataError, match=r"a\.txt: is UTF-16; make it UTF-8"):
        read(plain(path), path)


def test_a_gigantic_line_is_skipped_without_being_held(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with path.open("wb") as file:
        file.write(b"first\n")
        for _ in range(8):
            file.write(b"x" * files.LONGEST_LINE)
        file.write(b"\nlast\n")
    tracemalloc.start()
    found, skips = read(plain(path), path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert texts(found) == ["first", "last"] and skips.first == {"line too long": f"{path}:2"}
    assert peak < 4 * files.LONGEST_LINE


def test_a_document_that_grows_too_long_goes_on_as_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "MOST_CHARACTERS", 20)
    path = tmp_path / "a.txt"
    path.write_text("\n".join(f"line number {n}" for n in range(9)))
    found, _ = read(plain(path, documents="file"), path)
    assert len(found) > 2 and "\n".join(texts(found)).split("\n") == [f"line number {n}" for n in range(9)]
    assert len({document.id for document in found}) == len(found)


# --- records ----------------------------------------------------------------------------------------------------------

ROWS = [
    {"body": "A first text", "head": "T", "key": 7, "lang": "en"},
    {"body": "Ein zweiter", "head": None, "key": 8, "lang": "de_AT"},
    {"body": "Un troisième", "head": "", "key": 9, "lang": "fr"},
    {"body": "tlhIngan", "head": "", "key": 10, "lang": "tlh"},
    {"body": " ", "head": "", "key": 11, "lang": "en"},
]
COLUMNS = {"text_column": "body", "title_column": "head", "id_column": "key", "language_column": "lang", **COMMON}


def write_parquet(path: Path, rows: Sequence[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return path


def write_jsonl(path: Path, rows: Sequence[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "datasets"])
def test_records_become_documents_and_other_languages_are_counted(kind: str, tmp_path: Path) -> None:
    table: Corpus
    if kind == "jsonl":
        path = write_jsonl(tmp_path / "a.jsonl", ROWS)
        table = Jsonl(path=str(path), **COLUMNS)
    elif kind == "parquet":
        path = write_parquet(tmp_path / "a.parquet", ROWS)
        table = Parquet(path=str(path), **COLUMNS)
    else:
        path = write_parquet(tmp_path / "set" / "train.parquet", ROWS)
        table = Datasets(dataset=str(path.parent), **COLUMNS)
    found, skips = read(table, path, language=None)
    assert found == [
        Document("en", "7", "T", "A first text", "CC0"),
        Document("de", "8", "", "Ein zweiter", "CC0"),
    ]
    assert dict(skips.counts) == {
        "record of another language": 1,
        "record of unknown language": 1,
        "record without text": 1,
    }
    wrong = table.model_copy(update={"text_column": "content"})
    with pytest.raises(DataError, match=r"no field text_column = 'content'; it has body, head, key, lang"):
        read(wrong, path, language=None)


def test_a_record_without_an_id_is_called_by_its_number(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [{"text": f"t{n}"} for n in range(600)])
    found, _ = read(Parquet(path=str(path), language="en", **COMMON), path)
    assert [document.id for document in found] == [f"part:{n}" for n in range(1, 601)]


def test_damaged_json_lines_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\n{"text": "t\n[1]\n\n{"no": 1}\n{"text": 5}\n{"text": "two"}\n' + b"[" * 100000)
    found, skips = read(Jsonl(path=str(path), language="en", **COMMON), path)
    assert texts(found) == ["one", "two"]
    counted = {"line that is no JSON object": 3, "line without a field": 1, "record without text": 1}
    assert dict(skips.counts) == counted and skips.first["line that is no JSON object"] == f"{path}:2"


def test_a_damaged_parquet_file_is_an_error_with_its_name(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [{"text": f"text number {n}" * 50} for n in range(500)])
    table = Parquet(path=str(path), language="en", **COMMON)
    whole = path.read_bytes()
    broken = [whole[: len(whole) // 2], b"", whole[:200] + bytes(400) + whole[600:]]
    for content in broken:
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.parquet: damaged or cut off after row \d+"):
            read(table, path)
        with pytest.raises(DataError, match="cannot be read after row"):
            read(Datasets(dataset=str(tmp_path), language="en", id_column="", title_column="", **COMMON), path)


def test_a_data_set_is_read_by_language_and_up_to_a_number(tmp_path: Path) -> None:
    for code in ("en", "no"):
        write_parquet(tmp_path / code / "train.parquet", [{"text": f"{code} {n}"} for n in range(9)])
    pattern = f"{tmp_path}/{{wikipedia}}"
    table = Datasets(dataset=pattern, id_column="", title_column="", max_documents=2, **COMMON)
    assert texts(read(table, language="nb")[0]) == ["no 0", "no 1"]
    assert hugging_face.filled(table.dataset, "zh-hant") is None
    wikipedia = Datasets()
    assert hugging_face.filled(wikipedia.configuration, "nb") == "20231101.no"


# --- files and paragraphs ---------------------------------------------------------------------------------------------


def test_files_are_found_by_language(tmp_path: Path) -> None:
    for name in ("de-part-1.txt", "zh-hant-1.txt", "pt_BR.txt", "sub/en/x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    found = {path.name: tag for path, tag in files.find(f"{tmp_path}/{{language}}-*.txt")}
    assert found == {"de-part-1.txt": "de", "zh-hant-1.txt": "zh-hant"}
    assert [tag for _, tag in files.find(f"{tmp_path}/**/{{language}}/*.txt")] == ["en"]
    assert files.find(f"{tmp_path}/pt_BR.txt") == [(tmp_path / "pt_BR.txt", None)]
    with pytest.raises(DataError, match="no such file"):
        files.find(f"{tmp_path}/*.jsonl")
    with pytest.raises(DataError, match="it is a folder"):
        files.find(str(tmp_path))


@pytest.mark.parametrize(
    "sentence", ["A sentence of some words. ", "これは文である。", "کوئی جملہ ہے۔ ", "wordswithoutspace"]
)
def test_long_paragraphs_are_cut_where_sentences_end(sentence: str) -> None:
    document = f"short\n\n{sentence * 600}\r\nlast"
    pieces = list(corpora.paragraphs(document))
    assert pieces[0] == "short" and pieces[-1] == "last" and len(pieces) > 4
    assert max(map(len, pieces)) <= MAXIMUM_CHARACTERS
    assert "".join(pieces).replace(" ", "") == "".join(document.split())
    if sentence[0] != "w":
        assert all(piece.endswith(sentence.strip()[-1]) for piece in pieces[1:-1])
