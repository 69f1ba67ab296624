"""Readers of parallel text and dictionaries: their formats in several scripts, and everything that can be wrong."""

import bz2
import gzip
import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tests.unit.small_data import TEXT, recipe
from tests.unit.test_data_sources import deb
from unibert.config import load_recipe, to_toml
from unibert.data import alignments
from unibert.data.lines import file_facts
from unibert.data.sources import demo_pairs, files, tmx
from unibert.data.sources.base import Aligned, Skips
from unibert.errors import ConfigError, DataError

CODES = ("en", "de", "ar", "zh", "hi", "ru", "zh-hant")


def read(folder: Path, *, wanted: tuple[str, ...] = CODES, **table: object) -> tuple[list[Aligned], dict[str, int]]:
    """(all that a [[data.parallel]] table gives, what was skipped)."""
    named = ({"name": "p"} if table["kind"] == "demo" else {"name": "p", "licence": "CC0"}) | table
    of = recipe(folder, languages=wanted, data={"folder": folder / "data", "parallel": [named]})
    skips = Skips()
    readings, _ = alignments.plan(of)
    return [found for reading in readings for found in alignments.read(reading, skips)], dict(skips.counts)


def texts(found: list[Aligned]) -> list[Mapping[str, str]]:
    return [entry.texts for entry in found]


@pytest.mark.parametrize(("name", "pack"), [("a.tsv", bytes), ("a.tsv.gz", gzip.compress), ("a.tsv.bz2", bz2.compress)])
def test_a_table_with_a_language_a_column(tmp_path: Path, name: str, pack) -> None:
    rows = [
        "id\tEnglish\tzh_TW\tar\tklingon",
        "1\tOne\t一個\tواحد\tx",
        "2\tTwo\t\tاثنان\tx",
        "3\tThree\t\t\tx",
        "4\tFour",
    ]
    (tmp_path / name).write_bytes(pack(("\ufeff" + "\r\n".join(rows)).encode()))
    found, skipped = read(
        tmp_path, kind="tsv", path=f"{tmp_path}/a.*", columns={"en": "English", "ar": 4, "zh-hant": 3}
    )
    assert texts(found) == [{"en": "One", "ar": "واحد", "zh-hant": "一個"}, {"en": "Two", "ar": "اثنان"}]
    assert [entry.licence for entry in found] == ["CC0", "CC0"] and len({entry.id for entry in found}) == 2
    assert skipped == {"line with fewer than two texts": 1, "line with too few columns": 1}
    found, _ = read(tmp_path, kind="tsv", path=f"{tmp_path}/a.*")
    assert texts(found) == [{"ar": "واحد", "zh-hant": "一個"}]  # by the languages in the first line


def test_a_table_without_names_and_columns_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("One\tEins\nTwo\tZwei\n")
    found, _ = read(tmp_path, kind="tsv", path=str(path), columns={"de": 2, "en": 1})
    assert texts(found) == [{"de": "Eins", "en": "One"}, {"de": "Zwei", "en": "Two"}]
    with pytest.raises(DataError, match=r"a\.tsv: no column 'German' for de; its first line has One, Eins"):
        read(tmp_path, kind="tsv", path=str(path), columns={"de": "German", "en": "One"})
    with pytest.raises(DataError, match="fewer than two of its columns"):
        read(tmp_path, kind="tsv", path=str(path))
    with pytest.raises(ConfigError, match="'deu' is not a known language"):
        read(tmp_path, kind="tsv", path=str(path), columns={"deu": 2, "en": 1})
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path, kind="tsv", path=f"{tmp_path}/b.tsv")


def write_moses(folder: Path, name: str, *codes: str) -> None:
    for code in codes:
        (folder / f"{name}.{code}").write_text("\n".join(TEXT[code]) + "\n", encoding="utf-8")


def test_aligned_files_in_sets(tmp_path: Path) -> None:
    write_moses(tmp_path, "OPUS.ar-en", "ar", "en")
    write_moses(tmp_path, "OPUS.de-hi", "de", "hi")
    (tmp_path / "OPUS.de-hi.hi").rename(tmp_path / "x")
    (tmp_path / "OPUS.de-hi.hi").write_bytes(gzip.compress((tmp_path / "x").read_bytes()))  # by its bytes, not its name
    write_moses(tmp_path, "OPUS.en-fr", "en")
    found, skipped = read(tmp_path, kind="moses", path=f"{tmp_path}/OPUS.*.{{language}}")
    assert texts(found) == [
        {"en": english, "ar": arabic} for english, arabic in zip(TEXT["en"], TEXT["ar"], strict=True)
    ] + [{"de": german, "hi": hindi} for german, hindi in zip(TEXT["de"], TEXT["hi"], strict=True)]
    assert not skipped and len({entry.id for entry in found}) == 6


