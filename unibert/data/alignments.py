"""The recipe's sources of parallel text: which parts they have, and how each is read.

A part is what is read, and read again, at once: a file, a set of aligned files, a configuration of a data set.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from unibert import languages
from unibert.data import fetch
from unibert.data.corpora import is_part, part_name, root_of
from unibert.data.sources import demo_pairs, files, freedict, hugging_face_pairs, moses, muse, tmx, tsv
from unibert.data.sources.base import Aligned, Part, Reading, Skips
from unibert.data.sources.packages import Downloads
from unibert.errors import ConfigError, DataError
from unibert.parallel_tables import SOURCE_LANGUAGE, TARGET_LANGUAGE, Alignment, DemoPairs, Freedict, Moses, Muse, Pairs
from unibert.schema import Recipe

FORMAT = 1
"""Raised when what a reader gives changes, so that old text is read again."""
DICTIONARIES = frozenset({"muse", "freedict"})
"""Kinds whose texts are words."""

READERS: Mapping[str, Callable[[Any, Part, Skips], Iterator[Aligned]]] = {
    "tsv": tsv.aligned,
    "moses": moses.aligned,
    "tmx": tmx.aligned,
    "datasets": hugging_face_pairs.aligned,
    "muse": muse.aligned,
    "freedict": freedict.aligned,
    "demo": demo_pairs.aligned,
}


def read(reading: Reading, skips: Skips) -> Iterator[Aligned]:
    """What a part has; DataError naming file and place."""
    return READERS[reading.table.kind](reading.table, reading.part, skips)


def plan(recipe: Recipe) -> tuple[list[Reading], list[str]]:
    """(every part to read, in the recipe's order; files left out and why). ConfigError, DataError.

    Packages of a dictionary are downloaded here.
    """
    readings: list[Reading] = []
    left_out: list[str] = []
    for table in recipe.data.parallel:
        parts, others = _parts(table, recipe)
        if not parts:
            found = ", ".join(others) or "none"
            raise DataError(f"[[data.parallel]] {table.name}: nothing in two of the recipe's languages; found: {found}")
        readings += [Reading(table, part, {"format": FORMAT, "languages": list(part.languages)}) for part in parts]
        left_out += [f"{table.name}: {other}" for other in others]
    return readings, left_out


def _parts(table: Alignment, recipe: Recipe) -> tuple[list[Part], list[str]]:
    wanted = recipe.languages
    named = getattr(table, "languages", None) or getattr(table, "columns", {})
    languages.check(named)
    if isinstance(table, Pairs):
        folder = Path(table.dataset)
        local = tuple(sorted(path for path in folder.rglob("*") if path.is_file())) if folder.is_dir() else ()
        return [Part(config, local, None, wanted) for config in table.configs or ("all",)], []
    if isinstance(table, DemoPairs):
        return _demo_parts(table, recipe)
    if isinstance(table, Muse | Freedict):
        return _dictionary_parts(table, recipe)
    root = root_of(table.path)
    if isinstance(table, Moses):
        return _aligned_files(table, wanted)
    return [Part(part_name(path, root), (path,), None, wanted) for path, _ in files.find(table.path)], []


def _demo_parts(table: DemoPairs, recipe: Recipe) -> tuple[list[Part], list[str]]:
    raw = {name: paths for name, paths in fetch.raw_files(recipe).items() if not is_part(name)}
    if unknown := [name for name in table.sources if name not in raw]:
        named = f"[[data.parallel]] {table.name}: no demo source {', '.join(unknown)} was fetched"
        raise ConfigError(f"{named}; there are {', '.join(raw)}")
    return [Part(name, tuple(raw[name]), None, recipe.languages) for name in table.sources or raw], []


def _aligned_files(table: Moses, wanted: tuple[str, ...]) -> tuple[list[Part], list[str]]:
    """A part for every set of files that has two wanted languages."""
    root = root_of(table.path)
    parts, others = [], []
    for name, tagged in sorted(moses.sets(table).items()):
        found = moses.languages_of(tagged, wanted)
        if len(found) < 2:
            others.append(f"{name} ({', '.join(sorted(tagged))})")
        else:
            first = part_name(Path(name), root)
            parts.append(Part(first, tuple(found.values()), None, tuple(found)))
    return parts, others


def _dictionary_parts(table: Muse | Freedict, recipe: Recipe) -> tuple[list[Part], list[str]]:
    """A part for every dictionary between two wanted languages; `part.languages` are its two."""
    if isinstance(table, Freedict) and table.packages:
        downloads = Downloads(recipe.data.folder / "downloads")
        paths = downloads.get(f"parallel-{table.name}", kind="apt", packages=table.packages)
        root = paths[0].parent
    else:
        pattern = table.path.replace(SOURCE_LANGUAGE, "*").replace(TARGET_LANGUAGE, "*")
        paths, root = [path for path, _ in files.find(pattern)], root_of(pattern)
    parts, others = [], []
    for path in paths:
        if path.suffix == ".index":
            continue  # beside its dictionary
        both = table.languages or _by_name(table, path)
        if both is None or both[0] == both[1] or not set(both) <= set(recipe.languages):
            others.append(f"{path.name} ({'unknown' if both is None else '-'.join(both)})")
        else:
            parts.append(Part(part_name(path, root), (path,), None, both))
    return parts, others


def _by_name(table: Muse | Freedict, path: Path) -> tuple[str, str] | None:
    """The two languages of a dictionary by its file's name; of two readings (`zh-hant-en`) the one with languages."""
    if SOURCE_LANGUAGE not in table.path:
        return freedict.languages_of(path)
    name = re.escape(Path(table.path).name).replace(r"\*", ".*")
    for source in ("[^/]+?", "[^/]+"):
        pattern = name.replace(re.escape(SOURCE_LANGUAGE), f"(?P<source>{source})")
        match = re.fullmatch(pattern.replace(re.escape(TARGET_LANGUAGE), "(?P<target>[^/]+)"), path.name)
        both = [languages.code_of(match[word]) for word in ("source", "target")] if match else [None]
        if None not in both:
            return (both[0] or "", both[1] or "")
    return None
