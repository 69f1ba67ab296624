"""Aligned shards open for reading: pairs of pieces of text that say the same in two languages. No torch here.

A folder of aligned shards (<data.folder>/shards_parallel) holds
  <a>-<b>/        a shard set (shard_format.py) of two languages with equally many samples: sample i of the one is the
                  translation of sample i of the other; a comes before b in the recipe's languages
  manifest.json   format, version, tokenizer, the language pairs with their counts, and what was dropped; written last
It is written by pairing.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unibert.data.shard_format import SpecialIds
from unibert.data.shards import ShardSet
from unibert.errors import DataError

FORMAT = "unibert aligned shards"
VERSION = 1
AGAIN = "make them (again): unibert data pairs RECIPE"


class PairSet:
    """Aligned shards open for reading. Safe to share between threads. Open with `PairSet.open`.

    P is the number of language pairs, in the order of `language_pairs`.
    """

    languages: tuple[str, ...]
    """Codes; a language's index is its place here."""
    language_pairs: list[tuple[int, int]]
    """(index a, index b) with a < b, ascending: language pairs that have at least one pair of texts."""
    pairs_per_language_pair: np.ndarray
    """int64 [P]."""
    max_sequence_tokens: int
    """No side of a pair is longer, special tokens included: half of data.max_sequence_tokens, so that two fit a row."""
    tokenizer_fingerprint: str
    vocabulary_size: int
    special: SpecialIds
    fingerprint: str
    """Of everything a sampler can meet: the tokenizer, the languages in their order, and the files' checksums."""

    def __init__(self, sets: Mapping[tuple[int, int], ShardSet], *, languages: Sequence[str]) -> None:
        """Use `PairSet.open`, which checks."""
        self.languages = tuple(languages)
        self.language_pairs = sorted(sets)
        self._sets = [sets[pair] for pair in self.language_pairs]
        first = self._sets[0]
        self.max_sequence_tokens = first.max_sequence_tokens
        self.tokenizer_fingerprint = first.tokenizer_fingerprint
        self.vocabulary_size, self.special = first.vocabulary_size, first.special
        self.pairs_per_language_pair = np.array([both.samples_per_language[0] for both in self._sets], dtype=np.int64)
        everything = [VERSION, self.languages, self.language_pairs, [both.fingerprint for both in self._sets]]
        self.fingerprint = _hash(json.dumps(everything)).hex()
        names = [sorted(self.languages[index] for index in pair) for pair in self.language_pairs]
        keys = [[int.from_bytes(_hash(f"{a}-{b}:{side}")[:8], "little") for side in sorted((a, b))] for a, b in names]
        swap = [self.languages[a] > self.languages[b] for a, b in self.language_pairs]
        keys = [key[::-1] if is_swapped else key for key, is_swapped in zip(keys, swap, strict=True)]
        self._keys = np.array(keys, dtype=np.uint64)

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        languages: Sequence[str],
        verify: Literal["size", "checksum"] = "size",
        tokenizer: Path | None = None,
    ) -> PairSet:
        """Open and check every language pair whose two languages are wanted.

        Args:
            folder: `<data.folder>/shards_parallel`.
            languages: codes wanted, in the order of their indices.
            verify: as in `ShardSet.open`.
            tokenizer: folder of the tokenizer that must have made the shards; `folder/../tokenizer` when None and it
                exists.

        Raises:
            DataError: missing, unfinished, damaged, of an older version or another tokenizer, or without one pair of
                the languages that are wanted.
        """
        manifest = _read_manifest(folder)
        beside = folder.parent / "tokenizer"
        if tokenizer is None and (beside / "tokenizer.json").is_file():
            tokenizer = beside
        place = {code: index for index, code in enumerate(languages)}
        sets: dict[tuple[int, int], ShardSet] = {}
        for name, entry in manifest["language_pairs"].items():
            if all(code in place for code in entry["languages"]):
                codes = sorted(entry["languages"], key=lambda code: place[code])
                both = ShardSet.open(folder / name, languages=codes, verify=verify, tokenizer=tokenizer)
                _check_pair(folder / name, both, entry)
                sets[place[codes[0]], place[codes[1]]] = both
        if not sets:
            found = ", ".join(manifest["language_pairs"]) or "none"
            raise DataError(f"{folder}: no pair of two of the languages {', '.join(languages)}; it has {found}")
        return cls(sets, languages=languages)

    def sample(self, pair: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of both sides of a pair of texts, each with its cls and sep, [n], [m]; read-only.

        `pair` is a place in `language_pairs`, and the sides are in its order.
        """
        both = self._sets[pair]
        return both.sample(0, index), both.sample(1, index)

    def lengths(self, pair: int) -> np.ndarray:
        """Tokens of both sides of every pair of texts of a language pair, int64 [pairs, 2]."""
        both = self._sets[pair]
        return np.stack([both.lengths(0), both.lengths(1)], axis=1)

    def document_id(self, pair: np.ndarray, index: np.ndarray, *, side: Literal[0, 1] = 0) -> np.ndarray:
        """An id of a side of each pair of texts, uint64 [n].

        It depends neither on which other languages are open nor on their order, and is no id of a monolingual document.
        """
        return self._keys[pair, side] + index.astype(np.uint64)


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        state = "were begun but not finished" if folder.is_dir() else "do not exist yet"
        raise DataError(f"{path}: the aligned shards {state}; {AGAIN}") from None
    except ValueError as error:
        raise DataError(f"{path}: damaged ({error}); {AGAIN} --force") from None
    if manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
        found = f"version {manifest.get('version')} of {manifest.get('format')!r}"
        raise DataError(f"{path}: {found}, this unibert reads version {VERSION} of {FORMAT!r}; {AGAIN} --force")
    return manifest


def _check_pair(folder: Path, both: ShardSet, entry: Mapping[str, Any]) -> None:
    counts = both.samples_per_language.tolist()
    if counts != [entry["pairs"]] * 2:
        raise DataError(f"{folder}: {counts} samples, not {entry['pairs']} in both languages; {AGAIN} --force")
