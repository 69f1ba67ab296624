"""Token shards on disk: the format, and writing it. Reading is shards.py.

A folder of shards holds
  manifest.json            version, tokenizer, and each language's entry: files (name, bytes, checksum, samples, tokens)
                           and facts; written last: no manifest, no shards
  <language>-00000.tokens  a file: HEADER bytes of JSON padded with spaces (format, version, language, dtype, samples,
                           tokens, tokenizer), then the token ids (uint16, or uint32 for large vocabularies), zeros up
                           to a multiple of 8, then the samples' ends as uint64, counted in tokens. Little-endian.
A sample is a document piece with its first (cls) and last (sep) token. Every file appears under its name only when
complete (temporary file + rename). No torch here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from unibert.data.lines import atomic, write_json
from unibert.errors import DataError

FORMAT = "unibert token shard"
VERSION = 1
HEADER = 4096


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
            stats = [(folder / name).stat() for name in ("tokenizer.json", "tokenizer_config.json")]
            return _facts(folder, tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats))
        except FileNotFoundError as error:
            raise DataError(f"{error.filename}: no such file; make it: unibert data tokenize RECIPE") from None
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder}: not a tokenizer with cls, sep, pad, mask and unk tokens: {error!r}") from None


@lru_cache(maxsize=4)
def _facts(folder: Path, _: tuple[tuple[int, ...], ...]) -> TokenizerFacts:
    """What `TokenizerFacts.read` reads, once while the files are the same: every language pair's shards ask for it."""
    # Rounded, since a tokenizer that is loaded and saved again has scores a last digit off.
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    tree = json.loads(text, parse_float=lambda digits: round(float(digits), 6))
    names = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    ids = {token["content"]: int(token["id"]) for token in tree["added_tokens"]}
    special = SpecialIds(*(ids[names[f"{role}_token"]] for role in ("cls", "sep", "pad", "mask", "unk")))
    size = max(len(tree["model"]["vocab"]), 1 + max(ids.values()))
    kept = {key: tree.get(key) for key in ("normalizer", "pre_tokenizer", "model")}
    everything = json.dumps([kept, asdict(special)], sort_keys=True, ensure_ascii=False)
    return TokenizerFacts(hashlib.blake2b(everything.encode(), digest_size=16).hexdigest(), size, special)


def write_file(
    path: Path, *, language: str, chunks: Iterable[tuple[np.ndarray, np.ndarray]], tokenizer: TokenizerFacts
) -> dict[str, Any] | None:
    """Write one file of a language.

    Args:
        path: <folder>/<language>-00000.tokens, or a later number.
        language: code.
        chunks: (flat token ids, length of each sample), in order, of any size; held one at a time.
        tokenizer: that made the ids.

    Returns:
        The file's part of the language's entry; None, and no file, when there is no sample.
    """
    header: dict[str, Any] = {"format": FORMAT, "version": VERSION, "language": language}
    header |= {"tokenizer": tokenizer.fingerprint, "vocabulary_size": tokenizer.vocabulary_size}
    with atomic(path, binary=True, durable=True) as file:
        file.write(b" " * HEADER)
        header |= _write_samples(file, chunks, vocabulary_size=tokenizer.vocabulary_size)
        file.seek(0)
        file.write(json.dumps(header, ensure_ascii=False).encode())
    if not header["samples"]:
        path.unlink()
        return None
    facts = {"name": path.name, "bytes": path.stat().st_size, "checksum": checksum(path)}
    return facts | {"samples": header["samples"], "tokens": header["tokens"]}


def _write_samples(
    file: BinaryIO, chunks: Iterable[tuple[np.ndarray, np.ndarray]], *, vocabulary_size: int
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
    file.write(b"\0" * (-tokens * dtype.itemsize % 8))
    ends = np.cumsum(np.concatenate(lengths))
    file.write(ends.astype("<u8").tobytes())
    return {"dtype": dtype.str, "samples": len(ends), "tokens": tokens}


def language_entry(
    files: Sequence[dict[str, Any]], *, tokenizer: TokenizerFacts, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """A language's entry in the manifest, of the files that `write_file` wrote and what else is to be said of them."""
    return {
        "version": VERSION,
        "samples": sum(file["samples"] for file in files),
        "tokens": sum(file["tokens"] for file in files),
        "tokenizer": tokenizer.fingerprint,
        "files": list(files),
        "facts": dict(facts),
    }


def checksum(path: Path) -> str:
    """BLAKE2b-128 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def write_manifest(
    folder: Path, *, tokenizer: TokenizerFacts, max_sequence_tokens: int, languages: Mapping[str, dict[str, Any]]
) -> None:
    """Declare the shards complete: `languages` maps each code to its `language_entry`."""
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
