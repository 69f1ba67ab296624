"""Every string of an evaluation set in the formats such sets are published in, for the check against training text.

JSON (SQuAD's and any other), JSON Lines, parquet: all strings, however nested. TSV and CSV (STS-B, XNLI, PAWS-X): all
cells. NER in columns (CoNLL, WikiANN): sentences. Anything else that is text (Tatoeba's pairs): lines. Compressed by
gzip or bzip2 or not. Labels and numbers among the strings do no harm: they could only equal a whole line.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unibert.data.sources import files
from unibert.data.sources.base import Skips
from unibert.errors import DataError

NO_DATA = frozenset(".md .rst .py .sh .toml .yaml .yml .cfg .lock .npy .npz .bin .safetensors .pdf .png .html".split())
"""Endings of what lies beside data sets and is none; so are files called LICENSE or README and hidden ones."""

_TAG = re.compile(r"O|[BIESLUM]-\S+")
_LANGUAGE = re.compile(r"[a-z][a-z-]{1,11}:")
_LOOKED_AT = 50  # lines by which columns are told from text
_COLUMNS = 0.95


def evaluation_texts(path: Path) -> Iterator[str]:
    """The strings of a file, or of every file below a folder, in the order of their names.

    Raises:
        DataError: nothing is there, or a file cannot be read whole: a set that is checked in part is not checked.
    """
    for file in data_files(path):
        yield from _file(file)


def data_files(path: Path) -> list[Path]:
    """The file itself, or the data files below a folder in the order of their names; DataError when there is none."""
    if not path.is_dir():
        return [path]
    found = [file for file in sorted(path.rglob("*")) if file.is_file() and _is_data(file.relative_to(path))]
    if not found:
        raise DataError(f"{path}: no file of evaluation texts in this folder")
    return found


def _is_data(path: Path) -> bool:
    if any(part.startswith((".", "__")) for part in path.parts):
        return False
    return path.suffix.lower() not in NO_DATA and path.stem.upper() not in ("LICENSE", "LICENCE", "README")


def _file(path: Path) -> Iterator[str]:
    ending = next((end for end in map(str.lower, reversed(path.suffixes)) if end not in (".gz", ".bz2")), "")
    if ending == ".parquet":
        yield from _parquet(path)
    elif ending == ".json":
        yield from _json(path)
    elif ending in (".jsonl", ".ndjson"):
        for number, line in _lines(path):
            if line.strip():
                yield from _strings(_parsed(line, f"{path}:{number}"))
    elif ending == ".tsv":  # quotes are letters there
        yield from (cell for _, line in _lines(path) for cell in line.split("\t"))
    elif ending == ".csv":
        yield from _csv(path)
    else:
        yield from _text(path)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    skips = Skips()
    yield from files.lines(path, skips)
    if skips.counts:
        raise DataError(f"{path}: evaluation texts must be read whole, but it has {skips}; make it UTF-8 text")


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not JSON ({error}); mend the file or take it out of the folder") from None


def _json(path: Path) -> Iterator[str]:
    with files.opened(path) as stream:
        raw = stream.read()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error}); make it so: iconv -t UTF-8") from None
    yield from _strings(_parsed(text, str(path)))


def _strings(node: Any) -> Iterator[str]:
    """Every string in a tree of JSON, names of fields not counted."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict | list):
        for child in node.values() if isinstance(node, dict) else node:
            yield from _strings(child)


def _csv(path: Path) -> Iterator[str]:
    lines = (line + "\n" for _, line in _lines(path))
    try:
        yield from itertools.chain.from_iterable(csv.reader(lines))
    except csv.Error as error:
        raise DataError(f"{path}: not CSV ({error}); mend the file or take it out of the folder") from None


def _parquet(path: Path) -> Iterator[str]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(256, use_threads=False):
                yield from _strings(batch.to_pylist())
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: damaged or cut off ({error}); get it again") from None


def _text(path: Path) -> Iterator[str]:
    lines = (line.strip() for _, line in _lines(path))
    head = list(itertools.islice(lines, _LOOKED_AT))
    rows = [line.split() for line in head if line]
    tagged = sum(len(row) > 1 and _TAG.fullmatch(row[-1]) is not None for row in rows)
    everything = itertools.chain(head, lines)
    yield from everything if not rows or tagged < _COLUMNS * len(rows) else _sentences(everything)


def _sentences(lines: Iterator[str]) -> Iterator[str]:
    """Words of the first column up to an empty line; WikiANN's `en:` before each is not of the word."""
    for filled, group in itertools.groupby(lines, key=bool):
        if filled:
            words = [line.split()[0] for line in group]
            prefix = _LANGUAGE.match(words[0])
            if prefix and all(word.startswith(prefix[0]) for word in words):
                words = [word.removeprefix(prefix[0]) for word in words]
            yield " ".join(words)
