"""A few example sentences a language (PyPI `spacy`, lang/*/examples.py).

Not aligned, since not all are translations: the language's code is part of the keys. The files are Python; only
their list of strings is read, nothing of them is run.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import regex

from unibert.data.sources.base import Row, Source
from unibert.data.sources.packages import members
from unibert.languages import by_language

_FILE = regex.compile(r"spacy/lang/(\w+)/examples\.py")


def sentences(content: bytes) -> list[str]:
    """The strings of the list `sentences`; none where it is written in another way."""
    for statement in ast.parse(content).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "sentences":
            found = ast.literal_eval(statement.value)
            return [text for text in found if isinstance(text, str)]
    return []


def rows(packages: Sequence[Path]) -> Iterator[Row]:
    """Every sentence, English first."""
    files: dict[str, list[str]] = {}
    for package in packages:
        for name, content in members(package, lambda name: _FILE.fullmatch(name) is not None):
            match = _FILE.fullmatch(name)
            assert match is not None
            files[match[1]] = sentences(content)
    for code, tags in by_language(files).items():
        for tag in tags:
            for number, text in enumerate(files[tag]):
                yield Row(f"{tag}.{number}", code, text)


SOURCE = Source(name="spacy-examples", kind="pypi", packages=("spacy==3.2.6",), licence="MIT", rows=rows)
