"""The sources of the full demo read the layout of their packages: small ones with the real layout are built here."""

import os
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.unit.test_data_fetch import CODES, Registry, recipe_in
from tests.unit.test_data_sources import as_tuples, mo, tgz
from unibert.data import fetch
from unibert.data.sources import chatterbot, descriptions, libreoffice, spacy_examples, sword, wesnoth
from unibert.data.sources.base import Source, inline_text
from unibert.data.sources.packages import Downloads, members, version_of
from unibert.data.sources.registries import PackageMissing
from unibert.errors import DataError
from unibert.schema import Data
from unibert.source_tables import Demo


def wheel(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def help_page(**paragraphs: str) -> bytes:
    body = "".join(f'<p id="{key}" class="paragraph" dir="auto">{text}</p>\n' for key, text in paragraphs.items())
    return f'<html><p dir="auto">no id</p><h1 id="hd_1" dir="auto">A <br>title</h1>{body}</html>'.encode()


def test_libreoffice_aligns_paragraphs_and_shows_the_default_of_what_depends_on_the_system(tmp_path: Path) -> None:
    keys = (
        'Press <span id="s" class="switchinline"><span hidden="true" id="m" class="MAC"><span class="keycode">Command'
        '</span> key</span><span hidden="true" id="d">Ctrl</span></span>+V in <span class="emph">Writer</span>.'
    )
    root = "usr/share/libreoffice/help"
    packages = [
        tgz(
            tmp_path / "libreoffice-help-en-us_4%3a7.4.7_all.tgz",
            {
                f"{root}/en-US/text/swriter/01/a.html": help_page(par_1=keys, par_2="Only &amp; in English"),
                f"{root}/en-US/bookmarks.js": b"none of this",
            },
        ),
        tgz(
            tmp_path / "libreoffice-help-pt-br_4%3a7.4.7_all.tgz",
            {
                f"{root}/pt-BR/text/swriter/01/a.html": help_page(par_1="do Brasil"),
                f"{root}/pt-BR/text/b.html": help_page(),
            },
        ),
        tgz(
            tmp_path / "libreoffice-help-pt_4%3a7.4.7_all.tgz",
            {f"{root}/pt/text/swriter/01/a.html": help_page(par_1="de Portugal")},
        ),
        tgz(
            tmp_path / "libreoffice-help-zh-tw_4%3a7.4.7_all.tgz",
            {f"{root}/zh-TW/text/swriter/01/a.html": help_page(par_1='按 <span class="emph">Ctrl</span>+V')},
        ),
    ]
    assert as_tuples(list(libreoffice.rows(packages))) == [
        ("swriter/01/a#hd_1", "en", "A title"),
        ("swriter/01/a#par_1", "en", "Press Ctrl+V in Writer."),
        ("swriter/01/a#par_2", "en", "Only & in English"),
        ("swriter/01/a#hd_1", "pt", "A title"),
        ("swriter/01/a#par_1", "pt", "de Portugal"),
        ("b#hd_1", "pt", "A title"),
        ("swriter/01/a#hd_1", "zh-hant", "A title"),
        ("swriter/01/a#par_1", "zh-hant", "按 Ctrl+V"),
    ]


def test_tags_within_words_leave_no_space() -> None:
    assert inline_text("<b>Wort</b>teil<br/>und &lt;mehr&gt;,  <i>ja</i>!") == "Wortteil und <mehr>, ja!"


def stanza(md5: str, tag: str, title: str, body: str) -> str:
    lines = "\n".join(f" {line}" for line in body.splitlines())
    return f"Package: x\nDescription-md5: {md5}\nDescription-{tag}: {title}\n{lines}\n"


def test_descriptions_are_aligned_by_paragraph_and_what_nobody_translated_is_left_out(tmp_path: Path) -> None:
    one, two = "0a" * 16, "0b" * 16
    files = {
        "mirror_dists_bookworm_main_i18n_Translation-en": "\n".join(
            [stanza(one, "en", "Web server", "First line\nand second.\n.\nMore."), stanza(two, "en", "Game", "Play.")]
        ),
        "mirror_dists_bookworm_main_i18n_Translation-pt%5fBR": stanza(
            one, "pt_BR", "Servidor", "Primeira linha.\n.\n<trans>"
        ),
        "mirror_dists_updates_main_i18n_Translation-en": stanza(two, "en", "Game, newer", "Play again."),
        "mirror_dists_bookworm_main_i18n_Translation-uk": stanza(two, "uk", "Гра", "Грати.\n.\nЩе."),
        "mirror_dists_bookworm_main_i18n_Translation-eo": stanza(two, "eo", "Ludo", "Ludu."),
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    rows = as_tuples(list(descriptions.rows(sorted(tmp_path.iterdir()))))
    key = one[:16]
    assert rows[:3] == [
        (f"{key}:title", "en", "Web server"),
        (f"{key}:0/2", "en", "First line and second."),
        (f"{key}:1/2", "en", "More."),
    ]
    assert [row[2] for row in rows[3:5]] == ["Game", "Play."]  # once, although two lists have it
    assert rows[5:7] == [(f"{key}:title", "pt", "Servidor"), (f"{key}:0/2", "pt", "Primeira linha.")]
    assert [row[1] for row in rows[7:]] == ["uk"] * 3
    assert not {row[0] for row in rows if row[2] == "Play."} & {row[0] for row in rows if row[2] == "Грати."}


def test_wesnoth_takes_contexts_off_the_english_and_leaves_other_varieties_out(tmp_path: Path) -> None:
    root = "usr/share/games/wesnoth/1.16/locale"
    files = {
        f"{root}/de/LC_MESSAGES/wesnoth-help.mo": mo({"": "header", "race^Elf": "<i>Elfe</i>"}),
        f"{root}/he/LC_MESSAGES/wesnoth-help.mo": mo({"race^Elf": "אלף", "To arms!": "לנשק!"}),
        f"{root}/sr@latin/LC_MESSAGES/wesnoth-help.mo": mo({"To arms!": "Na oružje!"}),
    }
    rows = as_tuples(list(wesnoth.rows([tgz(tmp_path / "wesnoth.tgz", files)])))
    texts = {(code, text): key for key, code, text in rows}
    assert set(texts) == {("en", "Elf"), ("en", "To arms!"), ("de", "Elfe"), ("he", "אלף"), ("he", "לנשק!")}
    assert texts["en", "Elf"] == texts["de", "Elfe"] == texts["he", "אלף"] != texts["en", "To arms!"]
    assert [row[1] for row in rows[:2]] == ["en", "en"]


def ztext(blocks: Sequence[Sequence[str]]) -> dict[str, bytes]:
    """A SWORD testament, as its own tools write it."""
    texts, bounds, places = b"", b"", b""
    for number, entries in enumerate(blocks):
        block = "".join(entries).encode()
        packed = zlib.compress(block)
        bounds += struct.pack("<III", len(texts), len(packed), len(block))
        at = 0
        for entry in entries:
            size = len(entry.encode())
            places += struct.pack("<IIH", number, at, size)
            at += size
        texts += packed
    return {"bzz": texts, "bzs": bounds, "bzv": places}


def test_sword_verses_have_the_same_key_in_every_numbering_of_entries(tmp_path: Path) -> None:
    def package(name: str, testaments: dict[str, dict[str, bytes]]) -> Path:
        root = "usr/share/sword/modules/texts/ztext/x"
        files = {
            f"{root}/{part}.{suffix}": data for part, found in testaments.items() for suffix, data in found.items()
        }
        return tgz(tmp_path / f"{name}_1_all.tgz", files)

    chapter = '<chapter n="1" osisID="Gen.1" sID="Gen.1"/>'
    first = '<w lemma="x">In</w> the beginning<note>Hebrew: <b>x</b></note>, <w>God</w>&#8212;made'
    web = ztext([["", "<milestone/>", "<title>Genesis</title>", chapter, first, "And <title>no</title> the earth"]])
    new = ztext([["", '<chapter osisID="Matt.1" sID="x"/>', "A book"]])
    sparv = ztext([["", chapter, "En el principio", "Y la tierra", '<chapter osisID="Gen.2" sID="y"/>', "Y fueron"]])
    packages = [
        package("sword-text-kjv", {"ot": ztext([["", chapter, "In the"]])}),
        package("sword-text-sparv", {"ot": sparv}),
        package("sword-text-web", {"nt": new, "ot": web}),
    ]
    assert as_tuples(list(sword.rows(packages))) == [
        ("Gen.1.1", "en", "In the beginning, God—made"),
        ("Gen.1.2", "en", "And the earth"),
        ("Matt.1.1", "en", "A book"),
        ("kjv:Gen.1.1", "en", "In the"),
        ("Gen.1.1", "es", "En el principio"),
        ("Gen.1.2", "es", "Y la tierra"),
        ("Gen.2.1", "es", "Y fueron"),
    ]
    broken = package("sword-text-web", {"ot": web | {"bzz": b"cut off"}})
    with pytest.raises(DataError, match=r"sword-text-web.*not a zText module"):
        list(sword.rows([broken]))


def test_chat_lines_and_example_sentences_are_read_without_running_anything(tmp_path: Path) -> None:
    chats = wheel(
        tmp_path / "chatterbot_corpus-1.3.3-py2.py3-none-any.whl",
        {
            "chatterbot_corpus/data/traditionalchinese/a.yml": "conversations:\n- - 你好\n  - 12\n  - 早安\n".encode(),
            "chatterbot_corpus/data/english/b.yml": b"categories:\n- x\nconversations:\n- - 'Hi: there'\n  - Hello\n",
            "chatterbot_corpus/data/hinglish/b.yml": b"conversations:\n- - kya\n",
        },
    )
    assert version_of(chats) == "1.3.3"
    assert as_tuples(list(chatterbot.rows([chats]))) == [
        ("en.b.0.0", "en", "Hi: there"),
        ("en.b.0.1", "en", "Hello"),
        ("zh-hant.a.0.0", "zh-hant", "你好"),
        ("zh-hant.a.0.2", "zh-hant", "早安"),
    ]
    (tmp_path / "ran").unlink(missing_ok=True)
    code = f'"""doc"""\nopen({str(tmp_path / "ran")!r}, "w")\nsentences = ["Ein Satz.", "Zwei" " Sätze."]\n'
    examples = wheel(
        tmp_path / "spacy-3.2.6-cp310.whl",
        {"spacy/lang/de/examples.py": code.encode(), "spacy/lang/xx/examples.py": b"sentences = []"},
    )
    assert as_tuples(list(spacy_examples.rows([examples]))) == [
        ("de.0", "de", "Ein Satz."),
        ("de.1", "de", "Zwei Sätze."),
    ]
    assert not (tmp_path / "ran").exists()
    examples.write_bytes(examples.read_bytes()[:200])
    with pytest.raises(DataError, match=r"spacy.*broken package"):
        list(members(examples, lambda name: True))


class Names:
    """Stands for apt: knows four packages."""

    def names(self, pattern: str) -> list[str]:
        assert pattern == "help-*"
        return ["help-common", "help-de", "help-sk", "help-uk"]

    def download(self, packages: Sequence[str], *, folder: Path) -> list[Path]:
        for name in packages:
            (folder / f"{name}.deb").write_bytes(b"x")
        return sorted(folder.glob("*.deb"))


def test_a_pattern_takes_no_package_that_is_not_wanted(tmp_path: Path) -> None:
    downloads = Downloads(tmp_path)
    downloads.apt = Names()  # type: ignore[assignment]
    files = downloads.get("help", kind="apt", packages=("help-*", "!help-common", "!help-s*"))
    assert [file.name for file in files] == ["help-de.deb", "help-uk.deb"]


def test_the_full_demo_fetches_more_and_the_small_one_is_still_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Registry()
    more = Source(name="third", kind="pypi", packages=("x==1",), licence="CC0", rows=fake.rows)
    monkeypatch.setattr(fetch, "SOURCES", fake.sources)
    monkeypatch.setattr(fetch, "MORE_SOURCES", (more,))
    monkeypatch.setattr(fetch, "Downloads", lambda folder: fake)
    monkeypatch.setattr(fetch, "available", lambda: frozenset({"apt", "npm", "pypi"}))
    small = recipe_in(tmp_path)
    full = small.model_copy(update={"data": Data(folder=tmp_path, sources=(Demo(packages="all"),))})
    manifest = fetch.run(small)
    assert "wanted" not in manifest and set(manifest["sources"]) == {"first", "second"}
    assert fetch.run(small) == manifest and fake.asked == ["first", "second"]
    assert set(fetch.run(full)["sources"]) == {"first", "second", "third"}
    assert fake.asked == ["first", "second", "third"] and len(CODES) == 60
    assert set(fetch.run(full)["sources"]) == {"first", "second", "third"} and len(fake.asked) == 3
    assert set(fetch.run(small)["sources"]) == {"first", "second"} and len(fake.asked) == 3


def test_a_machine_with_pip_alone_takes_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "available", lambda: frozenset({"pypi"}))
    monkeypatch.setattr(fetch, "_fetch_hub", lambda raw, wanted, rows, *, file_mib: {"rows": 0, "languages": {}})
    with pytest.raises(DataError, match="no text was fetched"):
        fetch.run(recipe_in(tmp_path))


def test_a_version_the_index_lacks_is_a_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(command: Sequence[str], *, folder: Path) -> str:
        raise DataError("pip download failed with code 1:\nERROR: No matching distribution found for x==9")

    monkeypatch.setattr("unibert.data.sources.registries.call", refuse)
    with pytest.raises(PackageMissing, match="x==9"):
        Downloads(tmp_path).get("x", kind="pypi", packages=("x==9",))


def test_a_list_of_descriptions_has_its_date_as_version(tmp_path: Path) -> None:

    path = tmp_path / "mirror_i18n_Translation-de"
    path.write_bytes(b"")
    os.utime(path, (86400, 86400))
    assert version_of(path) == "1970-01-02"
