"""Pairs of texts of two languages to aligned shards: exact duplicates dropped, both sides tokenized and written.

Memory does not grow with the text: where a language pair has much of it, its lines are first divided by their hash, and
the second language's tokens wait on disk while the first's are written.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tokenizers import Tokenizer

from unibert.data.lines import atomic
from unibert.data.shard_format import TokenizerFacts, language_entry, write_file, write_manifest
from unibert.errors import DataError

LINES_AT_ONCE = 1024
BYTES_AT_ONCE = 1 << 27
"""Files of more text are divided by the hash of their lines before duplicates are looked for."""
UNEVEN = 4

Chunk = tuple[np.ndarray, np.ndarray]


class PairEncoder:
    """A tokenizer that makes one sample of each side of a pair, or none when one of them does not do."""

    def __init__(self, folder: Path, *, longest: int) -> None:
        self.facts = TokenizerFacts.read(folder)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.longest = longest
        special = self.facts.special
        self.stray = set(special.all()) - {special.unk}

    def encode(self, pairs: Sequence[tuple[str, str]], *, counted: Counter[str]) -> tuple[Chunk, Chunk]:
        """(flat ids, tokens of each sample) of both sides of the pairs that are used; adds to `counted`.

        `kept`; `long`: a side has more than `longest` tokens, special ones included; `uneven`: one has more than UNEVEN
        times as many as the other, so it says more; `tokens`: a side has no token that the tokenizer knows.
        """
        first, second = (self._ids([pair[side] for pair in pairs]) for side in (0, 1))
        both: tuple[list[list[int]], list[list[int]]] = ([], [])
        for a, b, texts in zip(first, second, pairs, strict=True):
            if not a or not b:
                counted["tokens"] += 1
            elif max(len(a), len(b)) > self.longest:
                counted["long"] += 1
            elif max(len(a), len(b)) > UNEVEN * min(len(a), len(b)):
                counted["uneven"] += 1
            else:
                counted["kept"] += 1
                for side, ids in enumerate((a, b)):
                    both[side].append(ids)
                    counted[f"characters {side}"] += len(texts[side])
        return _flat(both[0]), _flat(both[1])

    def _ids(self, texts: list[str]) -> list[list[int]]:
        special = self.facts.special
        samples = []
        for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False):
            ids = [token for token in encoding.ids if token not in self.stray]
            is_text = ids.count(special.unk) < len(ids)
            samples.append([special.cls, *ids, special.sep] if is_text else [])
        return samples


def _flat(samples: list[list[int]]) -> Chunk:
    lengths = np.fromiter(map(len, samples), dtype=np.int64, count=len(samples))
    return np.fromiter((token for ids in samples for token in ids), dtype=np.int64, count=lengths.sum()), lengths


def unique_pairs(files: Sequence[Path], *, counted: Counter[str]) -> Iterator[tuple[str, str]]:
    """The pairs of texts in files of pair_text.py, the first of those that are equal; the others are `duplicate`.

    In the files' order while they are small, else by groups of hashes, each in the files' order.
    """
    size = sum(path.stat().st_size for path in files)
    with tempfile.TemporaryDirectory(dir=files[0].parent) if size > BYTES_AT_ONCE else ExitStack() as folder:
        groups = [files] if not isinstance(folder, str) else _divided(files, Path(folder), 1 + size // BYTES_AT_ONCE)
        for group in groups:
            seen: set[str] = set()
            for line in _lines(group):
                key, a, b = line.rstrip("\n").split("\t")
                if key in seen:
                    counted["duplicate"] += 1
                else:
                    seen.add(key)
                    yield a, b


def _divided(files: Sequence[Path], folder: Path, groups: int) -> list[list[Path]]:
    paths = [folder / f"{number:04d}" for number in range(groups)]
    with ExitStack() as stack:
        out = [stack.enter_context(path.open("w", encoding="utf-8")) for path in paths]
        for line in _lines(files):
            out[int(line[:16], 16) % groups].write(line)
    return [[path] for path in paths]


def _lines(files: Iterable[Path]) -> Iterator[str]:
    for path in files:
        with path.open(encoding="utf-8", newline="\n") as lines:
            yield from lines


def write_pair(
    folder: Path, files: Sequence[Path], *, languages: tuple[str, str], encoder: PairEncoder
) -> dict[str, Any]:
    """Write the shard set of a language pair.

    Returns:
        Its entry: languages, pairs, tokens of both sides, dropped by reason, checksums; a pair without any pair of
        texts left has no folder.

    Raises:
        DataError: the disk is full.
    """
    counted: Counter[str] = Counter()
    pairs = unique_pairs(files, counted=counted)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").unlink(missing_ok=True)
        with tempfile.TemporaryFile(dir=folder) as waiting:

            def chunks() -> Iterator[Chunk]:
                while batch := list(islice(pairs, LINES_AT_ONCE)):
                    first, second = encoder.encode(batch, counted=counted)
                    for array in second:
                        np.save(waiting, array)
                    yield first

            def write(side: int, source: Iterable[Chunk]) -> dict[str, Any]:
                code = languages[side]
                file = write_file(
                    folder / f"{code}-00000.tokens", language=code, chunks=source, tokenizer=encoder.facts
                )
                facts = {"characters": counted[f"characters {side}"]}
                return language_entry([file] if file else [], tokenizer=encoder.facts, facts=facts)

            entries = [write(0, chunks())]
            waiting.seek(0)
            entries.append(write(1, _waiting(waiting)))
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error}); check space and permissions, then run again"
        ) from error
    named = dict(zip(languages, entries, strict=True))
    write_manifest(folder, tokenizer=encoder.facts, max_sequence_tokens=encoder.longest, languages=named)
    return {
        "languages": list(languages),
        "pairs": counted["kept"],
        "tokens": [entry["tokens"] for entry in entries],
        "dropped": {reason: counted[reason] for reason in ("duplicate", "long", "uneven", "tokens") if counted[reason]},
        "checksums": [[file["checksum"] for file in entry["files"]] for entry in entries],
    }


def _waiting(file: BinaryIO) -> Iterator[Chunk]:
    end = file.seek(0, 2)
    file.seek(0)
    while file.tell() < end:
        yield np.load(file), np.load(file)


def write_dictionary(path: Path, files: Sequence[Path]) -> int:
    """Write the pairs of words, each once, a line a pair with a tab between; returns how many."""
    count = 0
    with atomic(path) as out:
        for a, b in unique_pairs(files, counted=Counter()):
            out.write(f"{a}\t{b}\n")
            count += 1
    return count
