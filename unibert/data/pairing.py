"""Parallel text to aligned shards and dictionaries: the stage `unibert data pairs`, after `tokenize`.

[[data.parallel]] -> pairs/ (pair_text.py) -> shards_parallel/<a>-<b>/ (pair_writing.py; read by pairs.py) and
dictionaries/<a>-<b>.tsv (a word of each language a line). A part or a language pair that is complete is not made again,
so a run that was cut off goes on, and ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unibert import languages
from unibert.data import alignments, pair_text
from unibert.data.alignments import DICTIONARIES, Reading
from unibert.data.lines import finished, say, write_json
from unibert.data.pair_writing import PairEncoder, write_dictionary, write_pair
from unibert.data.pairs import FORMAT, VERSION
from unibert.data.progress import progress
from unibert.errors import ConfigError, DataError
from unibert.schema import Recipe

Inputs = dict[str, list[tuple[Path, str]]]
"""Language pair -> (file, checksum), in the recipe's order."""


def run(recipe: Recipe, *, force: bool = False) -> dict[str, Any]:
    """Make shards_parallel/ and dictionaries/ of a recipe's data folder.

    A side of a pair has at most data.max_sequence_tokens // 2 tokens, so that both fit one row.

    Returns:
        The manifest of shards_parallel/: language pairs with their counts, a fingerprint, and what was dropped.

    Raises:
        ConfigError: no [[data.parallel]].
        DataError: text that cannot be read, no tokenizer yet, or not one pair left.
    """
    languages.check(recipe.languages)
    if not recipe.data.parallel:
        raise ConfigError("the recipe has no [[data.parallel]] table: name parallel text, or the demo's by kind demo")
    folder = recipe.data.folder
    encoder = PairEncoder(folder / "tokenizer", longest=recipe.data.max_sequence_tokens // 2)
    manifest_path = folder / "shards_parallel" / "manifest.json"
    readings, left_out = alignments.plan(recipe)
    judge = pair_text.Judge(recipe)
    stamps: dict[str, dict[str, Any]] = {}
    for number, reading in enumerate(readings, start=1):
        say(f"pairs: part {number} of {len(readings)}, {reading.key}")
        stamps[reading.key] = pair_text.read(reading, recipe, judge, force=force)
    texts, words = _inputs(readings, stamps, folder, recipe.languages)
    manifest_path.unlink(missing_ok=True)
    entries = {}
    for name in progress(list(texts), what="pairs: tokenizing"):
        codes = _languages(name, stamps)
        entries[name] = _make_pair(folder / "shards_parallel" / name, texts[name], codes, encoder, force=force)
    dictionaries = {name: _make_dictionary(folder, name, files, force=force) for name, files in words.items()}
    _remove_others(folder, entries, dictionaries)
    manifest = _manifest(entries, dictionaries, stamps, left_out, encoder)
    if not manifest["language_pairs"] and not dictionaries:
        raise DataError(f"{folder}: not one pair of texts is left: {json.dumps(manifest['parts'])[:600]}")
    write_json(manifest_path, manifest)
    total = sum(entry["pairs"] for entry in manifest["language_pairs"].values())
    say(f"pairs: {total} in {len(manifest['language_pairs'])} language pairs, {len(dictionaries)} dictionaries")
    return manifest


def _inputs(
    readings: Sequence[Reading], stamps: Mapping[str, dict[str, Any]], folder: Path, order: Sequence[str]
) -> tuple[Inputs, Inputs]:
    """(files of texts, files of words) by language pair, the pairs in the order of the languages."""
    texts: Inputs = defaultdict(list)
    words: Inputs = defaultdict(list)
    place = {code: number for number, code in enumerate(order)}
    for reading in readings:
        inputs = words if reading.table.kind in DICTIONARIES else texts
        for name, entry in stamps[reading.key]["pairs"].items():
            if entry["kept"]:
                inputs[name].append((folder / "pairs" / reading.key / f"{name}.tsv", entry["sha256"]))

    def ordered(inputs: Inputs) -> Inputs:
        return dict(sorted(inputs.items(), key=lambda item: [place[code] for code in _languages(item[0], stamps)]))

    return ordered(texts), ordered(words)


def _languages(name: str, stamps: Mapping[str, dict[str, Any]]) -> tuple[str, str]:
    a, b = next(stamp["pairs"][name]["languages"] for stamp in stamps.values() if name in stamp["pairs"])
    return a, b


def _make_pair(
    folder: Path, files: list[tuple[Path, str]], codes: tuple[str, str], encoder: PairEncoder, *, force: bool
) -> dict[str, Any]:
    """A language pair's entry, its shards made unless they are there."""
    facts = {"version": VERSION, "tokenizer": encoder.facts.fingerprint, "longest": encoder.longest}
    settings = facts | {"languages": list(codes), "files": [checksum for _, checksum in files]}
    path = folder.with_name(f"{folder.name}.json")
    if not force and (done := finished(path, settings)) is not None and _is_whole(folder, done["entry"]):
        return done["entry"]
    shutil.rmtree(folder, ignore_errors=True)
    entry = write_pair(folder, [file for file, _ in files], languages=codes, encoder=encoder)
    if not entry["pairs"]:
        shutil.rmtree(folder)
    write_json(path, {"settings": settings, "entry": entry})
    return entry


def _is_whole(folder: Path, entry: Mapping[str, Any]) -> bool:
    return not entry["pairs"] or (folder / "manifest.json").is_file()


def _make_dictionary(folder: Path, name: str, files: list[tuple[Path, str]], *, force: bool) -> int:
    """Pairs of words in a dictionary, which is made unless it is there."""
    path = folder / "dictionaries" / f"{name}.tsv"
    settings = {"version": VERSION, "files": [checksum for _, checksum in files]}
    stamp = path.with_suffix(".json")
    if not force and path.is_file() and (done := finished(stamp, settings)) is not None:
        return done["pairs"]
    count = write_dictionary(path, [file for file, _ in files])
    write_json(stamp, {"settings": settings, "pairs": count})
    return count


def _remove_others(folder: Path, entries: Mapping[str, Any], dictionaries: Mapping[str, int]) -> None:
    """What an earlier recipe had made and this one has not."""
    for part, names in (("shards_parallel", entries), ("dictionaries", dictionaries)):
        for path in (folder / part).glob("*.json"):
            if path.stem not in names and path.name != "manifest.json":
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                path.with_suffix(".tsv").unlink(missing_ok=True)
                path.unlink()


def _manifest(
    entries: Mapping[str, dict[str, Any]],
    dictionaries: Mapping[str, int],
    stamps: Mapping[str, dict[str, Any]],
    left_out: list[str],
    encoder: PairEncoder,
) -> dict[str, Any]:
    checksums = {name: entry["checksums"] for name, entry in entries.items()}
    everything = json.dumps([VERSION, encoder.facts.fingerprint, checksums], sort_keys=True)
    return {
        "format": FORMAT,
        "version": VERSION,
        "fingerprint": hashlib.blake2b(everything.encode(), digest_size=16).hexdigest(),
        "tokenizer": encoder.facts.fingerprint,
        "max_sequence_tokens": encoder.longest,
        "language_pairs": {name: entry for name, entry in entries.items() if entry["pairs"]},
        "without_pairs": {name: entry["dropped"] for name, entry in entries.items() if not entry["pairs"]},
        "dictionaries": dict(dictionaries),
        "parts": {
            key: {
                "licence": stamp["licence"],
                "texts": stamp["texts"],
                "kept": {name: entry["kept"] for name, entry in stamp["pairs"].items()},
                "dropped": {name: entry["dropped"] for name, entry in stamp["pairs"].items() if entry["dropped"]},
                "skipped": stamp["skipped"],
            }
            for key, stamp in stamps.items()
        },
        "left_out": left_out,
    }
