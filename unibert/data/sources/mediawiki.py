"""MediaWiki's interface messages (Debian `mediawiki`): about 550 languages, aligned by message key.

Wiki markup, templates and HTML become the text a reader would see; the first plural and gender form stands for all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import regex

from unibert.data.sources.base import Row, Source, merge, plain_text
from unibert.data.sources.packages import members
from unibert.languages import by_language, code_of

_CHOICE = regex.compile(r"\{\{\s*(?:PLURAL|GENDER|GRAMMAR|#?switch|int):([^{}]*)\}\}", regex.IGNORECASE)
_LINK = regex.compile(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]")
_WEB_LINK = regex.compile(r"\[(?:https?:)?(?://)?\S+ ([^\[\]]*)\]")
_CODE = regex.compile(r"<(code|pre|nowiki|syntaxhighlight|kbd|tt)\b[^>]*>.*?</\1>", regex.DOTALL | regex.IGNORECASE)
_LINE_MARKS = regex.compile(r"(?m)^[*#:;=\s]+|=+\s*$")


def _choice(match: regex.Match[str]) -> str:
    """One form of a PLURAL, GENDER or GRAMMAR call: the last plural (the general one), else the first."""
    name = match.group(0)[2:].lstrip().partition(":")[0].upper()
    _, *forms = match.group(1).split("|")
    if not forms:
        return ""
    form = forms[-1] if name in ("PLURAL", "GRAMMAR") else forms[0]
    return form.rpartition("=")[2]


def readable(message: str) -> str:
    """A message without wiki markup; a template that cannot be resolved leaves its braces, and cleaning drops it."""
    text = message.replace("{{SITENAME}}", "Wikipedia")
    for _ in range(3 if "{{" in text else 0):  # calls may be nested
        text = _CHOICE.sub(_choice, text)
    if "<" in text:
        text = _CODE.sub(" ", text)
    if "[" in text:
        text = _WEB_LINK.sub(r"\1", _LINK.sub(r"\1", text))
    text = _LINE_MARKS.sub("", text.replace("'''", "").replace("''", ""))
    return plain_text(text)


def _is_message_file(name: str) -> bool:
    path = PurePosixPath(name)
    is_message_file = path.suffix == ".json" and "i18n" in path.parts and "doc" not in path.parts
    return is_message_file and code_of(path.stem) is not None


def _messages(packages: Sequence[Path]) -> dict[str, dict[str, str]]:
    """Locale -> folder of the component and message key -> text; qqq (documentation) is no locale of ours."""
    texts: dict[str, dict[str, str]] = {}
    for package in packages:
        for name, content in members(package, _is_message_file):
            path = PurePosixPath(name)
            found = json.loads(content)
            table = texts.setdefault(path.stem, {})
            table.update((key, value) for key, value in found.items() if isinstance(value, str))
    return texts


def rows(packages: Sequence[Path]) -> Iterator[Row]:
    """Every message in every language of the table."""
    texts = _messages(packages)
    for code, locales in by_language(texts).items():
        for key, message in sorted(merge(locales, texts).items()):
            yield Row(key, code, readable(message))


SOURCE = Source(name="mediawiki", kind="apt", packages=("mediawiki",), licence="GPL-2+", rows=rows)
