"""What every text stage shares: JSON Lines written atomically, the text key, the seeded order, stage reports."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import secrets
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO, overload

import numpy as np
import orjson
import regex

from unibert.errors import DataError

SPLIT_SEED = 1
"""Seed of what is held out and kept: part of the data, so that runs with other seeds share one split."""

_NOT_TEXT = regex.compile(r"[^\p{L}\p{M}\p{N}]+")
_ASCII_NOT_TEXT = bytes(byte for byte in range(128) if not chr(byte).isalnum())


def say(text: str) -> None:
    """One plain progress line, at once even into a pipe."""
    print(text, flush=True)


def text_key(text: str) -> str:
    """The form in which two texts count as equal: NFKC, case folded, without spaces, punctuation and symbols."""
    if text.isascii():
        return text.lower().encode().translate(None, _ASCII_NOT_TEXT).decode()
    return _NOT_TEXT.sub("", unicodedata.normalize("NFKC", text).casefold())


def stable_hash(text: str, *, seed: int = 0) -> int:
    """A 64-bit hash that is the same in every process and on every machine."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, salt=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little")


@overload
def atomic(path: Path) -> AbstractContextManager[TextIO]: ...
@overload
def atomic(path: Path, *, binary: Literal[True], durable: bool = False) -> AbstractContextManager[BinaryIO]: ...
@contextmanager
def atomic(path: Path, *, binary: bool = False, durable: bool = False) -> Iterator[Any]:
    """Open a file, of text unless `binary`, that appears under its name only when the block ends without an error.

    A `durable` one is on the disk then, which takes its time; the others are made again should the machine fail.
    """
    # Unlike in every process, also of another machine on the same file system.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") if binary else temporary.open("w", encoding="utf-8") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error}); check space and permissions, then run again") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def save_array(path: Path, array: np.ndarray) -> None:
    """np.save, atomically."""
    with atomic(path, binary=True) as file:
        np.save(file, array)


def json_line(row: dict[str, Any]) -> bytes:
    """One line of a JSON Lines file, text as it is."""
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def write_json(path: Path, content: Any) -> None:
    """Write one JSON document atomically, readable by people."""
    with atomic(path, binary=True) as file:
        file.write(
            orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE)
        )


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write JSON Lines atomically; returns the number of rows."""
    count = 0
    with atomic(path, binary=True) as file:
        for row in rows:
            file.write(json_line(row))
            count += 1
    return count


def write_row_files(
    stem: Path, rows: Iterable[dict[str, Any]], *, together: Callable[[dict[str, Any]], Any], size: float
) -> list[Path]:
    """Write JSON Lines to <stem>-00000.jsonl, <stem>-00001.jsonl, ...: whole groups, of about `size` bytes a file.

    Neighbouring rows for which `together` is equal stay in one file. Returns the files; those of an earlier and longer
    writing are removed.
    """
    paths: list[Path] = []
    groups = itertools.groupby(rows, key=together)
    group = next(groups, None)
    while group is not None:
        path = row_file(stem, len(paths))
        with atomic(path, binary=True) as file:
            while group is not None and file.tell() < size:
                file.writelines(map(json_line, group[1]))
                group = next(groups, None)
        paths.append(path)
    for number in itertools.count(len(paths)):
        left = row_file(stem, number)
        if not left.exists():
            return paths
        left.unlink()
    raise AssertionError


def row_file(stem: Path, number: int) -> Path:
    """The path of a file of `write_row_files`."""
    return stem.with_name(f"{stem.name}-{number:05d}.jsonl")


def file_facts(files: Iterable[Path], folder: Path) -> dict[str, dict[str, Any]]:
    """Bytes and SHA-256 of files, by their paths below a folder."""
    return {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for path in files
    }


def document_of(row: dict[str, Any]) -> str:
    """What a row belongs to: rows of one document have one id."""
    return row["id"]


def read_rows(path: Path, *, start: int = 0, length: int | None = None) -> Iterator[dict[str, Any]]:
    """Rows of a JSON Lines file, or of `length` bytes of it from byte `start`, both at the beginnings of lines.

    DataError with file and line when a line is not a JSON object.
    """
    number = 0
    try:
        with path.open("rb") as file:
            file.seek(start)
            for line in file if length is None else file.read(length).splitlines():
                number += 1
                row = orjson.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("not a JSON object")
                yield row
    except FileNotFoundError as error:
        raise _missing(path) from error
    except ValueError as error:
        place = f"{path}:{number}" + (f" after byte {start}" if start else "")
        raise DataError(f"{place}: damaged ({error}); delete the file and run the stage again") from error


def read_json(path: Path) -> Any:
    """One JSON document; DataError naming the file when it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _missing(path) from error
    except ValueError as error:
        raise DataError(f"{path}: damaged ({error}); delete the file and run the stage again") from error


def finished(report: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The report of a stage that ended with these settings; None when it must run (again)."""
    if not report.exists():
        return None
    try:
        content = read_json(report)
    except DataError:
        return None
    if not isinstance(content, dict) or content.get("settings") != settings:
        return None
    return content


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex; DataError when it is missing."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise _missing(path) from error


def _missing(path: Path) -> DataError:
    return DataError(f"{path} is missing; run the data stages in order: fetch, parallel, clean, dedup")
