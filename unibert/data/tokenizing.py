"""Text to shards: make the tokenizer, tokenize every language, report.

The lines of a document make one text. One that is longer than data.max_sequence_tokens is cut into consecutive pieces
without overlap; each piece gets a first and a last special token. A last piece that is very short is dropped unless it
is the only one. Every file of text is a task, and becomes one file of shards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, groupby, islice
from pathlib import Path
from typing import Any

from unibert.data import token_report, tokenizer_training
from unibert.data.encoding import SHORTEST_REST, TextFacts, encoder
from unibert.data.lines import document_of, file_sha256, read_json, read_rows, say
from unibert.data.shard_format import VERSION, TokenizerFacts, language_entry, write_file, write_manifest
from unibert.data.trimming import LINES_AT_ONCE
from unibert.data.work import ALONE, Crew, Done, Task, perform
from unibert.errors import ConfigError, DataError
from unibert.schema import Recipe


def run(recipe: Recipe, *, force: bool = False, crew: Crew = ALONE) -> dict[str, Any]:
    """Make tokenizer/, shards/, shards_heldout/ and report.json of a recipe's data folder, and print the table.

    Finished work is kept: the tokenizer while teacher, size and text are the same, a file's shards while tokenizer,
    length and text are. `force` makes everything again.

    Returns:
        The report, as in report.json.

    Raises:
        ConfigError: no [teacher] and no tokenizer, or pieces too short to hold anything.
        DataError: text of a language is missing or empty, or the teacher's tokenizer is.
    """
    folder, length = recipe.data.folder, recipe.data.max_sequence_tokens
    if length < SHORTEST_REST + 2:
        raise ConfigError(f"data.max_sequence_tokens = {length}: at least {SHORTEST_REST + 2}")
    clean = _texts(recipe, folder / "clean", "-[0-9]*.jsonl")
    heldout = _texts(recipe, folder / "heldout" / "lines", ".jsonl")
    tokenizer = folder / "tokenizer"
    tokenizer_training.make(recipe, texts=clean, into=tokenizer, force=force, crew=crew)
    for texts, into in ((clean, folder / "shards"), (heldout, folder / "shards_heldout")):
        make_shards(texts, tokenizer=tokenizer, into=into, max_sequence_tokens=length, force=force, crew=crew)
    report = token_report.build(recipe)
    token_report.write(report, folder=folder)
    token_report.show(report)
    return report


def _texts(recipe: Recipe, folder: Path, ending: str) -> dict[str, list[Path]]:
    """The text files of every language.

    Raises:
        DataError: naming every language without text.
    """
    paths = {code: sorted(folder.glob(f"{code}{ending}")) for code in recipe.languages}
    empty = [code for code, files in paths.items() if not any(path.stat().st_size for path in files)]
    if empty:
        raise DataError(
            f"{folder}: no text of {', '.join(empty)}; run the stages before this one (unibert data fetch|parallel|"
            f"clean|dedup {recipe.name}), or take these out of the recipe's languages"
        )
    return paths


def make_shards(
    texts: Mapping[str, Sequence[Path]],
    *,
    tokenizer: Path,
    into: Path,
    max_sequence_tokens: int,
    force: bool = False,
    crew: Crew = ALONE,
) -> None:
    """Tokenize the text of every language into shards; files that are done with these settings are kept.

    Raises:
        DataError: a text is damaged, or no document of a language has an ordinary token.
    """
    facts = TokenizerFacts.read(tokenizer)
    tasks = [
        _task(Tokenizing(code, path, number, tokenizer, facts, max_sequence_tokens, into))
        for code, paths in texts.items()
        for number, path in enumerate(paths)
    ]
    sources = {code: [task.settings["text"] for task in tasks if task.argument.language == code] for code in texts}
    declared = _declared(into, facts, max_sequence_tokens)
    if force or any(declared.get(code, {}).get("facts", {}).get("texts") != sources[code] for code in texts):
        (into / "manifest.json").unlink(missing_ok=True)  # it says that the files are of one piece
    done = perform(_tokenize, tasks, folder=into, crew=crew, what=f"tokenizing into {into.name}", force=force)
    entries: dict[str, Any] = {}
    for code in texts:
        mine = [result for task, result in zip(tasks, done, strict=True) if task.argument.language == code]
        counted = TextFacts()
        for result in mine:
            counted.add(result["facts"])
        files = [result["file"] for result in mine if result["file"]]
        about = counted.as_json() | {"texts": sources[code]}
        entries[code] = language_entry(files, tokenizer=facts, facts=about)
    if empty := [code for code, entry in entries.items() if not entry["samples"]]:
        raise DataError(f"{into}: the text of {', '.join(empty)} has no document with an ordinary token")
    if entries.items() <= _declared(into, facts, max_sequence_tokens).items():
        say(f"shards: {into} is finished already")
    else:
        write_manifest(into, tokenizer=facts, max_sequence_tokens=max_sequence_tokens, languages=entries)


@dataclass(frozen=True)
class Tokenizing:
    """What one task tokenizes."""

    language: str
    text: Path
    number: int
    tokenizer: Path
    facts: TokenizerFacts
    max_sequence_tokens: int
    into: Path


def _task(job: Tokenizing) -> Task:
    settings = {
        "version": VERSION,
        "tokenizer": job.facts.fingerprint,
        "max_sequence_tokens": job.max_sequence_tokens,
        "text": file_sha256(job.text),
    }
    return Task(f"{job.language}-{job.number:05d}", settings, job)


def _tokenize(job: Tokenizing) -> Done:
    """One file of text to one file of shards."""
    this = encoder(job.tokenizer, job.facts, job.max_sequence_tokens)
    counted = TextFacts()
    documents = _documents(job.text)
    chunks = (this.encode(chunk, counted=counted) for chunk in iter(lambda: list(islice(documents, LINES_AT_ONCE)), []))
    path = job.into / f"{job.language}-{job.number:05d}.tokens"
    file = write_file(path, language=job.language, chunks=chunks, tokenizer=job.facts)
    return Done({"file": file, "facts": vars(counted)}, (path,) if file else ())


def _documents(path: Path) -> Iterator[str]:
    """The documents of a file of text: neighbouring lines of one document joined, every other row by itself."""
    alone = count()
    for _, rows in groupby(read_rows(path), key=lambda row: document_of(row) if "line" in row else next(alone)):
        yield " ".join(row["text"] for row in rows)  # some tokenizers know no other space


def _declared(folder: Path, facts: TokenizerFacts, length: int) -> dict[str, Any]:
    """The manifest's entries, when it is of this tokenizer and length; also those of another recipe's languages."""
    path = folder / "manifest.json"
    manifest = read_json(path) if path.is_file() else {}
    made_by = (manifest.get("max_sequence_tokens"), manifest.get("tokenizer", {}).get("fingerprint"))
    return manifest["languages"] if made_by == (length, facts.fingerprint) else {}
