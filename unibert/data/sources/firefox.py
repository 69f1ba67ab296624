"""Firefox's interface (Debian `firefox-esr-l10n-*`: a zip of Fluent and .properties files in each package).

Aligned by file and string name. British English stands for the English that the browser itself contains.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import regex

from unibert.data.sources.base import Row, Source, merge, plain_text
from unibert.data.sources.packages import members
from unibert.errors import DataError
from unibert.languages import by_language

_MESSAGE = regex.compile(r"([A-Za-z][\w-]*)\s*=\s*(.*)")
_ATTRIBUTE = regex.compile(r"\s+\.([\w-]+)\s*=\s*(.*)")
_PROPERTY = regex.compile(r"([\w.-]+)\s*=\s*(.*)")


def read_fluent(content: str) -> dict[str, str]:
    """String name -> value of a Fluent file; `name.attribute` for attributes, continued lines joined.

    Selectors and placeables stay as written, in braces: cleaning drops such a row.
    """
    table: dict[str, str] = {}
    message = current = ""
    for line in content.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        if match := _MESSAGE.match(line):
            message = current = match[1]
            table[current] = match[2]
        elif message and (match := _ATTRIBUTE.match(line)):
            current = f"{message}.{match[1]}"
            table[current] = match[2]
        elif current and line[0].isspace():
            table[current] = f"{table[current]} {line.strip()}".strip()
    return table


def read_properties(content: str) -> dict[str, str]:
    """String name -> value of a .properties file."""
    matches = (_PROPERTY.match(line) for line in content.splitlines())
    return {match[1]: match[2].replace("\\n", " ") for match in matches if match}


def language_pack(content: bytes, *, locale: str) -> dict[str, str]:
    """Every string of one language pack by `file#name`, the locale taken out of the file's path."""
    table = {}
    with zipfile.ZipFile(io.BytesIO(content)) as pack:
        for name in sorted(pack.namelist()):
            read = {".ftl": read_fluent, ".properties": read_properties}.get(PurePosixPath(name).suffix)
            if read is None:
                continue
            place = "/".join(part for part in PurePosixPath(name).parts if part != locale)
            for key, text in read(pack.read(name).decode("utf-8", errors="replace")).items():
                table[f"{place}#{key}"] = text
    return table


def rows(packages: Sequence[Path]) -> Iterator[Row]:
    """Every string of every language pack."""
    texts: dict[str, dict[str, str]] = {}
    for package in packages:
        for name, content in members(package, lambda name: name.endswith(".xpi")):
            locale = PurePosixPath(name).name.removeprefix("langpack-").partition("@")[0]
            try:
                texts[locale] = language_pack(content, locale=locale)
            except zipfile.BadZipFile as error:
                raise DataError(f"{package}: {name} is no zip file ({error}); delete it and fetch again") from error
    for code, locales in by_language(texts).items():
        for key, text in sorted(merge(locales, texts).items()):
            yield Row(key, code, plain_text(text))


SOURCE = Source(name="firefox", kind="apt", packages=("firefox-esr-l10n-*",), licence="MPL-2.0", rows=rows)
