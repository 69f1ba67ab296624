"""Cutting labelled examples in parts, so that nothing is measured of which a version was trained on or looked at.

A cut is by a hash of the group in the source language: all questions on a text, all hypotheses of a premise. Where a
task is parallel (Task.parallel), the examples of another language follow those of the source that have their ids.
What a translation's own group is does not matter: the same premise may be spelled in two ways there. Languages whose
examples are other texts (ner) are not cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from unibert.data.lines import stable_hash
from unibert.errors import DataError
from unibert.evaluate.tasks.base import Example, Labelled
from unibert.evaluate.tasks.names import FileName

_PARTS = ("train", "train", "train", "dev", "test")


def split_source(found: Labelled, *, source: str, parallel: bool) -> Labelled:
    """For a task without training data: 60 % of the source's examples to train on, 20 % for dev and 20 % for test.

    Of other languages everything is kept whose group has no source version, or one that is for test alone. What is
    unlabelled stays so.

    Raises:
        DataError: ids of a parallel set are the file's own in one language and numbers of rows in the other, so that it
            is not known what is a version of what.
    """
    cut = Labelled()
    for name, splits in found.sets.items():
        if parallel:
            _require_same_ids(name, splits, source=source)
        labelled = [languages for split, languages in splits.items() if split != "unlabelled"]
        originals = [example for languages in labelled for example in languages.get(source, ())]
        part_of = {e.group: _PARTS[stable_hash(f"{name}:{e.group}") % len(_PARTS)] for e in originals}
        for split, languages in splits.items():
            for language, examples in languages.items():
                is_labelled = split != "unlabelled"
                versions = _versions(examples, originals) if parallel and is_labelled else {}
                for example in examples:
                    parts = {part_of[group] for group in versions.get(example.group, ())}
                    if language == source and is_labelled:
                        cut.add(FileName(Path(), name, part_of[example.group], ()), language, example)
                    elif parts <= {"test"}:
                        cut.add(FileName(Path(), name, "test" if parts else split, ()), language, example)
    return cut


def _require_same_ids(name: str, splits: Mapping[str, Mapping[str, Sequence[Example]]], *, source: str) -> None:
    for split, languages in splits.items():
        kinds = {code: {example.own_id for example in examples} for code, examples in languages.items()}
        for code, own in sorted(kinds.items()):
            if split != "unlabelled" and source in kinds and own - kinds[source]:
                have, lack = (code, source) if True in own - kinds[source] else (source, code)
                raise DataError(
                    f"{name}/, {split}: examples in {have} have ids of their own and those in {lack} do not, so that "
                    "--split-source cannot tell what is a translation of what it trains on: give every file the column "
                    "of ids or none, or put sets that have nothing to do with each other into folders of their own"
                )


def hold_out(found: Labelled, *, source: str, parallel: bool) -> Labelled:
    """For a task without dev examples in the source: a tenth of its training examples, which nothing is trained on.

    Their translations are left out of the other languages' training examples.
    """
    cut = Labelled()
    for name, splits in found.sets.items():
        originals = splits.get("train", {}).get(source, ())
        held = {example.group for example in originals if stable_hash(f"dev:{example.group}") % 10 == 0}
        for split, languages in splits.items():
            for language, examples in languages.items():
                is_source, is_train = language == source, split == "train"
                versions = _versions(examples, originals) if parallel and is_train and not is_source else {}
                for example in examples:
                    part = "dev" if is_source and is_train and example.group in held else split
                    if held.isdisjoint(versions.get(example.group, ())):
                        cut.add(FileName(Path(), name, part, ()), language, example)
    return cut


def _versions(examples: Sequence[Example], originals: Sequence[Example]) -> Mapping[str, Set[str]]:
    """Group of a language's examples -> the source's groups that hold a version of one of them."""
    by_id: dict[str, set[str]] = {}
    for example in originals:
        by_id.setdefault(example.id, set()).add(example.group)
    versions: dict[str, set[str]] = {}
    for example in examples:
        versions.setdefault(example.group, set()).update(by_id.get(example.id, ()))
    return versions
