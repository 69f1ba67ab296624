"""Token shards on disk: the format, and writing it. Reading is shards.py.

A folder of shards holds
  manifest.json            version, tokenizer, and the entries below; written last: no manifest, no shards
  <language>.json          a language's entry: files (name, bytes, checksum, samples, tokens) and facts; written after
                           its files
  <language>-00000.tokens  a file: HEADER bytes of JSON padded with spaces (format, version, language, dtype, samples,
                           tokens, tokenizer), then the token ids (uint16, or uint32 for large vocabularies), zeros up
                           to a multiple of 8, then the samples' ends as uint64, counted in tokens. Little-endian.
A sample is a document piece with its first (cls) and last (sep) token. Every file appears under its name only when
complete (temporary file + rename). No torch here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from unibert.data.lines import write_json
from unibert.errors import DataError

FORMAT = "unibert token shard"
VERSION = 1
HEADER = 4096
TOKENS_PER_FILE = 1 << 28
"""A language with more tokens goes on in a further file (0.5 GB at 2 bytes a token)."""


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the tokenizer's special tokens."""

    cls: int
    sep: int
    pad: int
    mask: int
    unk: int

    def all(self) -> tuple[int, ...]:
        """The five ids, ascending."""
        return tuple(sorted(set(asdict(self).values())))


@dataclass(frozen=True)
class TokenizerFacts:
    """What shards remember of the tokenizer that made them."""

    fingerprint: str
    vocabulary_size: int
    special: SpecialIds

    @classmethod
    def read(cls, folder: Path) -> TokenizerFacts:
        """Facts of the Hugging Face tokenizer in `folder`; the fingerprint covers how text becomes ids, and no more.

        Raises:
            DataError: there is no tokenizer, it is damaged, or it lacks a special token.
        """
        try:
            # Rounded, since a tokenizer that is loaded and saved again has scores a last digit off.
            text = (folder / "tokenizer.json").read_text(encoding="utf-8")
            tree = json.loads(text, parse_float=lambda digits: round(float(digits), 6))
            names = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
            ids = {token["content"]: int(token["id"]) for token in tree["added_tokens"]}
            special = SpecialIds(*(ids[names[f"{role}_token"]] for role in ("cls", "sep", "pad", "mask", "unk")))
            size = max(len(tree["model"]["vocab"]), 1 + max(ids.values()))
        except FileNotFoundError as error:
            raise DataError(f"{error.filename}: no such file; make it: unibert data tokenize RECIPE") from None
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder}: not a tokenizer with cls, sep, pad, mask and unk tokens: {error!r}") from None
        kept = {key: tree.get(key) for key in ("normalizer", "pre_tokenizer", "model")}
        text = json.dumps([kept, asdict(special)], sort_keys=True, ensure_ascii=False)
        return cls(hashlib.blake2b(text.encode(), digest_size=16).hexdigest(), size, special)


def write_language(
    folder: Path,
    *,
    language: str,
    chunks: Iterable[tuple[np.ndarray, np.ndarray]],
    tokenizer: TokenizerFacts,
    facts: Callable[[], Mapping[str, Any]],
    tokens_per_file: int = TOKENS_PER_FILE,
) -> dict[str, Any]:
    """Write one language's files and its entry.

    Args:
        folder: of the shards; made when absent.
        language: code.
        chunks: (flat token ids, length of each sample), in order, of any size; held one at a time.
        tokenizer: that made the ids.
        facts: what else the entry says of the language; asked after the last chunk, when all is counted.
        tokens_per_file: a file is closed after the chunk that reaches it.

    Returns:
        The entry, as in the manifest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = iter(chunks)
    files: list[dict[str, Any]] = []
    while True:
        path = folder / f"{language}-{len(files):05d}.tokens"
        file = _write_file(path, language=language, chunks=source, tokenizer=tokenizer, limit=tokens_per_file)
        if file is None:
            break
        files.append(file)
    entry = {
        "version": VERSION,
        "samples": sum(file["samples"] for file in files),
        "tokens": sum(file["tokens"] for file in files),
        "tokenizer": tokenizer.fingerprint,
        "files": files,
        "facts": dict(facts()),
    }
    write_json(folder / f"{language}.json", entry)
    return entry


def _write_file(
    path: Path, *, language: str, chunks: Iterator[tuple[np.ndarray, np.ndarray]], tokenizer: TokenizerFacts, limit: int
) -> dict[str, Any] | None:
    """One file from as many chunks as fill it; None when no chunk is left."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    header: dict[str, Any] = {"format": FORMAT, "version": VERSION, "language": language}
    header |= {"tokenizer": tokenizer.fingerprint, "vocabulary_size": tokenizer.vocabulary_size}
    try:
        with temporary.open("wb") as file:
            file.write(b" " * HEADER)
            header |= _write_samples(file, chunks, vocabulary_size=tokenizer.vocabulary_size, limit=limit)
            file.seek(0)
            file.write(json.dumps(header, ensure_ascii=False).encode())
            file.flush()
            os.fsync(file.fileno())
        if not header["samples"]:
            return None
        entry = {"name": path.name, "bytes": temporary.stat().st_size, "checksum": checksum(temporary)}
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error}); check space and permissions, then run again") from error
    finally:
        temporary.unlink(missing_ok=True)
    return entry | {"samples": header["samples"], "tokens": header["tokens"]}


def _write_samples(
    file: BinaryIO, chunks: Iterator[tuple[np.ndarray, np.ndarray]], *, vocabulary_size: int, limit: int
) -> dict[str, Any]:
    """Tokens and ends of the samples; returns what the header says of them."""
    dtype = np.dtype("<u2" if vocabulary_size <= 1 << 16 else "<u4")
    lengths = [np.zeros(0, dtype=np.int64)]
    tokens = 0
    for ids, chunk_lengths in chunks:
        assert ids.size == chunk_lengths.sum(), "lengths do not add up to the ids"
        file.write(ids.astype(dtype).tobytes())
        lengths.append(chunk_lengths)
        tokens += ids.size
        if tokens >= limit:
            break
    file.write(b"\0" * (-tokens * dtype.itemsize % 8))
    ends = np.cumsum(np.concatenate(lengths))
    file.write(ends.astype("<u8").tobytes())
    return {"dtype": dtype.str, "samples": len(ends), "tokens": tokens}


def checksum(path: Path) -> str:
    """BLAKE2b-128 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def write_manifest(
    folder: Path, *, tokenizer: TokenizerFacts, max_sequence_tokens: int, languages: Mapping[str, dict[str, Any]]
) -> None:
    """Declare the shards complete: `languages` maps each code to its entry from `write_language`."""
    tree = {
        "format": FORMAT,
        "version": VERSION,
        "max_sequence_tokens": max_sequence_tokens,
        "tokenizer": {
            "fingerprint": tokenizer.fingerprint,
            "vocabulary_size": tokenizer.vocabulary_size,
            "special": asdict(tokenizer.special),
        },
        "languages": dict(languages),
    }
    write_json(folder / "manifest.json", tree)
