"""Parallel text to aligned shards and dictionaries: the stage `unibert data pairs`, after `tokenize`.

[[data.parallel]] -> pairs/ (pair_text.py) -> shards_parallel/<a>-<b>/ (pair_writing.py; read by pairs.py) and
dictionaries/<a>-<b>.tsv (a word of each language a line). Each part, language pair and dictionary is a task (work.py).
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
from unibert.data.alignments import DICTIONARIES
from unibert.data.kept_out import KeptOut
from unibert.data.lines import say, write_json
from unibert.data.pair_writing import PairText, write_dictionary, write_pair
from unibert.data.pairs import FORMAT, VERSION
from unibert.data.shard_format import TokenizerFacts
from unibert.data.sources.base import Reading
from unibert.data.work import ALONE, Crew, Task, forget, perform
from unibert.errors import ConfigError, DataError
from unibert.schema import Recipe

Inputs = dict[str, list[tuple[Path, str]]]
"""Language pair -> (file, checksum), in the recipe's order."""


def run(recipe: Recipe, *, force: bool = False, crew: Crew = ALONE) -> dict[str, Any]:
    """Make shards_parallel/ and dictionaries/ of a recipe's data folder.

    A side of a pair has at most data.max_sequence_tokens // 2 tokens, so that both fit one row. Texts that are held out
    or of the recipe's evaluation sets are left out.

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
    facts = TokenizerFacts.read(folder / "tokenizer")
    readings, left_out = alignments.plan(recipe)
    stamps = _read(recipe, readings, crew=crew, force=force)
    texts, words = _inputs(readings, stamps, folder, recipe.languages)
    (folder / "shards_parallel" / "manifest.json").unlink(missing_ok=True)
    entries = _write_pairs(recipe, texts, stamps, facts, crew=crew, force=force)
    dictionaries = _write_dictionaries(folder / "dictionaries", words, crew=crew, force=force)
    for into, names in ((folder / "shards_parallel", entries), (folder / "dictionaries", dictionaries)):
        _remove_others(into, names)
    manifest = _manifest(entries, dictionaries, stamps, left_out, facts, longest=recipe.data.max_sequence_tokens // 2)
    if not manifest["language_pairs"] and not dictionaries:
        raise DataError(f"{folder}: not one pair of texts is left: {json.dumps(manifest['parts'])[:600]}")
    write_json(folder / "shards_parallel" / "manifest.json", manifest)
    total = sum(entry["pairs"] for entry in manifest["language_pairs"].values())
    say(f"pairs: {total} in {len(manifest['language_pairs'])} language pairs, {len(dictionaries)} dictionaries")
    return manifest


def _read(recipe: Recipe, readings: Sequence[Reading], *, crew: Crew, force: bool) -> dict[str, dict[str, Any]]:
    """What was found in every part, by its key."""
    out = KeptOut.of(recipe)
    tasks = [pair_text.task(reading, recipe, out) for reading in readings]
    folder = recipe.data.folder / "pairs"
    done = perform(pair_text.read, tasks, folder=folder, crew=crew, what="pairs: reading", force=force)
    return {task.name: stamp for task, stamp in zip(tasks, done, strict=True)}


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


def _write_pairs(
    recipe: Recipe,
    texts: Inputs,
    stamps: Mapping[str, dict[str, Any]],
    facts: TokenizerFacts,
    *,
    crew: Crew,
    force: bool,
) -> dict[str, dict[str, Any]]:
    """The entry of every language pair."""
    into, tokenizer = recipe.data.folder / "shards_parallel", recipe.data.folder / "tokenizer"
    longest = recipe.data.max_sequence_tokens // 2
    made_by = {"version": VERSION, "tokenizer": facts.fingerprint, "longest": longest}
    tasks = []
    for name, files in texts.items():
        codes = _languages(name, stamps)
        settings = made_by | {"languages": list(codes), "files": [checksum for _, checksum in files]}
        paths = tuple(path for path, _ in files)
        tasks.append(Task(name, settings, PairText(paths, codes, tokenizer, facts, longest, into / name)))
    done = perform(write_pair, tasks, folder=into, crew=crew, what="pairs: tokenizing", force=force)
    return dict(zip(texts, done, strict=True))


def _write_dictionaries(folder: Path, words: Inputs, *, crew: Crew, force: bool) -> dict[str, int]:
    """Pairs of words in every dictionary."""
    tasks = [
        Task(
            name,
            {"version": VERSION, "files": [checksum for _, checksum in files]},
            (folder / f"{name}.tsv", tuple(path for path, _ in files)),
        )
        for name, files in words.items()
    ]
    done = perform(write_dictionary, tasks, folder=folder, crew=crew, what="pairs: dictionaries", force=force)
    return {name: result["pairs"] for name, result in zip(words, done, strict=True)}


def _remove_others(folder: Path, names: Mapping[str, Any]) -> None:
    """Remove what an earlier recipe had made and this one has not."""
    made = {path.name.removesuffix(".done.json") for path in folder.glob("*.done.json")}
    for name in made - names.keys():
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / f"{name}.tsv").unlink(missing_ok=True)
        forget(name, folder=folder)


def _manifest(
    entries: Mapping[str, dict[str, Any]],
    dictionaries: Mapping[str, int],
    stamps: Mapping[str, dict[str, Any]],
    left_out: list[str],
    facts: TokenizerFacts,
    *,
    longest: int,
) -> dict[str, Any]:
    checksums = {name: entry["checksums"] for name, entry in entries.items()}
    everything = json.dumps([VERSION, facts.fingerprint, checksums], sort_keys=True)
    return {
        "format": FORMAT,
        "version": VERSION,
        "fingerprint": hashlib.blake2b(everything.encode(), digest_size=16).hexdigest(),
        "tokenizer": facts.fingerprint,
        "max_sequence_tokens": longest,
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
