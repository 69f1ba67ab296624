"""Wikipedia dumps: what a reader sees comes out, what is no article is counted, damage is named."""

import bz2
import gzip
import tracemalloc
from pathlib import Path

import pytest

from tests.unit.small_dumps import EDITIONS, SKIPPED, article, dump, head, multistream, page, sentence
from unibert.data.sources import wikipedia_dump
from unibert.data.sources.base import Document, Part, Skips
from unibert.data.sources.wikitext import plain
from unibert.errors import DataError
from unibert.source_tables import WikipediaDump


def read(path: Path, code: str) -> tuple[list[Document], Skips]:
    skips = Skips()
    part = Part(path.name, (path,), code, (code,))
    return list(wikipedia_dump.documents(WikipediaDump(path=str(path)), part, skips)), skips


def compressed(path: Path, text: str) -> Path:
    path.write_bytes(bz2.compress(text.encode()))
    return path


@pytest.mark.parametrize("code", EDITIONS)
def test_articles_come_out_as_a_reader_sees_them(code: str, tmp_path: Path) -> None:
    documents, skips = read(compressed(tmp_path / f"{code}wiki-20240101-pages-articles.xml.bz2", dump(code)), code)
    assert dict(skips.counts) == SKIPPED
    assert [(found.id, found.title, found.language) for found in documents] == [
        (str(n + 10), f"T{n}", code) for n in range(12)
    ]
    for number, found in enumerate(documents):
        assert found.text.split("\n") == article(code, number)[1]
        assert found.licence == "CC-BY-SA-4.0"


def test_every_packing_of_a_dump_reads_the_same(tmp_path: Path) -> None:
    text = dump("ru")
    plain_file, zipped = tmp_path / "a.xml", tmp_path / "b.xml.gz"
    plain_file.write_text(text, encoding="utf-8")
    zipped.write_bytes(gzip.compress(text.encode()))
    whole = compressed(tmp_path / "c.xml.bz2", text)
    several = multistream(text, tmp_path / "d-multistream.xml.bz2")
    found = [read(path, "ru")[0] for path in (plain_file, zipped, whole, several)]
    assert len(found[0]) == 12 and all(documents == found[0] for documents in found)


def test_a_dump_that_was_cut_off_anywhere_is_an_error_with_its_name(tmp_path: Path) -> None:
    text = dump("en", articles=3)
    path = tmp_path / "enwiki-20240101-pages-articles.xml.bz2"
    whole = bz2.compress(text.encode())
    for size in (5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"enwiki-20240101.*damaged or cut off"):
            read(path, "en")
    several = multistream(text, tmp_path / "enwiki-20240101-multistream.xml.bz2")
    several.write_bytes(several.read_bytes().removesuffix(bz2.compress(b"</mediawiki>\n")))
    with pytest.raises(DataError, match=r"multistream\.xml\.bz2: line \d+: damaged or cut off"):
        read(several, "en")
    path.write_bytes(bz2.compress(b"<html></html>"))
    with pytest.raises(DataError, match="no dump of a wiki"):
        read(path, "en")
    path.write_bytes(bz2.compress(text.encode("utf-16")))
    with pytest.raises(DataError, match="is UTF-16"):
        read(path, "en")
    path.write_bytes(b"")
    with pytest.raises(DataError, match="damaged or cut off"):
        read(path, "en")


def test_bytes_that_are_no_text_are_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    whole = dump("en", articles=4).encode()
    path.write_bytes(whole.replace(b"river", b"ri\xffver", 1).replace(b"harbour", b"har\0\x01bour", 1))
    documents, skips = read(path, "en")
    assert len(documents) == 4 and skips.counts["broken character"] == 3
    assert skips.first["broken character"].startswith(f"{path}: line ")
    assert sum("\ufffd" in found.text for found in documents) >= 1


def test_a_gigantic_page_is_skipped_without_being_held(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    first, last = page("Huge", "@", number=1).split("@")
    with path.open("wb") as file:
        file.write((head("en") + first).encode())
        for _ in range(48):
            file.write(b"word " * 2**18)
        file.write((last + page("Small", sentence("en", 1), number=2) + "</mediawiki>").encode())
    tracemalloc.start()
    documents, skips = read(path, "en")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [found.title for found in documents] == ["Small"] and skips.first == {"page too long": "Huge"}
    assert peak < 32 * 2**20


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("dewiki-20240101-pages-articles.xml.bz2", "de"),
        ("nowiki-latest-pages-articles-multistream.xml.bz2", "no"),
        ("zh_yuewiki-20240101-pages-articles1.xml-p1p2.bz2", "zh-yue"),
        ("dump.xml", None),
    ],
)
def test_the_name_of_a_dump_says_its_language(name: str, tag: str | None) -> None:
    assert wikipedia_dump.language_tag(Path(name)) == tag


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("'''A''' ''b'' l''''homme'''", "A b l'homme"),
        ("[[A|b]]s, [[C d]] and [[E_f#g|h]]", "bs, C d and h"),
        ("[[File:a.png|thumb|x [[y|z]] [http://a.b c]]] after", "after"),
        ("[[Bild:alt.jpg|mini]]ohne Namensraum", "ohne Namensraum"),
        ("[[fr:Ville]] here [[wikt:word|a word]]", "here a word"),
        ("[[Star Trek: Deep Space Nine]]", "Star Trek: Deep Space Nine"),
        ("Wien ({{IPA|x}}; {{audio|y}}, [[a]]) ist", "Wien (a) ist"),
        ("from {{lang|el|[[αρχή]]}} or {{nowrap|10 km}} {{convert|6|mi}}", "from αρχή or 10 km"),
        ("Wien ({{IPA|x}}) ist", "Wien ist"),
        ("{{a|{{b|{{c}}}}|[[d]]}}rest", "rest"),
        ("5 &lt; 6 &amp; 7&nbsp;m<br/>next <small>x</small>", "5 < 6 & 7 m next x"),
        ("<math>\\frac{{a}{b}}</math>seen <code>x</code><!-- hidden", "seen x"),
        ("<ref>never closed {{x}} text", "never closed text"),
        ("open {{template and [[link", "open {{template and [[link"),
        ("closed }} and ]] alone", "closed }} and ]] alone"),
        ("-{zh-hans:简体;zh-hant:繁體}-和-{原文}-", "简体和原文"),
        ("__NOTOC__seen __ІНДЕКС__", "seen"),
        ("{|\n| a\n{|\n| b\n|}\n|}\nafter", "after"),
        ("prose\n* a\n* b\n\n== X ==\n* only\n* a\n* list\n", "prose\na\nb"),
        ("a\n== See also ==\nb\n=== c ===\nd\n== E ==\nf", "a\nf"),
        ("* item of ''prose''\nmore\nand more", "item of prose\nmore\nand more"),
        ("[https://a.b/c label] [http://a.b] [//x.y z]", "label z"),
        ("'''القاهرة''' ([[اللغة الإنجليزية|بالإنجليزية]]: Cairo)&rlm; هي", "القاهرة (بالإنجليزية: Cairo)\u200f هي"),
    ],
)
def test_markup_becomes_text(markup: str, text: str) -> None:
    hidden = {"file", "category"}
    assert plain(markup, hidden=hidden, dropped_sections={"see also"}) == text


@pytest.mark.parametrize(
    "markup", ["[[" * 20000, "{{" * 20000 + "}}" * 20000, "<ref>" * 20000, "[[a|" * 20000 + "]]" * 20000, "(" * 30000]
)
def test_hostile_markup_ends(markup: str) -> None:
    assert len(plain(markup)) <= len(markup)
