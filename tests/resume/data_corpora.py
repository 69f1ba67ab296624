"""Corpora of a user's own, made up: six languages in five scripts, as dumps, JSON Lines, plain text and a table of
translations, in some dozen files, with exact and near duplicates among them."""

from __future__ import annotations

import bz2
import json
import random
from collections.abc import Iterator
from pathlib import Path

from tests.unit import small_dumps
from tests.unit.small_dumps import EDITIONS, article, head, page

LETTERS = {"de": "abcdefghijklmnopqrstuvwxyzäöü", "hi": "कखगघचछजझटठडढणतथदधनपफबभमयरलवशषसह"}
LANGUAGES = (*EDITIONS, *LETTERS)
PARTS = 3

RECIPE = """
name = "own"
languages = {languages}
[data]
folder = "{folder}/data"
max_lines_per_language = 900
heldout_lines_per_language = 20
max_sequence_tokens = 64
[[data.sources]]
kind = "wikipedia_dump"
path = "{folder}/wiki/*.xml.bz2"
[[data.sources]]
kind = "jsonl"
name = "rows"
path = "{folder}/rows-*.jsonl"
language_column = "lang"
licence = "CC0"
[[data.sources]]
kind = "text"
name = "news"
path = "{folder}/news.{{language}}.txt"
licence = "CC0"
[[data.parallel]]
kind = "tsv"
name = "table"
licence = "CC0"
path = "{folder}/table.tsv"
[tokenizer]
kind = "bpe"
max_pieces = 1200
[student]
start = "random"
[objectives.masked_lm]
"""


def sentence(code: str, number: int) -> str:
    """Of its own for every number, in words of the language or, of two languages, in its letters."""
    if code in EDITIONS:
        return small_dumps.sentence(code, number)
    chance = random.Random(f"{code} {number}")
    words = ("".join(chance.choices(LETTERS[code], k=chance.randint(3, 9))) for _ in range(16))
    return f"{' '.join(words)} {number}."


def rows(code: str, part: int, count: int) -> Iterator[str]:
    """Sentences; every tenth is one of a dump in capitals, and every tenth one of them with a word before it."""
    for number in range(count):
        at = 100_000 + part * count + number
        if number % 10 == 1:
            yield sentence(code, 3 * number).upper()
        elif number % 10 == 2:
            yield f"{sentence(code, at + 1)[:5]} {sentence(code, 3 * number)}"
        else:
            yield sentence(code, at)


def write(folder: Path, *, size: float = 1.0) -> Path:
    """Everything, about `size` MB of text; returns the recipe's path."""
    (folder / "wiki").mkdir(parents=True)
    articles, lines = (max(10, round(size * full)) for full in (110, 100))
    for code in EDITIONS:
        for part in range(PARTS):
            numbers = range(part * articles, (part + 1) * articles)
            pages = "".join(page(f"T{n}", article(code, n)[0], number=n + 10) for n in numbers)
            dump = bz2.compress(f"{head(code)}{pages}</mediawiki>\n".encode())
            (folder / "wiki" / f"{code}wiki-20240101-pages-articles{part}.xml.bz2").write_bytes(dump)
    for part in range(PARTS):
        found = [{"lang": code, "text": text} for code in LANGUAGES for text in rows(code, part, lines)]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
        (folder / f"rows-{part}.jsonl").write_text(text, encoding="utf-8")
    for code in LANGUAGES:
        text = "\n".join(rows(code, PARTS, 3 * lines))
        (folder / f"news.{code}.txt").write_text(text, encoding="utf-8")
    table = ["\t".join(LANGUAGES), *("\t".join(sentence(code, n) for code in LANGUAGES) for n in range(-lines, 0))]
    (folder / "table.tsv").write_text("\n".join(table) + "\n", encoding="utf-8")
    recipe = folder / "own.toml"
    recipe.write_text(RECIPE.format(folder=folder, languages=json.dumps(LANGUAGES)))
    return recipe
