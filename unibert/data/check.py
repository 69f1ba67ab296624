"""Show that what is kept out of training is not in the shards: the stage `unibert data check`.

Every sample of shards/ and shards_parallel/ is decoded and looked at in the form of lines.text_key:
  evaluation   it says what a text of the recipe's evaluation sets says (curation/contamination.py)
  heldout      it is a held-out line or a held-out parallel text
  passage      it shares a passage with a held-out parallel text, as other messages of the same program may
The first two are an error, the last is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from unibert import languages
from unibert.data.curation.contamination import EXAMPLES, Index, in_shards
from unibert.data.kept_out import KeptOut, evaluation_index, parallel_texts
from unibert.data.lines import read_json, say, text_key, write_json
from unibert.data.shard_format import TokenizerFacts
from unibert.data.shards import ShardSet
from unibert.data.work import ALONE, Crew, Done, Task, perform
from unibert.errors import DataError
from unibert.schema import Recipe

FORMAT = 1
SAMPLES_AT_ONCE = 1 << 16
"""Of one task."""
TESTS = ("evaluation", "heldout", "passage")
ERRORS = ("evaluation", "heldout")
EXAMPLES_SHOWN, SHOWN_CHARACTERS = 6, 100

Tests = Mapping[str, Callable[[Sequence[str]], np.ndarray]]
"""By their names; of text keys, which ones are found."""


def run(recipe: Recipe, *, force: bool = False, crew: Crew = ALONE) -> dict[str, Any]:
    """Look through the shards of a recipe's data folder; write check.json and print a table.

    Returns:
        The report, as in check.json: the shard sets looked through, how many texts are held out and files of evaluation
        sets there are, and per language its samples and by each test `hits` and `examples`.

    Raises:
        DataError: there are no shards; or a text of an evaluation set, or one that is held out, is in them.
    """
    languages.check(recipe.languages)
    folder, out = recipe.data.folder, KeptOut.of(recipe)
    tasks = [task for shards in _shard_sets(recipe) for task in _tasks(shards, out)]
    done = perform(_look, tasks, folder=folder / "check", crew=crew, what="check", force=force)
    report = {
        "shards": list(dict.fromkeys(task.argument.place for task in tasks)),
        "heldout_texts": len(out.texts()),
        "evaluation_files": len(out.evaluation),
        "languages": _per_language(recipe.languages, [task.argument for task in tasks], done),
    }
    write_json(folder / "check.json", report)
    _show(report)
    if found := list(_examples(report)):
        codes = ", ".join(dict.fromkeys(code for code, _ in found))
        raise DataError(
            f"{folder}: what is to be kept out is in the shards of {codes}: "
            f"{'; '.join(text for _, text in found[:EXAMPLES_SHOWN])}; more in check.json; "
            f"run again: unibert data clean|dedup|tokenize|pairs {recipe.name}"
        )
    return report


def _examples(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(code, what was found) of what is an error, one of each language and test."""
    for code, entry in report["languages"].items():
        for test in ERRORS:
            for example in entry[test]["examples"][:1]:
                yield code, f"{code}, {test}: {example[:SHOWN_CHARACTERS]!r}"


def _shard_sets(recipe: Recipe) -> Iterator[ShardSet]:
    """The shards, and the aligned ones if there are any."""
    folder = recipe.data.folder
    tokenizer = folder / "tokenizer"
    yield ShardSet.open(folder / "shards", languages=recipe.languages, tokenizer=tokenizer)
    manifest = folder / "shards_parallel" / "manifest.json"
    pairs = read_json(manifest)["language_pairs"] if manifest.is_file() else {}
    for name, entry in pairs.items():
        if set(entry["languages"]) <= set(recipe.languages):
            yield ShardSet.open(manifest.parent / name, languages=entry["languages"], tokenizer=tokenizer)


