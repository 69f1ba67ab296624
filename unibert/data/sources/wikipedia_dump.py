"""Wikipedia's XML dumps (pages-articles, export schema 0.3 to 0.11) as a corpus. Licence: CC-BY-SA, as the recipe says.

Read page by page by expat: memory is that of a block of input and one page. Articles only: other namespaces,
redirects, disambiguation pages and pages that are not wiki markup are skipped and counted.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from xml.parsers import expat

from unibert.data.sources import files, wiki_words, wikitext
from unibert.data.sources.base import Document, Part, Skips
from unibert.errors import DataError
from unibert.source_tables import WikipediaDump

MOST_CHARACTERS = 4 * 2**20
"""A page with more is skipped and counted, and is never held whole; MediaWiki itself stops at 2 MiB."""

_BLOCK = 2**18
_FIELDS = frozenset({"title", "ns", "id", "text", "model"})
_FORBIDDEN = dict.fromkeys([*range(9), 11, 12, *range(14, 32), 0xFFFE, 0xFFFF], "\ufffd")  # not allowed in XML
_HAS_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_NAME = re.compile(r"([a-z_]+?)wiki-(?:\d{8}|latest)-")
_REDIRECT = re.compile(r"\s{0,9}#\s{0,9}\w{1,40}\s{0,9}:?\s{0,9}\[\[")
_CALL = re.compile(r"\{\{\s{0,9}([^{}|<>\n]{1,60}?)\s{0,9}(?=[|}\n<])")


def language_tag(path: Path) -> str | None:
    """The Wikipedia's code in a dump's file name, as in dewiki-20240101-pages-articles.xml.bz2."""
    match = _NAME.match(path.name)
    return match[1].replace("_", "-") if match else None


@dataclass
class Page:
    """One page as it stands in the dump."""

    fields: dict[str, str] = field(default_factory=dict)
    is_redirect: bool = False
    is_too_long: bool = False


class _Reader:
    """Collects pages from expat's calls; texts that grow too long are let go at once."""

    def __init__(self) -> None:
        self.pages: list[Page] = []
        self.hidden: set[str] = set(wiki_words.NAMESPACES)
        self.has_root = False
        self._page: Page | None = None
        self._name = ""
        self._pieces: list[str] = []
        self._length = 0
        self._key = ""

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._name = ""
        if name == "page":
            self._page = Page()
        elif name == "namespace":
            self._name, self._key = name, attributes.get("key", "0")
        elif self._page is not None:
            if name == "redirect":
                self._page.is_redirect = True
            elif name in _FIELDS and not (name == "id" and "id" in self._page.fields):
                self._name = name
        elif name == "mediawiki":
            self.has_root = True
        self._pieces, self._length = [], 0

    def data(self, text: str) -> None:
        if self._name:
            self._length += len(text)
            if self._length > MOST_CHARACTERS:
                self._pieces = []
            else:
                self._pieces.append(text)

    def end(self, name: str) -> None:
        if self._name == "namespace" and self._key != "0":
            self.hidden.add("".join(self._pieces).casefold())
        elif self._page is not None and self._name:
            self._page.fields[self._name] = "".join(self._pieces)
            self._page.is_too_long |= self._length > MOST_CHARACTERS
        self._name = ""
        if name == "page" and self._page is not None:
            self.pages.append(self._page)
            self._page = None


def _pages(path: Path, stream: IO[bytes], reader: _Reader, skips: Skips) -> Iterator[Page]:
    """Every page of a dump; DataError naming file and line where the XML breaks off or is none."""
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.data
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    try:
        while block := stream.read(_BLOCK):
            if parser.CurrentByteIndex < 0:
                files.refuse_utf16(path, block)
            parser.Parse(_allowed(decoder.decode(block), f"{path}: line {parser.CurrentLineNumber}", skips).encode())
            yield from reader.pages
            reader.pages.clear()
        parser.Parse(decoder.decode(b"", final=True).encode(), True)
    except expat.ExpatError as error:
        raise DataError(f"{path}: line {error.lineno}: damaged or cut off ({error}); get it again") from error
    if not reader.has_root:
        raise DataError(f"{path}: is XML, but no dump of a wiki")


def _allowed(text: str, place: str, skips: Skips) -> str:
    """The text with a replacement character for what XML does not allow; cleaning drops the paragraphs with one."""
    if _HAS_FORBIDDEN.search(text):
        text = text.translate(_FORBIDDEN)
    if broken := text.count("\ufffd"):
        for _ in range(broken):
            skips.add("broken character", place)
    return text


def documents(table: WikipediaDump, part: Part, skips: Skips) -> Iterator[Document]:
    """Every article as plain text, by its page id."""
    language = part.language
    assert language is not None  # a part of a dump always has one
    (path,) = part.files
    reader = _Reader()
    with files.opened(path) as stream:
        for page in _pages(path, stream, reader, skips):
            title = page.fields.get("title", "")
            if reason := _reason_to_skip(page, language):
                skips.add(reason, title or str(path))
                continue
            text = wikitext.plain(
                page.fields["text"],
                hidden=reader.hidden,
                dropped_sections=wiki_words.dropped_sections(language),
            )
            if text:
                yield Document(language, page.fields.get("id", title), title, text, table.licence)
            else:
                skips.add("page without prose", title)


def _reason_to_skip(page: Page, language: str) -> str | None:
    """Why a page is no article; None when it is one."""
    if page.fields.get("ns", "0").strip() != "0":
        return "page of another namespace"
    if page.is_too_long:
        return "page too long"
    text = page.fields.get("text", "")
    if page.is_redirect or _REDIRECT.match(text):
        return "redirect"
    if page.fields.get("model", "wikitext") != "wikitext":
        return "page that is not wiki markup"
    title = page.fields.get("title", "").casefold()
    if title.endswith(f"({wiki_words.disambiguation_title(language)})"):
        return "disambiguation page"
    templates = wiki_words.disambiguation_templates(language)
    if any(match[1].replace("_", " ").casefold() in templates for match in _CALL.finditer(text)):
        return "disambiguation page"
    return None
