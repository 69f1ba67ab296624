"""Debian's descriptions of its packages in the languages they are translated into (apt's Translation lists).

Aligned by the English description's MD5, the paragraph's number and how many there are: a translation with other
paragraphs than the English is not aligned with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import regex

from unibert.data.sources.base import Row, Source
from unibert.errors import DataError
from unibert.languages import by_language

_FILE = regex.compile(r".*_i18n_Translation-([A-Za-z_]+)")
_NOT_TRANSLATED = "<trans"
_SPACE = regex.compile(r"\s+")


def descriptions(file: Path) -> Iterator[tuple[str, str, list[str]]]:
    """(MD5, title, paragraphs) of every stanza of one list, read line by line."""
    md5 = title = ""
    body: list[str] = []
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line[0] == " ":
                    body.append(line[1:].strip())
                elif line.startswith("Description-md5:"):
                    md5 = line.partition(":")[2].strip()
                elif line.startswith("Description-"):
                    title = line.partition(":")[2].strip()
                elif line == "\n":
                    if md5 and title:
                        yield md5, title, _paragraphs(body)
                    md5, title, body = "", "", []
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error}); delete it and fetch again") from error
    if md5 and title:
        yield md5, title, _paragraphs(body)


def _paragraphs(body: list[str]) -> list[str]:
    """A line with a single point stands between paragraphs."""
    joined = "\n".join("\0" if line == "." else line for line in body)
    return [text for part in joined.split("\0") if (text := _SPACE.sub(" ", part).strip())]


def rows(packages: Sequence[Path]) -> Iterator[Row]:
    """The title and every translated paragraph of every package that a language describes."""
    files: dict[str, list[Path]] = {}
    for file in packages:
        if match := _FILE.fullmatch(file.name.replace("%5f", "_")):
            files.setdefault(match[1], []).append(file)
    for code, tags in by_language(files).items():
        seen: set[bytes] = set()
        for file in (file for tag in tags for file in files[tag]):
            for md5, title, paragraphs in descriptions(file):
                if (digest := bytes.fromhex(md5)) in seen:
                    continue
                seen.add(digest)
                yield Row(f"{md5[:16]}:title", code, title)
                for number, text in enumerate(paragraphs):
                    if _NOT_TRANSLATED not in text:
                        yield Row(f"{md5[:16]}:{number}/{len(paragraphs)}", code, text)


TAGS = """
en ca cs da de el es et eu fa fi fr gl he hr hu id it ja ka km ko lt lv mk ml mr ms nb nl nn pa pl pt pt_BR ro ru sk sl
sq sr sv ta te th tl tr uk vi zh zh_CN zh_TW
"""
SOURCE = Source(
    name="debian-descriptions",
    kind="apt_lists",
    packages=tuple(TAGS.split()),
    licence="unclear: of Debian's translators",
    rows=rows,
)
