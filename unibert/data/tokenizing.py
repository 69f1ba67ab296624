"""Text to shards: make the tokenizer, tokenize every language, report.

A document longer than data.max_sequence_tokens is cut into consecutive pieces without overlap; each piece gets a
first and a last special token. A last piece shorter than SHORTEST_REST tokens is dropped unless it is the only one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from unibert.data import token_report, tokenizer_training
from unibert.data.lines import file_sha256, read_json, say
from unibert.data.progress import progress
from unibert.data.shard_format import VERSION, TokenizerFacts, write_language, write_manifest
from unibert.data.trimming import normalised, texts_in_chunks, unknown_characters
from unibert.errors import ConfigError, DataError
from unibert.schema import Recipe

SHORTEST_REST = 8
"""Tokens, special ones not counted."""
UNKNOWN_SHOWN = 20


@dataclass
class TextFacts:
    """What is counted while a language is tokenized; it goes into the shards' entry."""

    source: str
    """SHA-256 of the text file."""
    max_sequence_tokens: int
    documents: int = 0
    characters: int = 0
    words: int = 0
    """Separated by white space."""
    pieces: int = 0
    """Tokens of the documents, without the special ones."""
    new_pieces: int = 0
    """Tokens that are characters which the teacher does not know."""
    unknown_pieces: int = 0
    unknown_characters: Counter[str] = field(default_factory=Counter)
    round_trips: int = 0
    """Documents that decoding gives back as the tokenizer's normaliser left them."""
    dropped_pieces: int = 0
    """Tokens of last pieces that were too short."""
    dropped_documents: int = 0
    """Documents without a single ordinary token."""
    special_strings: int = 0
    """Special tokens spelt out in the text, such as a literal <s>; taken out."""

    def as_json(self) -> dict[str, Any]:
        """For the shards' entry; of the unknown characters the most frequent ones."""
        return vars(self) | {"unknown_characters": dict(self.unknown_characters.most_common(UNKNOWN_SHOWN))}


def run(recipe: Recipe, *, force: bool = False) -> dict[str, Any]:
    """Make tokenizer/, shards/, shards_heldout/ and report.json of a recipe's data folder, and print the table.

    Finished work is kept: the tokenizer while teacher, size and text are the same, a language's shards while
    tokenizer, length and text are. `force` makes everything again.

    Returns:
        The report, as in report.json.

    Raises:
        ConfigError: no [teacher] and no tokenizer, or pieces too short to hold anything.
        DataError: text of a language is missing or empty, or the teacher's tokenizer is.
    """
    folder, length = recipe.data.folder, recipe.data.max_sequence_tokens
    if length < SHORTEST_REST + 2:
        raise ConfigError(f"data.max_sequence_tokens = {length}: at least {SHORTEST_REST + 2}")
    clean = _texts(recipe, folder / "clean")
    heldout = _texts(recipe, folder / "heldout" / "lines")
    tokenizer = folder / "tokenizer"
    tokenizer_training.make(recipe, texts={code: [path] for code, path in clean.items()}, into=tokenizer, force=force)
    make_shards(clean, tokenizer=tokenizer, into=folder / "shards", max_sequence_tokens=length, force=force)
    make_shards(heldout, tokenizer=tokenizer, into=folder / "shards_heldout", max_sequence_tokens=length, force=force)
    report = token_report.build(recipe)
    token_report.write(report, folder=folder)
    token_report.show(report)
    return report


def _texts(recipe: Recipe, folder: Path) -> dict[str, Path]:
    """The text file of every language.

    Raises:
        DataError: naming every language without text.
    """
    paths = {code: folder / f"{code}.jsonl" for code in recipe.languages}
    empty = [code for code, path in paths.items() if not path.is_file() or not path.stat().st_size]
    if empty:
        raise DataError(
            f"{folder}: no text of {', '.join(empty)}; run the stages before this one (unibert data fetch|parallel|"
            f"clean|dedup {recipe.name}), or take these out of the recipe's languages"
        )
    return paths


def make_shards(
    texts: dict[str, Path], *, tokenizer: Path, into: Path, max_sequence_tokens: int, force: bool = False
) -> None:
    """Tokenize the text of every language into shards; languages that are done with these settings are kept.

    Raises:
        DataError: a text is damaged, or no document of a language has an ordinary token.
    """
    facts = TokenizerFacts.read(tokenizer)
    sources = {code: file_sha256(path) for code, path in texts.items()}
    entries: dict[str, Any] = {}
    for code, source in sources.items() if not force else ():
        entry = _finished(into, code, source, tokenizer=facts.fingerprint, length=max_sequence_tokens)
        entries |= {code: entry} if entry else {}
    missing = [code for code in texts if code not in entries]
    if not missing and _declared(into, entries):
        say(f"shards: {into} is finished already")
        return
    (into / "manifest.json").unlink(missing_ok=True)
    encoder = Encoder(tokenizer, facts=facts, max_sequence_tokens=max_sequence_tokens)
    for code in progress(missing, what=f"tokenizing into {into}"):
        counted = TextFacts(source=sources[code], max_sequence_tokens=max_sequence_tokens)
        chunks = (encoder.encode(chunk, counted=counted) for chunk in texts_in_chunks(texts[code]))
        entries[code] = write_language(into, language=code, chunks=chunks, tokenizer=facts, facts=counted.as_json)
    empty = [code for code, entry in entries.items() if not entry["samples"]]
    if empty:
        raise DataError(f"{into}: the text of {', '.join(empty)} has no document with an ordinary token")
    ordered = {code: entries[code] for code in texts}
    write_manifest(into, tokenizer=facts, max_sequence_tokens=max_sequence_tokens, languages=ordered)