def test_aligned_files_packed_and_in_folders_of_their_language(tmp_path: Path) -> None:
    for code in ("zh", "ru"):
        (tmp_path / code).mkdir()
        (tmp_path / code / "news.txt.bz2").write_bytes(bz2.compress("\n".join(TEXT[code]).encode()))
    found, _ = read(tmp_path, kind="moses", path=f"{tmp_path}/{{language}}/news.txt.bz2")
    assert texts(found) == [{"zh": a, "ru": b} for a, b in zip(TEXT["zh"], TEXT["ru"], strict=True)]


def test_a_line_that_cannot_be_read_does_not_shift_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LONGEST_LINE", 1000)
    english = [b"one", b"caf\xe9", b"nul\0", b"x" * 5000, b"five", b"", b"seven"]
    german = ["eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben"]
    (tmp_path / "a.en").write_bytes(b"\n".join(english))
    (tmp_path / "a.de").write_text("\n".join(german), encoding="utf-8")
    found, skipped = read(tmp_path, kind="moses", path=f"{tmp_path}/a.{{language}}")
    assert texts(found) == [{"en": a, "de": b} for a, b in (("one", "eins"), ("five", "fünf"), ("seven", "sieben"))]
    assert skipped == {
        "line that is not UTF-8": 1,
        "line with NUL bytes": 1,
        "line too long": 1,
        "line with fewer than two texts": 4,
    }


def test_aligned_files_that_are_not(tmp_path: Path) -> None:
    write_moses(tmp_path, "a", "en", "de")
    path = f"{tmp_path}/a.{{language}}"
    (tmp_path / "a.de").write_text("\n".join(TEXT["de"][:2]), encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.de: ends after line 2, the files aligned with it do not"):
        read(tmp_path, kind="moses", path=path)
    packed = gzip.compress("\n".join(TEXT["de"]).encode())
    (tmp_path / "a.de").write_bytes(packed[:-10])
    with pytest.raises(DataError, match=r"a\.de: damaged or cut off"):
        read(tmp_path, kind="moses", path=path)
    (tmp_path / "a.de").unlink()
    with pytest.raises(DataError, match=r"p: nothing in two of the recipe's languages; found: .*\(en\)"):
        read(tmp_path, kind="moses", path=path)
    with pytest.raises(ValueError, match=r"path has no \{language\}"):
        read(tmp_path, kind="moses", path=f"{tmp_path}/a.de")


def unit(*variants: tuple[str, str]) -> str:
    return "<tu>" + "".join(f'<tuv xml:lang="{tag}"><seg>{text}</seg></tuv>' for tag, text in variants) + "</tu>\n"


def memory(*units: str) -> str:
    head = '<?xml version="1.0"?>\n<!DOCTYPE tmx SYSTEM "tmx14.dtd">\n<tmx version="1.4"><header srclang="en"/><body>\n'
    return f"{head}{''.join(units)}</body></tmx>"


@pytest.mark.parametrize(
    "encode", [str.encode, lambda text: text.encode("utf-16"), lambda t: gzip.compress(t.encode())]
)
def test_translation_memories(tmp_path: Path, encode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tmx, "CHUNK", 7)
    monkeypatch.setattr(tmx, "MOST_CHARACTERS", 50)
    units = [
        unit(
            ("EN-us", "One &amp; <hi>two</hi><ph x='1'>code<sub>no</sub></ph>\n three"), ("ar-EG", "واحد &#x627;ثنان")
        ),
        unit(("en", "a"), ("de-DE", "b"), ("de-AT", "c"), ("xx", "d")),
        unit(("en", "alone"), ("tlh", "x")),
        unit(("en", "x" * 60), ("de", "y")),
    ]
    old = '<tu><tuv lang="en"><seg>old</seg></tuv><tuv lang="ZH-TW"><seg>舊</seg></tuv></tu>'
    text = memory(*units, old)
    (tmp_path / "a.tmx").write_bytes(
        encode(text.replace("?>", ' encoding="utf-16"?>', 1) if encode("a") > b"\xf0" else text)
    )
    found, skipped = read(tmp_path, kind="tmx", path=f"{tmp_path}/*.tmx")
    assert texts(found) == [
        {"en": "One & two three", "ar": "واحد اثنان"},
        {"en": "a", "de": "b"},
        {"en": "a", "de": "c"},
        {"en": "old", "zh-hant": "舊"},
    ]
    assert skipped == {"unit with fewer than two wanted languages": 1, "unit too long": 1}
    assert len({entry.id for entry in found}) == 4


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (memory(unit(("en", "a"), ("de", "b")), unit(("en", "x"), ("de", "y")))[:-40].encode(), 5),
        (memory(unit(("en", "a"), ("de", "b")), "<tu><tuv xml:lang='en'><seg>caf\xe9").encode("latin-1"), 5),
        (memory(unit(("en", "a\0"), ("de", "b"))).encode(), 4),
    ],
)
def test_a_damaged_translation_memory_is_an_error_with_its_line(tmp_path: Path, content: bytes, line: int) -> None:
    (tmp_path / "a.tmx").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.tmx:{line}: not well-formed TMX, or cut off"):
        read(tmp_path, kind="tmx", path=f"{tmp_path}/a.tmx")


