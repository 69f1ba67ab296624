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
    dev: Mapping[str, Sequence[Any]]
    """language -> examples that learning rates are chosen on: the source's, or with a joint dev set all."""
    tests: Sequence[tuple[str, str, str, Sequence[Any]]]
    """(set, split, language, examples)."""
    labels: Sequence[str]
    source: str
    """What was trained on, in words."""
    unlabelled: Sequence[Any] = ()
    """What a task teacher is asked about: text of all languages, whose labels nobody reads."""

    @property
    def fingerprint(self) -> str:
        """Of what training depends on."""
        dev = fingerprint([example for own in self.dev.values() for example in own])
        return f"{fingerprint(self.train)}{dev}{fingerprint(self.unlabelled) if self.unlabelled else ''}"

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
    joint = tuned and settings.dev == "joint"
    chosen_on = set(found.of("dev")) if joint else {settings.source}
    tests = [(a, b, c, spread(examples, settings.limit)) for a, b, c, examples in found.tests(chosen_on=chosen_on)]
    if not tests:
        raise DataError(f"{task.name}: no test files; a file's name says its split (train, dev, test)")
    if not tuned:
        return Plan(task, (), {}, tests, (), "")
    by_language = found.of("train")
    train = _training(task, by_language, folder, settings=settings)
    train, dev = _dev(task, train, found.of("dev"), settings=settings)
    labels = task.labels(train)
    _check_labels(task, labels, train, tests)
    said = settings.source if settings.mode in ("zero-shot", "distil") else "+".join(sorted(by_language))
    said += " (split)" if settings.split_source else ""
    said += ", joint dev" if joint else ""
    if settings.mode != "distil":
        return Plan(task, train, dev, tests, labels, said)
    unlabelled = _unlabelled(task, found.of("unlabelled") or by_language, settings=settings)
    languages = "+".join(sorted(unlabelled))
    flat = [example for examples in unlabelled.values() for example in examples]
    return Plan(task, train, dev, tests, labels, f"{said}, and {languages} without labels", flat)


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
    limit = settings.train_limit or settings.limit
    if settings.mode in ("zero-shot", "distil"):
        return spread(by_language[settings.source], limit)
    if settings.mode == "translate-train":
        return [example for examples in by_language.values() for example in spread(examples, limit)]
    return spread(switched(by_language, pivot=settings.source), limit)


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


def _unlabelled(task: Task, by_language: Mapping[str, Sequence[Any]], *, settings: Settings) -> dict[str, list[Any]]:
    """language -> examples, of files called unlabelled, else of training files.

    Raises:
        DataError: the task's answers are no classes.
    """
    if task.head not in ("tokens", "classes"):
        raise DataError(f"{task.name}: --mode distil learns distributions over classes: leave it to ner and nli")
    limit = settings.train_limit or settings.limit
    return {code: spread(examples, limit) for code, examples in sorted(by_language.items())}


def _dev(
    task: Task, train: list[Any], by_language: Mapping[str, Sequence[Any]], *, settings: Settings
) -> tuple[list[Any], dict[str, list[Any]]]:
    """(training examples, what rates are chosen on).

    Where the source has no dev file a tenth of the training examples is taken, by a hash of the group.

    Raises:
        DataError: a joint dev set of the source alone.
    """
    own = list(by_language.get(settings.source, ()))
    if not own:
        own = [example for example in train if stable_hash(f"dev:{example.group}") % 10 == 0]
        train = [example for example in train if stable_hash(f"dev:{example.group}") % 10]
    dev = {settings.source: spread(own, settings.limit)}
    if settings.dev == "joint":
        others = {code: rows for code, rows in sorted(by_language.items()) if code != settings.source}
        if not others:
            raise DataError(f"{task.name}: a joint dev set needs dev files in other languages; leave --dev joint out")
        dev |= {code: spread(rows, settings.limit) for code, rows in others.items()}
    return train, dev


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