def _finished(folder: Path, code: str, source: str, *, tokenizer: str, length: int) -> dict[str, Any] | None:
    """A language's entry, when its shards were made with these settings and are whole."""
    path = folder / f"{code}.json"
    entry = read_json(path) if path.is_file() else {}
    if entry.get("version") != VERSION or entry["tokenizer"] != tokenizer:
        return None
    if (entry["facts"]["source"], entry["facts"]["max_sequence_tokens"]) != (source, length):
        return None
    files = [(folder / file["name"], file["bytes"]) for file in entry["files"]]
    return entry if all(path.is_file() and path.stat().st_size == size for path, size in files) else None


def _declared(folder: Path, entries: dict[str, Any]) -> bool:
    """Whether the manifest has these entries; it may have more, of another recipe's languages."""
    path = folder / "manifest.json"
    languages = read_json(path)["languages"] if path.is_file() else {}
    return all(languages.get(code) == entry for code, entry in entries.items())


class Encoder:
    """A tokenizer that turns texts into samples and counts what happens to them."""

    def __init__(self, folder: Path, *, facts: TokenizerFacts, max_sequence_tokens: int) -> None:
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.special = facts.special
        self.room = max_sequence_tokens - 2
        self.known = {piece for piece in self.tokenizer.get_vocab() if len(piece) == 1}
        self.stray = set(facts.special.all()) - {facts.special.unk}
        self.new = np.zeros(facts.vocabulary_size, dtype=bool)
        if (folder / "kept_ids.npy").is_file():
            kept_ids = np.load(folder / "kept_ids.npy")
            self.new = kept_ids == kept_ids[facts.special.unk]
            self.new[facts.special.unk] = False

    def encode(self, texts: list[str], *, counted: TextFacts) -> tuple[np.ndarray, np.ndarray]:
        """(token ids of all samples, one after the other; tokens of each sample); adds to `counted`."""
        documents = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        decoded = self.tokenizer.decode_batch(documents, skip_special_tokens=False)
        samples: list[list[int]] = []
        for text, ids, back in zip(texts, documents, decoded, strict=True):
            samples += self._samples(ids, counted)
            self._count(text, ids, back, counted)
        lengths = np.fromiter(map(len, samples), dtype=np.int64, count=len(samples))
        flat = np.fromiter((token for sample in samples for token in sample), dtype=np.int64, count=lengths.sum())
        counted.new_pieces += int(self.new[flat].sum())
        return flat, lengths

    def _samples(self, ids: list[int], counted: TextFacts) -> list[list[int]]:
        if not self.stray.isdisjoint(ids):
            counted.special_strings += sum(token in self.stray for token in ids)
            ids = [token for token in ids if token not in self.stray]
        if ids.count(self.special.unk) == len(ids):
            counted.dropped_documents += 1
            return []
        pieces, dropped = cut(ids, room=self.room)
        counted.dropped_pieces += dropped
        ordinary = [piece for piece in pieces if piece.count(self.special.unk) < len(piece)]
        return [[self.special.cls, *piece, self.special.sep] for piece in ordinary]

    def _count(self, text: str, ids: list[int], decoded: str, counted: TextFacts) -> None:
        counted.documents += 1
        counted.characters += len(text)
        counted.words += len(text.split())
        counted.pieces += len(ids)
        if unknown := ids.count(self.special.unk):
            counted.unknown_pieces += unknown
            counted.unknown_characters.update(unknown_characters(self.tokenizer, text, known=self.known))
        # Most text is in normal form already, and normalising is the slower comparison.
        counted.round_trips += decoded == text or decoded.strip() == normalised(self.tokenizer, text)


def cut(ids: list[int], *, room: int) -> tuple[list[list[int]], int]:
    """(consecutive pieces of at most `room` ids, ids of a last piece that was dropped as too short)."""
    pieces = [ids[start : start + room] for start in range(0, len(ids), room)]
    if len(pieces) > 1 and len(pieces[-1]) < SHORTEST_REST:
        return pieces[:-1], len(pieces[-1])
    return pieces, 0
