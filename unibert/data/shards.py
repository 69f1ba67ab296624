"""Token shards open for reading: memory-mapped, checked when opened. The format is shard_format.py's. No torch here."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unibert.data.shard_format import FORMAT, HEADER, VERSION, SpecialIds, TokenizerFacts, checksum
from unibert.errors import DataError

__all__ = ["ShardSet", "SpecialIds"]


class ShardSet:
    """Shards open for reading, in the order of the languages asked for. Safe to share between threads.

    Open with `ShardSet.open`. Arrays are [L], in the order of `languages`.
    """

    languages: tuple[str, ...]
    """Codes; a language's index is its place here."""
    samples_per_language: np.ndarray
    """int64 [L]: document pieces."""
    tokens_per_language: np.ndarray
    """int64 [L]: tokens, special ones included."""
    characters_per_language: np.ndarray
    """int64 [L]: characters of the text, before normalisation."""
    max_sequence_tokens: int
    """No sample is longer."""
    fingerprint: str
    """Of everything a sampler can meet: the tokenizer, the languages in their order, and their files' checksums."""
    tokenizer_fingerprint: str
    vocabulary_size: int
    special: SpecialIds

    def __init__(self, folder: Path, manifest: Mapping[str, Any], languages: Sequence[str]) -> None:
        """Use `ShardSet.open`, which checks."""
        entries = [manifest["languages"][code] for code in languages]
        self.folder = folder
        self.languages = tuple(languages)
        self.samples_per_language = np.array([entry["samples"] for entry in entries], dtype=np.int64)
        self.tokens_per_language = np.array([entry["tokens"] for entry in entries], dtype=np.int64)
        characters = [entry["facts"].get("characters", 0) for entry in entries]
        self.characters_per_language = np.array(characters, dtype=np.int64)
        self.max_sequence_tokens = manifest["max_sequence_tokens"]
        self.tokenizer_fingerprint = manifest["tokenizer"]["fingerprint"]
        self.vocabulary_size = manifest["tokenizer"]["vocabulary_size"]
        self.special = SpecialIds(**manifest["tokenizer"]["special"])
        checksums = [[file["checksum"] for file in entry["files"]] for entry in entries]
        everything = [VERSION, self.tokenizer_fingerprint, self.languages, checksums]
        self.fingerprint = _hash(json.dumps(everything)).hex()
        self._files = [[_File(folder / file["name"], file) for file in entry["files"]] for entry in entries]
        self._begins = [[0, *accumulate(file.samples for file in files)] for files in self._files]
        self._keys = np.array([int.from_bytes(_hash(code)[:8], "little") for code in languages], dtype=np.uint64)

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        languages: Sequence[str] | None = None,
        verify: Literal["size", "checksum"] = "size",
        tokenizer: Path | None = None,
    ) -> ShardSet:
        """Open and check.

        Args:
            folder: `<data.folder>/shards` or `<data.folder>/shards_heldout`.
            languages: codes wanted, in the order of their indices; all of the manifest's when None.
            verify: "size" and headers always; "checksum" reads every byte besides.
            tokenizer: folder of the tokenizer that must have made the shards; `folder/../tokenizer` when None
                and it exists.

        Raises:
            DataError: missing, unfinished, cut-off, damaged, of an older version, of another tokenizer, or
                without a language that is wanted.
        """
        manifest = _read_manifest(folder)
        beside = folder.parent / "tokenizer"
        if tokenizer is not None or (beside / "tokenizer.json").is_file():
            _check_tokenizer(folder, manifest, tokenizer or beside)
        wanted = tuple(manifest["languages"]) if languages is None else tuple(languages)
        _check_languages(folder, manifest, wanted)
        for code in wanted:
            for file in manifest["languages"][code]["files"]:
                _check_file(folder / file["name"], file, code, manifest, verify=verify)
        return cls(folder, manifest, wanted)

    def require_tokenizer_of(self, other: ShardSet) -> None:
        """Refuse to be used together with shards of another tokenizer, whose ids mean other pieces.

        Raises:
            DataError: they were made with different tokenizers.
        """
        if self.tokenizer_fingerprint != other.tokenizer_fingerprint:
            raise DataError(
                f"{self.folder} and {other.folder} were made with different tokenizers "
                f"({self.vocabulary_size} and {other.vocabulary_size} pieces); {_again(self.folder)}"
            )

    def sample(self, language: int, index: int) -> np.ndarray:
        """Token ids of a document piece with cls and sep, [n], n <= max_sequence_tokens; read-only."""
        begins = self._begins[language]
        number = bisect_right(begins, index) - 1
        if not 0 <= number < len(self._files[language]):
            raise IndexError(f"{self.languages[language]} has {self.samples_per_language[language]} samples")
        return self._files[language][number].sample(index - begins[number])

    def lengths(self, language: int) -> np.ndarray:
        """Tokens of each sample of a language, int64 [samples]."""
        return np.concatenate([np.diff(file.ends.astype(np.int64), prepend=0) for file in self._files[language]])

    def tokens(self, language: int) -> np.ndarray:
        """All token ids of a language, one sample after the other; read-only where the language is one file."""
        parts = [file.ids for file in self._files[language]]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def document_id(self, language: np.ndarray, index: np.ndarray) -> np.ndarray:
        """An id of each document, uint64 [n], that does not depend on which other languages are open."""
        return self._keys[language] + index.astype(np.uint64)