@dataclass(frozen=True)
class Looking:
    """What one task looks at: some samples of a language in a shard set."""

    place: str
    """The shard set's folder in the data folder."""
    languages: tuple[str, ...]
    """Those of the shard set that are wanted."""
    fingerprint: str
    language: str
    samples: range
    out: KeptOut


def _tasks(shards: ShardSet, out: KeptOut) -> Iterator[Task]:
    place = str(shards.folder.relative_to(out.folder))
    settings = out.settings() | {"format": FORMAT, "shards": shards.fingerprint}
    for code, count in zip(shards.languages, shards.samples_per_language.tolist(), strict=True):
        for start in range(0, count, SAMPLES_AT_ONCE):
            samples = range(start, min(start + SAMPLES_AT_ONCE, count))
            job = Looking(place, shards.languages, shards.fingerprint, code, samples, out)
            yield Task(f"{place}/{code}-{start}", settings, job)


def _look(job: Looking) -> Done:
    """Look at the samples of one task."""
    tokenizer = job.out.folder / "tokenizer"
    decoder, tests = _tests(job.out, TokenizerFacts.read(tokenizer))
    shards = _open(job.out.folder / job.place, job.languages, job.fingerprint)
    language = job.languages.index(job.language)
    return Done(in_shards(shards, language, decoder=decoder, tests=tests, samples=job.samples))


@lru_cache(maxsize=1)
def _open(folder: Path, codes: tuple[str, ...], _fingerprint: str) -> ShardSet:
    """The shard set that a process looks at, kept from task to task."""
    return ShardSet.open(folder, languages=codes)


@lru_cache(maxsize=1)
def _tests(out: KeptOut, facts: TokenizerFacts) -> tuple[Tokenizer, Tests]:
    """(decoder, the tests), kept by a process from task to task."""
    tokenizer = Tokenizer.from_file(str(out.folder / "tokenizer" / "tokenizer.json"))
    held = _keys(out.texts(), tokenizer, unknown=facts.special.unk)

    def is_held(keys: Sequence[str]) -> np.ndarray:
        return np.fromiter((key in held for key in keys), dtype=bool, count=len(keys))

    tests = (evaluation_index(out.evaluation).hits, is_held, Index(parallel_texts(out.folder)).hits)
    return tokenizer, dict(zip(TESTS, tests, strict=True))


def _keys(texts: Sequence[str], tokenizer: Tokenizer, *, unknown: int) -> frozenset[str]:
    """The keys of texts as they are, and as they come out of the tokenizer where it has pieces for all of them."""
    found = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    whole = [each.ids for each in found if unknown not in each.ids]
    decoded = tokenizer.decode_batch(whole, skip_special_tokens=False)
    return frozenset(map(text_key, [*texts, *decoded]))


def _per_language(codes: Sequence[str], jobs: Sequence[Looking], done: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the tasks found, added up by language."""
    found: dict[str, dict[str, Any]]
    found = {code: {"samples": 0} | {test: {"hits": 0, "examples": []} for test in TESTS} for code in codes}
    for job, result in zip(jobs, done, strict=True):
        entry = found[job.language]
        entry["samples"] += len(job.samples)
        for test, hits in result.items():
            entry[test]["hits"] += hits["hits"]
            entry[test]["examples"] = (entry[test]["examples"] + hits["examples"])[:EXAMPLES]
    return found


def _show(report: dict[str, Any]) -> None:
    """Print the table."""
    title = f"{report['heldout_texts']:,} held-out texts, {report['evaluation_files']:,} files of evaluation sets"
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("code", "samples", *TESTS):
        table.add_column(name, justify="left" if name == "code" else "right")
    for code, entry in report["languages"].items():
        table.add_row(code, f"{entry['samples']:,}", *(f"{entry[test]['hits']:,}" for test in TESTS))
    console = Console()
    Console(width=None if console.is_terminal else 100).print(table)
    if not report["evaluation_files"]:
        say("check: the recipe names no data.evaluation_sets, so none was looked for")
