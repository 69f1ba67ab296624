"""Pairs of texts of two languages to aligned shards: exact duplicates dropped, both sides tokenized and written.

Memory does not grow with the text: where a language pair has much of it, its lines are first divided by their hash, and
the second language's tokens wait on disk while the first's are written.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import numpy as np

from unibert.data.encoding import Encoder, encoder
from unibert.data.lines import atomic
from unibert.data.shard_format import TokenizerFacts, language_entry, write_file, write_manifest
from unibert.data.work import Done
from unibert.errors import DataError

LINES_AT_ONCE = 1024
BYTES_AT_ONCE = 1 << 27
"""Files of more text are divided by the hash of their lines before duplicates are looked for."""
UNEVEN = 4

Chunk = tuple[np.ndarray, np.ndarray]


class PairEncoder:
    """A tokenizer that makes one sample of each side of a pair, or none when one of them does not do."""

    def __init__(self, tokenizer: Encoder, *, longest: int) -> None:
        self.tokenizer = tokenizer
        self.longest = longest

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
        special, stray = self.tokenizer.special, self.tokenizer.stray
        samples = []
        for ids in self.tokenizer.ids(texts):
            if not stray.isdisjoint(ids):
                ids = [token for token in ids if token not in stray]
            is_text = ids.count(special.unk) < len(ids)
            samples.append([special.cls, *ids, special.sep] if is_text else [])
        return samples


def _flat(samples: list[list[int]]) -> Chunk:
    lengths = np.fromiter(map(len, samples), dtype=np.int64, count=len(samples))
    return np.fromiter(chain.from_iterable(samples), dtype=np.int64, count=lengths.sum()), lengths


def unique_pairs(files: Sequence[Path], *, counted: Counter[str]) -> Iterator[tuple[str, str]]:
    """The pairs of texts in files of pair_text.py, the first of those that are equal; the others are `duplicate`.

    In the files' order while they are small, else by groups of hashes, each in the files' order.
    """
    size = sum(path.stat().st_size for path in files)
    groups = [_lines(files)] if size <= BYTES_AT_ONCE else _divided(files, 1 + size // BYTES_AT_ONCE)
    for lines in groups:
        seen: set[str] = set()
        for line in lines:
            key, a, b = line.rstrip("\n").split("\t")
            if key in seen:
                counted["duplicate"] += 1
            else:
                seen.add(key)
                yield a, b


def _divided(files: Sequence[Path], groups: int) -> Iterator[Iterable[str]]:
    """The files' lines in groups by their hash, from files without a name: a process that is killed leaves none."""
    with ExitStack() as stack:
        found = [
            stack.enter_context(TemporaryFile("w+", encoding="utf-8", newline="\n", dir=files[0].parent))
            for _ in range(groups)
        ]
        for line in _lines(files):
            found[int(line[:16], 16) % groups].write(line)
        for file in found:
            file.seek(0)
            yield file


def _lines(files: Iterable[Path]) -> Iterator[str]:
    for path in files:
        with path.open(encoding="utf-8", newline="\n") as lines:
            yield from lines


@dataclass(frozen=True)
class PairText:
    """One task: the texts of a language pair, and the shard set that they become."""

    files: tuple[Path, ...]
    """Of pair_text.py, in the recipe's order."""
    languages: tuple[str, str]
    tokenizer: Path
    facts: TokenizerFacts
    longest: int
    into: Path


def write_pair(job: PairText) -> Done:
    """Write the shard set of a language pair.

    The result: languages, pairs, tokens of both sides, dropped by reason, checksums; a pair without any pair of texts
    left has no folder.

    Raises:
        DataError: the disk is full.
    """
    counted: Counter[str] = Counter()
    try:
        entries = _write_sides(job, counted)
    except OSError as error:
        raise DataError(
            f"{job.into}: cannot be written ({error}); check space and permissions, then run again"
        ) from error
    result = {
        "languages": list(job.languages),
        "pairs": counted["kept"],
        "tokens": [entry["tokens"] for entry in entries],
        "dropped": {reason: counted[reason] for reason in ("duplicate", "long", "uneven", "tokens") if counted[reason]},
        "checksums": [[file["checksum"] for file in entry["files"]] for entry in entries],
    }
    if not counted["kept"]:
        shutil.rmtree(job.into)
        return Done(result)
    named = dict(zip(job.languages, entries, strict=True))
    write_manifest(job.into, tokenizer=job.facts, max_sequence_tokens=job.longest, languages=named)
    names = ["manifest.json", *(file["name"] for entry in entries for file in entry["files"])]
    return Done(result, tuple(job.into / name for name in names))


def _write_sides(job: PairText, counted: Counter[str]) -> list[dict[str, Any]]:
    """Both languages' entries; the second's tokens wait in a file without a name while the first's are written."""
    pairs = unique_pairs(job.files, counted=counted)
    make = PairEncoder(encoder(job.tokenizer, job.facts, job.longest), longest=job.longest)
    job.into.mkdir(parents=True, exist_ok=True)
    (job.into / "manifest.json").unlink(missing_ok=True)
    with TemporaryFile(dir=job.into) as waiting:

        def chunks() -> Iterator[Chunk]:
            while batch := list(islice(pairs, LINES_AT_ONCE)):
                first, second = make.encode(batch, counted=counted)
                for array in second:
                    np.save(waiting, array)
                yield first

        def write(side: int, source: Iterable[Chunk]) -> dict[str, Any]:
            code = job.languages[side]
            path = job.into / f"{code}-00000.tokens"
            file = write_file(path, language=code, chunks=source, tokenizer=job.facts)
            facts = {"characters": counted[f"characters {side}"]}
            return language_entry([file] if file else [], tokenizer=job.facts, facts=facts)

        return [write(0, chunks()), write(1, _waiting(waiting))]


def _waiting(file: BinaryIO) -> Iterator[Chunk]:
    end = file.seek(0, 2)
    file.seek(0)
    while file.tell() < end:
        yield np.load(file), np.load(file)


def write_dictionary(argument: tuple[Path, tuple[Path, ...]]) -> Done:
    """Write the pairs of words of some files to a file, each once, a line a pair with a tab between."""
    path, files = argument
    count = 0
    with atomic(path) as out:
        for a, b in unique_pairs(files, counted=Counter()):
            out.write(f"{a}\t{b}\n")
            count += 1
    return Done({"pairs": count}, (path,))
