"""Chat lines (PyPI `chatterbot-corpus`, YAML) in 25 languages.

Not aligned, each language's conversations are its own: its code is part of the keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import yaml

from unibert.data.sources.base import Row, Source, plain_text
from unibert.data.sources.packages import members
from unibert.errors import DataError
from unibert.languages import LANGUAGES

_BY_NAME = {language.name.lower(): code for code, language in LANGUAGES.items()}
_BY_FOLDER = _BY_NAME | {"chinese": "zh", "traditionalchinese": "zh-hant"}


def utterances(content: bytes, *, name: str) -> Iterator[tuple[str, str]]:
    """(conversation.turn, text) of one file."""
    try:
        tree = yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise DataError(f"{name}: not YAML ({error}); delete its package and fetch again") from error
    for number, turns in enumerate(tree.get("conversations") or ()):
        for turn, text in enumerate(turns if isinstance(turns, list) else [turns]):
            if isinstance(text, str):
                yield f"{number}.{turn}", plain_text(text)


def rows(packages: Sequence[Path]) -> Iterator[Row]:
    """Every line of every conversation, English first."""
    files: dict[str, dict[str, bytes]] = {}
    for package in packages:
        for name, content in members(package, lambda name: name.endswith(".yml")):
            path = PurePosixPath(name)
            if code := _BY_FOLDER.get(path.parent.name):
                files.setdefault(code, {})[path.stem] = content
    for code in sorted(files, key=lambda code: (code != "en", code)):
        for name, content in sorted(files[code].items()):
            for place, text in utterances(content, name=f"{code}/{name}.yml"):
                yield Row(f"{code}.{name}.{place}", code, text)


SOURCE = Source(
    name="chatterbot", kind="pypi", packages=("chatterbot-corpus==1.3.3",), licence="BSD-3-Clause", rows=rows
)
