"""Choose the held-out parallel part: messages that as many languages as possible have, for sentence retrieval.

It is chosen before anything is cleaned, so that every later stage can keep its texts out of training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from unibert import languages
from unibert.data import fetch
from unibert.data.cleaning import RULES, clean_text, reason_to_drop
from unibert.data.lines import (
    SPLIT_SEED,
    file_sha256,
    read_rows,
    say,
    stable_hash,
    text_key,
    write_json,
    write_rows,
)
from unibert.data.sources import mediawiki
from unibert.data.work import ALONE, Crew, Done, Task, perform
from unibert.errors import DataError
from unibert.schema import Recipe

ENGLISH_CHARACTERS = (30, 300)
"""Shortest and longest English text of a held-out message."""
MINIMUM_LANGUAGES = 2
SAME_WORDS = 0.5
"""English messages that share more than this of their words (Jaccard) would be hard to tell apart: one is kept."""

Messages = dict[str, dict[str, str]]  # key -> language -> text


def run(recipe: Recipe, *, force: bool = False, crew: Crew = ALONE) -> dict[str, Any]:
    """Write heldout/parallel.jsonl and its report; returns the report. DataError when no message will do.

    From a source without aligned messages (the hub's Wikipedia) nothing is held out, and this is said.
    """
    languages.check(recipe.languages)
    settings = {
        "rules": RULES,
        "languages": sorted(recipe.languages),
        "keys": recipe.data.heldout_keys,
        "raw": file_sha256(recipe.data.folder / "raw" / "manifest.json"),
    }
    task = Task("parallel", settings, recipe)
    folder = recipe.data.folder / "heldout"
    report = perform(_hold_out, [task], folder=folder, crew=crew, what="parallel", force=force)[0]
    if coverage := report["languages"]:
        low = min(coverage, key=lambda code: coverage[code])
        say(f"parallel: {report['keys']} messages held out; fewest in {low}: {coverage[low]}")
    else:
        say("parallel: WARNING: no aligned source was fetched, retrieval cannot be measured")
    return report


def _hold_out(recipe: Recipe) -> Done:
    """Choose the messages and write them."""
    folder = recipe.data.folder / "heldout"
    path, report_path = folder / "parallel.jsonl", folder / "parallel_report.json"
    files = fetch.raw_files(recipe)
    chosen: Messages = {}
    ids: list[str] = []
    if mediawiki.SOURCE.name in files:
        messages = usable_messages(files[mediawiki.SOURCE.name], recipe.languages)
        chosen = choose(messages, count=recipe.data.heldout_keys)
        ids = sorted(same_english(messages, chosen))
        if not chosen:
            raise DataError(f"{path}: no message is long enough and in {MINIMUM_LANGUAGES} languages; add languages")
    write_rows(path, ({"key": key, "texts": texts} for key, texts in chosen.items()))
    coverage = Counter(code for texts in chosen.values() for code in texts)
    report = {"keys": len(chosen), "languages": dict(sorted(coverage.items())), "ids": ids}
    write_json(report_path, report)
    return Done(report, (path, report_path))


def usable_messages(files: Sequence[Path], wanted: tuple[str, ...]) -> Messages:
    """Clean texts by row id and language, in the wanted languages and English, without untranslated ones."""
    keep = {"en", *wanted}
    messages: Messages = {}
    for row in chain.from_iterable(map(read_rows, files)):
        code = row["language"]
        if code in keep:
            text = clean_text(row["text"])
            if reason_to_drop(text, code) is None:
                messages.setdefault(row["id"], {})[code] = text
    for texts in messages.values():
        english = text_key(texts.get("en", ""))
        for code in [code for code in texts if code != "en" and text_key(texts[code]) == english]:
            del texts[code]
    return messages


def choose(messages: Mapping[str, Mapping[str, str]], *, count: int) -> Messages:
    """The `count` messages in most languages, by (languages, seeded hash), with clearly different English texts.

    A translation equal to one of an earlier message in the same language is left out: it could not be retrieved.
    """
    shortest, longest = ENGLISH_CHARACTERS
    fit = [
        key
        for key, texts in messages.items()
        if len(texts) >= MINIMUM_LANGUAGES and shortest <= len(texts.get("en", "")) <= longest
    ]
    fit.sort(key=lambda key: (-len(messages[key]), stable_hash(key, seed=SPLIT_SEED)))
    chosen: Messages = {}
    seen_words: list[set[str]] = []
    seen_texts: set[tuple[str, str]] = set()
    for key in fit:
        words = set(messages[key]["en"].casefold().split())
        if any(len(words & other) > SAME_WORDS * len(words | other) for other in seen_words):
            continue
        keyed = {code: (code, text_key(text)) for code, text in messages[key].items()}
        chosen[key] = {code: messages[key][code] for code in sorted(keyed) if keyed[code] not in seen_texts}
        seen_texts.update(keyed.values())
        seen_words.append(words)
        if len(chosen) == count:
            break
    return chosen


def same_english(messages: Mapping[str, Mapping[str, str]], chosen: Messages) -> set[str]:
    """Row ids to keep out: the chosen, and every message whose English text equals a chosen one."""
    held = {text_key(texts["en"]) for texts in chosen.values()}
    return {key for key, texts in messages.items() if key in chosen or text_key(texts.get("en", "")) in held}
