"""What is trained on and what is measured, for a task and a way: decided and checked before any training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unibert.data.code_switch import sides
from unibert.data.lines import stable_hash
from unibert.errors import DataError
from unibert.evaluate.finetune.settings import Settings
from unibert.evaluate.tasks.base import Task, fingerprint, split_source
from unibert.evaluate.tasks.nli import Pair
from unibert.evaluate.tasks.qa import Question


@dataclass(frozen=True)
class Plan:
    """A task's examples, as they will be used."""

    task: Task
    train: Sequence[Any]
    dev: Sequence[Any]
    """Of the source language: learning rates are chosen on it."""
    tests: Sequence[tuple[str, str, str, Sequence[Any]]]
    """(set, split, language, examples)."""
    labels: Sequence[str]
    source: str
    """What was trained on, in words."""

    @property
    def fingerprint(self) -> str:
        """Of what training depends on."""
        return f"{fingerprint(self.train)}{fingerprint(self.dev)}"

    @property
    def may_be_empty(self) -> bool:
        """Whether a question without an answer was trained on."""
        return any(isinstance(example, Question) and not example.answers for example in self.train)


def make_plan(task: Task, folder: Path, *, settings: Settings, tuned: bool = True) -> Plan:
    """Read and check a task's files.

    Args:
        task: which.
        folder: the data folder.
        settings: source language, way and limit.
        tuned: without, nothing is trained on, and nothing asked for it.

    Raises:
        DataError: no training or test examples, a class that training lacks, a set with one class alone.
    """
    found = task.read(folder)
    if tuned and settings.split_source and settings.source not in found.of("train"):
        found = split_source(found, source=settings.source)
    tests = [(a, b, c, spread(examples, settings.limit)) for a, b, c, examples in found.tests(source=settings.source)]
    if not tests:
        raise DataError(f"{task.name}: no test files; a file's name says its split (train, dev, test)")
    if not tuned:
        return Plan(task, (), (), tests, (), "")
    by_language = found.of("train")
    train = _training(task, by_language, folder, settings=settings)
    if not found.of("dev").get(settings.source):
        train, dev = _cut_dev(train)
    else:
        dev = found.of("dev")[settings.source]
    labels = task.labels(train)
    _check_labels(task, labels, train, tests)
    said = settings.source if settings.mode == "zero-shot" else "+".join(sorted(by_language))
    cut = " (split)" if settings.split_source else ""
    return Plan(task, train, spread(dev, settings.limit), tests, labels, said + cut)


def spread(examples: Sequence[Any], limit: int | None) -> list[Any]:
    """At most `limit` of the examples, evenly spread."""
    count = len(examples) if limit is None else min(limit, len(examples))
    return [examples[i * len(examples) // count] for i in range(count)]


def _training(task: Task, by_language: Mapping[str, Sequence[Any]], folder: Path, *, settings: Settings) -> list[Any]:
    if not by_language.get(settings.source):
        have = ", ".join(sorted(by_language)) or "no language"
        raise DataError(
            f"{task.name}: no training examples in {settings.source!r} below {folder} (there are in {have}): put a "
            f"file named ...train...{settings.source}... there, name another language with --source, or let "
            "--split-source cut what is labelled into train, dev and test"
        )
    if settings.mode == "zero-shot":
        return spread(by_language[settings.source], settings.limit)
    if settings.mode == "translate-train":
        return [example for examples in by_language.values() for example in spread(examples, settings.limit)]
    return spread(switched(by_language, pivot=settings.source), settings.limit)


def switched(by_language: Mapping[str, Sequence[Any]], *, pivot: str) -> list[Any]:
    """Examples that are there in several languages, each with its parts in two of them (PPA; data.code_switch.sides).

    Premise and hypothesis, or question and context with its answers: which is in which language is a pure function of
    the id. An example that is in the pivot alone stays as it is.

    Raises:
        DataError: examples have no two parts, or there is no second language.
    """
    if len(by_language) < 2:
        raise DataError(f"code-switch needs training files in {pivot} and in other languages, with the same ids")
    versions: dict[str, dict[str, Any]] = {}
    for language, examples in by_language.items():
        for example in examples:
            versions.setdefault(example.id, {})[language] = example
    mixed = []
    for name, those in versions.items():
        if pivot not in those:
            continue
        one, other = (those[code] for code in sides(name, languages=sorted(those), pivot=pivot))
        if isinstance(one, Pair):
            mixed.append(replace(one, second=other.second))
        elif isinstance(one, Question):
            mixed.append(replace(one, question=other.question))
        else:
            raise DataError("code-switch needs examples of two parts: pairs, or questions on a text")
    return mixed


def _cut_dev(train: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """A tenth of the training examples as dev, by a hash of the group, where there is no dev file."""
    dev = [example for example in train if stable_hash(f"dev:{example.group}") % 10 == 0]
    return [example for example in train if stable_hash(f"dev:{example.group}") % 10], dev


def _check_labels(
    task: Task, labels: Sequence[str], train: Sequence[Any], tests: Sequence[tuple[str, str, str, Sequence[Any]]]
) -> None:
    if not train:
        raise DataError(f"{task.name}: too few training examples to cut a dev set from: give a dev file")
    if task.head in ("classes", "value"):
        for what, examples in [("training", train), *((f"{place[0]} {place[2]}", place[3]) for place in tests)]:
            if len({example.label for example in examples}) < 2 and len(examples) > 1:
                raise DataError(
                    f"{task.name}: all {len(examples)} examples of {what} have the label {examples[0].label!r}, which "
                    "tells nothing: complete the file or take it out"
                )
    if task.head == "tokens":
        known = {tag[2:] for tag in labels if tag != "O"}
        for name, _, language, examples in tests:
            kinds = {tag[2:] for example in examples for tag in example.tags if tag != "O"}
            if not kinds & known:
                raise DataError(
                    f"{task.name}: {name} {language} has entities {sorted(kinds)}, and training has {sorted(known)}: "
                    "the two must be labelled alike"
                )