def test_data_sets_of_pairs(tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "train"
    folder.mkdir(parents=True)
    both = [{"en": "One", "he": "אחת", "ar": "واحد"}, {"en": "Two", "he": "", "ar": None}]
    pyarrow.parquet.write_table(pyarrow.table({"translation": both, "n": [1, 2]}), folder / "a.parquet")
    found, skipped = read(tmp_path, kind="datasets", dataset=str(tmp_path / "hub"))
    assert texts(found) == [{"en": "One", "ar": "واحد"}]
    assert skipped == {"row with fewer than two wanted languages": 1}
    with pytest.raises(DataError, match="no column English; it has translation, n"):
        read(tmp_path, kind="datasets", dataset=str(tmp_path / "hub"), columns={"en": "English", "de": "n"})
    with pytest.raises(DataError, match="column n has no text for each language"):
        read(tmp_path, kind="datasets", dataset=str(tmp_path / "hub"), translation_column="n")
    pyarrow.parquet.write_table(pyarrow.table({"a": TEXT["en"], "b": TEXT["zh"]}), folder / "a.parquet")
    found, _ = read(tmp_path, kind="datasets", dataset=str(tmp_path / "hub"), columns={"en": "a", "zh": "b"})
    assert texts(found) == [{"en": a, "zh": b} for a, b in zip(TEXT["en"], TEXT["zh"], strict=True)]


def test_muse_dictionaries(tmp_path: Path) -> None:
    (tmp_path / "en-ar.txt").write_text("cat قط\nthe cat\tالقط\nthree words here\n\n", encoding="utf-8")
    (tmp_path / "zh-hant-en.txt.gz").write_bytes(gzip.compress("貓\tcat\n".encode()))
    (tmp_path / "en-fr.txt").write_text("cat chat\n")
    path = f"{tmp_path}/{{source}}-{{target}}.*"
    found, skipped = read(tmp_path, kind="muse", path=path)
    assert texts(found) == [{"en": "cat", "ar": "قط"}, {"en": "the cat", "ar": "القط"}, {"zh-hant": "貓", "en": "cat"}]
    assert skipped == {"line that is not two words": 2}
    found, _ = read(tmp_path, kind="muse", path=f"{tmp_path}/en-ar.txt", languages=("en", "hi"))
    assert found[0].texts == {"en": "cat", "hi": "قط"}
    for wrong in ({"path": f"{tmp_path}/en-ar.txt"}, {"path": path, "languages": ("en", "ar")}):
        with pytest.raises(ValueError, match="languages either as"):
            read(tmp_path, kind="muse", **wrong)


ENTRIES = (
    'Haus /haʊs/ <neut, n>\n1. house, home [Bau]\n      "Das Haus."\n'
    "2. building (large (very))\n   Synonyms: {Bau}\n\n see: {x}\n",
    "gehen, laufen <v>\nto go; to walk\n(note)\n{see elsewhere}\n",
    "Erläuterung\na very long explanation of what the word means in all of its many uses and others\n",
)
DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def base64(number: int) -> str:
    return (base64(number // 64) if number > 63 else "") + DIGITS[number % 64]


def dictd(entries: tuple[str, ...]) -> tuple[bytes, bytes]:
    """(index, dictionary), as dictfmt writes them: the index by headword, with a line for every headword."""
    text, lines = b"00-database-info\nGPL\n", [f"00databaseinfo\tA\t{base64(21)}"]
    for entry in entries:
        for word in entry.partition("\n")[0].split("/")[0].split("<")[0].split(","):
            lines.append(f"{word.strip()}\t{base64(len(text))}\t{base64(len(entry.encode()))}")
        text += entry.encode()
    return "\n".join(sorted(lines)).encode() + b"\n", text


PLAIN = [("Haus", "house"), ("Haus", "home"), ("Haus", "building")]
WALK = [(a, b) for a in ("gehen", "laufen") for b in ("to go", "to walk")]


def test_freedict_dictionaries_of_every_make(tmp_path: Path) -> None:
    index, text = dictd(ENTRIES)
    folder = tmp_path / "usr/share/dictd"
    folder.mkdir(parents=True)
    (folder / "freedict-deu-eng.index").write_bytes(index)
    (folder / "freedict-deu-eng.dict.dz").write_bytes(gzip.compress(text))
    (folder / "freedict-deu-swe.dict.dz").write_bytes(b"not read: Swedish is not wanted")
    found, skipped = read(tmp_path, kind="freedict", path=f"{folder}/*")
    assert [(entry.texts["de"], entry.texts["en"]) for entry in found] == PLAIN + WALK
    assert skipped == {"entry without a plain translation": 1}  # an explanation
    whole = {f"usr/share/dictd/{path.name}": path.read_bytes() for path in folder.glob("*deu-eng*")}
    package = deb(tmp_path / "dict-freedict-deu-eng_1_all.deb", whole)
    again, _ = read(tmp_path, kind="freedict", path=str(package))
    assert texts(again) == texts(found)


def test_freedict_tei(tmp_path: Path) -> None:
    entry = (
        "<entry><form><orth>кот</orth></form><sense><cit type='trans'><quote>cat</quote></cit>"
        "<cit type='trans'><quote>tomcat</quote></cit>"
        "<cit type='example'><quote>Кот спит.</quote></cit></sense></entry>"
    )
    content = f"<?xml version='1.0'?><TEI xmlns='http://www.tei-c.org/ns/1.0'><text><body>{entry}</body></text></TEI>"
    (tmp_path / "rus-eng.tei").write_text(content, encoding="utf-8")
    found, _ = read(tmp_path, kind="freedict", path=f"{tmp_path}/rus-eng.tei")
    assert texts(found) == [{"ru": "кот", "en": "cat"}, {"ru": "кот", "en": "tomcat"}]
    (tmp_path / "rus-eng.tei").write_text(content[:-30], encoding="utf-8")
    with pytest.raises(DataError, match=r"rus-eng\.tei: not well-formed TEI, or cut off"):
        read(tmp_path, kind="freedict", path=f"{tmp_path}/rus-eng.tei")


def test_damaged_dictionaries(tmp_path: Path) -> None:
    index, text = dictd(ENTRIES)
    path = tmp_path / "deu-eng.dict"
    path.write_bytes(text)
    with pytest.raises(DataError, match=r"deu-eng\.index: no such file"):
        read(tmp_path, kind="freedict", path=str(path))
    (tmp_path / "deu-eng.index").write_bytes(index)
    path.write_bytes(text[:-20])
    with pytest.raises(DataError, match=r"deu-eng\.dict: cut off, byte \d+ is in its index"):
        read(tmp_path, kind="freedict", path=str(path))
    (tmp_path / "deu-eng.index").write_bytes(index.replace(b"\t", b" "))
    with pytest.raises(DataError, match=r"no dictd index \(line 1"):
        read(tmp_path, kind="freedict", path=str(path))
    with pytest.raises(ValueError, match="either a path or packages"):
        read(tmp_path, kind="freedict", path=str(path), packages=("dict-freedict-deu-eng",))


@pytest.mark.parametrize("at_once", [1 << 26, 100])
def test_the_demos_rows_with_one_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(demo_pairs, "BYTES_AT_ONCE", at_once)
    raw = tmp_path / "data" / "raw"
    raw.mkdir(parents=True)
    rows = [
        {"id": f"quran:{number}", "language": code, "text": TEXT[code][number], "licence": "CC0"}
        for code in ("en", "ar", "hi")
        for number in range(3)
        if (code, number) not in (("en", 1), ("ar", 2), ("hi", 2))
    ]
    path = raw / "quran-00000.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = {"quran": {"files": file_facts([path], raw)}, "own/part": {"files": {}}}
    (raw / "manifest.json").write_text(json.dumps({"sources": sources}))
    found, skipped = read(tmp_path, kind="demo")
    assert texts(found) == [{code: TEXT[code][0] for code in ("en", "ar", "hi")}]
    assert skipped == {"key without English": 1, "key in one language alone": 1}
    found, _ = read(tmp_path, kind="demo", wanted=("ar", "hi"))
    assert sorted(entry.id for entry in found) == ["quran:0", "quran:1"]
    with pytest.raises(ConfigError, match=r"no demo source koran was fetched; there are quran"):
        read(tmp_path, kind="demo", sources=("koran",))


def test_tables_of_parallel_text_survive_a_resolved_recipe(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text("""extends = "demo_teacher"
        [[data.parallel]]
        kind = "tsv"
        name = "own"
        licence = "CC0"
        path = "x.tsv"
        columns = { zh-hant = 1, de = "German" }
        [[data.parallel]]
        kind = "demo"
    """)
    found = load_recipe(path)
    (tmp_path / "resolved.toml").write_text(to_toml(found))
    assert load_recipe(tmp_path / "resolved.toml") == found and len(found.data.parallel) == 2