class _File:
    """One memory-mapped file."""

    def __init__(self, path: Path, entry: Mapping[str, Any]) -> None:
        self.samples = int(entry["samples"])
        dtype = np.dtype(_read_header(path)["dtype"])
        tokens = int(entry["tokens"])
        after = HEADER + tokens * dtype.itemsize
        # Plain views of the maps: indexing np.memmap itself costs a microsecond more each time.
        self.ids = np.asarray(np.memmap(path, dtype=dtype, mode="r", offset=HEADER, shape=(tokens,)))
        self.ends = np.asarray(np.memmap(path, dtype="<u8", mode="r", offset=after + -after % 8, shape=(self.samples,)))

    def sample(self, index: int) -> np.ndarray:
        return self.ids[self.ends[index - 1] if index else 0 : self.ends[index]]


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _again(folder: Path) -> str:
    return f"make the shards of {folder.parent} again: unibert data tokenize RECIPE --force"


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        state = "were begun but not finished" if any(folder.glob("*.tokens")) else "do not exist yet"
        raise DataError(f"{path}: the shards {state}; make them: unibert data tokenize RECIPE") from None
    except ValueError as error:
        raise DataError(f"{path}: damaged ({error}); {_again(folder)}") from None
    if manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
        found = f"version {manifest.get('version')} of {manifest.get('format')!r}"
        raise DataError(f"{path}: {found}, this unibert reads version {VERSION} of {FORMAT!r}; {_again(folder)}")
    return manifest


def _check_tokenizer(folder: Path, manifest: Mapping[str, Any], tokenizer: Path) -> None:
    if TokenizerFacts.read(tokenizer).fingerprint != manifest["tokenizer"]["fingerprint"]:
        raise DataError(f"{folder}: these shards were made with another tokenizer than {tokenizer}; {_again(folder)}")


def _check_languages(folder: Path, manifest: Mapping[str, Any], wanted: Sequence[str]) -> None:
    missing = [code for code in wanted if code not in manifest["languages"]]
    empty = [code for code in wanted if code not in missing and not manifest["languages"][code]["samples"]]
    if missing:
        raise DataError(f"{folder}: no shard of {', '.join(missing)}; get their text, then {_again(folder)}")
    if empty:
        raise DataError(
            f"{folder}: {', '.join(empty)} without a single document; "
            f"take them out of the recipe's languages, or get text for them and {_again(folder)}"
        )


def _read_header(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(HEADER))
        return header if header["format"] == FORMAT else {}
    except (ValueError, KeyError, TypeError):
        return {}


def _check_file(path: Path, entry: Mapping[str, Any], code: str, manifest: Mapping[str, Any], *, verify: str) -> None:
    if not path.is_file():
        raise DataError(f"{path}: the shard of {code} is missing; {_again(path.parent)}")
    size = path.stat().st_size
    if size != entry["bytes"]:
        change = f"{'is cut off' if size < entry['bytes'] else 'has grown'}: {size} of {entry['bytes']} bytes"
        raise DataError(f"{path}: the shard of {code} {change}; {_again(path.parent)}")
    header = _read_header(path)
    expected = {"version": VERSION, "language": code, "samples": entry["samples"], "tokens": entry["tokens"]}
    expected["tokenizer"] = manifest["tokenizer"]["fingerprint"]
    wrong = [f"{key} {header.get(key)!r}, not {value!r}" for key, value in expected.items() if header.get(key) != value]
    if wrong:
        raise DataError(f"{path}: does not belong to its manifest ({', '.join(wrong)}); {_again(path.parent)}")
    if verify == "checksum" and checksum(path) != entry["checksum"]:
        raise DataError(f"{path}: the shard of {code} is damaged (its checksum differs); {_again(path.parent)}")
