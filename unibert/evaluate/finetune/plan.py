"""What is trained on and what is measured, for a task and a way: decided and checked before any training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unibert.data.code_switch import sides
from unibert.errors import DataError
from unibert.evaluate.finetune.settings import Settings
from unibert.evaluate.tasks.base import Labelled, Task, fingerprint
from unibert.evaluate.tasks.cut import hold_out, split_source
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
        DataError: no training or test examples, an entity type that training lacks, a set with one class alone.
    """
    found, source = task.read(folder), settings.source
    is_split = tuned and settings.split_source and source not in found.of("train")
    if is_split:
        found = split_source(found, source=source, parallel=task.parallel)
    chosen_on = _chosen_on(found, settings=settings) if tuned else set()
    tests = [(a, b, c, spread(examples, settings.limit)) for a, b, c, examples in found.tests(chosen_on=chosen_on)]
    if not tests:
        raise DataError(f"{task.name}: no test files; a file's name says its split (train, dev, test)")
    if not tuned:
        return Plan(task, (), {}, tests, (), "")
    _require_source(task, found, folder, source=source)
    if task.head == "tokens":
        _check_types(task, found, tests, settings=settings, is_split=is_split)
    if source not in found.of("dev"):
        found = hold_out(found, source=source, parallel=task.parallel)
    train = _training(found, settings=settings)
    dev = _dev(task, found.of("dev"), settings=settings)
    labels = task.labels(train)
    _check_sizes(task, train, dev, settings=settings)
    _check_labels(task, train, tests)
    by_language = found.of("train")
    said = source if settings.mode in ("zero-shot", "distil") else "+".join(sorted(by_language))
    said += " (split)" if is_split else ""
    said += ", joint dev" if chosen_on and settings.dev == "joint" else ""
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


def _chosen_on(found: Labelled, *, settings: Settings) -> set[str]:
    """Languages whose dev examples choose the learning rate: none where there is one rate alone."""
    if len(settings.learning_rates) == 1:
        return set()
    return set(found.of("dev")) if settings.dev == "joint" else {settings.source}


def _require_source(task: Task, found: Labelled, folder: Path, *, source: str) -> None:
    by_language = found.of("train")
    if not by_language.get(source):
        have = ", ".join(sorted(by_language)) or "no language"
        raise DataError(
            f"{task.name}: no training examples in {source!r} below {folder} (there are in {have}): put a "
            f"file named ...train...{source}... there, name another language with --source, or let "
            "--split-source cut what is labelled into train, dev and test"
        )


def _training(found: Labelled, *, settings: Settings) -> list[Any]:
    by_language, limit = found.of("train"), settings.train_limit or settings.limit
    if settings.mode in ("zero-shot", "distil"):
        return spread(by_language.get(settings.source, ()), limit)
    if settings.mode == "translate-train":
        return [example for examples in by_language.values() for example in spread(examples, limit)]
    sets = {name: splits["train"] for name, splits in found.sets.items() if "train" in splits}
    return spread(switched(sets, pivot=settings.source), limit)


def switched(sets: Mapping[str, Mapping[str, Sequence[Any]]], *, pivot: str) -> list[Any]:
    """Examples that are there in several languages, each with its parts in two of them (PPA; data.code_switch.sides).

    Premise and hypothesis, or question and context with its answers: which is in which language is a pure function of
    the id. An example that is in the pivot alone stays as it is.

    Args:
        sets: set -> language -> examples; the same id in two sets is not the same example.
        pivot: the language that one part is always in.

    Raises:
        DataError: examples have no two parts, there is no second language, or a language has two examples of an id.
    """
    if len({language for by_language in sets.values() for language in by_language}) < 2:
        raise DataError(f"code-switch needs training files in {pivot} and in other languages, with the same ids")
    versions: dict[tuple[str, str], dict[str, Any]] = {}
    for name, by_language in sets.items():
        for language, examples in by_language.items():
            for example in examples:
                those = versions.setdefault((name, example.id), {})
                if language in those:
                    raise DataError(
                        f"code-switch: {name}/ has two training examples {example.id!r} in {language}, and it is not "
                        "known which of them others translate: put sets that have nothing to do with each other into "
                        "folders of their own, and every example once"
                    )
                those[language] = example
    mixed = []
    for (_, number), those in versions.items():
        if pivot not in those:
            continue
        one, other = (those[code] for code in sides(number, languages=sorted(those), pivot=pivot))
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


def _dev(task: Task, by_language: Mapping[str, Sequence[Any]], *, settings: Settings) -> dict[str, list[Any]]:
    """language -> what rates are chosen on, the source's first.

    Raises:
        DataError: a joint dev set of the source alone.
    """
    codes = [settings.source]
    if settings.dev == "joint":
        codes += sorted(set(by_language) - {settings.source})
        if len(codes) == 1:
            raise DataError(f"{task.name}: a joint dev set needs dev files in other languages; leave --dev joint out")
    return {code: spread(by_language.get(code, ()), settings.limit) for code in codes}


def _check_sizes(task: Task, train: Sequence[Any], dev: Mapping[str, Sequence[Any]], *, settings: Settings) -> None:
    if not train or (len(settings.learning_rates) > 1 and not dev[settings.source]):
        raise DataError(f"{task.name}: too few training examples to cut a dev set from: give a dev file")


def _check_labels(task: Task, train: Sequence[Any], tests: Sequence[tuple[str, str, str, Sequence[Any]]]) -> None:
    if task.head in ("classes", "value"):
        for what, examples in [("training", train), *((f"{place[0]} {place[2]}", place[3]) for place in tests)]:
            if len({example.label for example in examples}) < 2 and len(examples) > 1:
                raise DataError(
                    f"{task.name}: all {len(examples)} examples of {what} have the label {examples[0].label!r}, which "
                    "tells nothing: complete the file or take it out"
                )


def _check_types(
    task: Task,
    found: Labelled,
    tests: Sequence[tuple[str, str, str, Sequence[Any]]],
    *,
    settings: Settings,
    is_split: bool,
) -> None:
    """Refuse entity types that nobody learns: of training files as they are, before --limit takes a few of them."""
    whole = _training(found, settings=replace(settings, limit=None, train_limit=None))
    if is_split:  # a rare type may be in the files and in another part of the cut
        whole += [example for split in ("dev", "test") for example in found.of(split).get(settings.source, ())]
    known = _types(whole)
    for name, split, language, examples in tests:
        kinds = _types(examples)
        if not kinds or kinds - known:
            wrong = f"{sorted(kinds - known)}, which training lacks" if kinds else "none"
            raise DataError(
                f"{task.name}: {name} {language} ({split}) has entities {wrong}; training has {sorted(known)}: the two "
                "must be labelled alike; rename the types in the one, tag what the other has not as O, or take the "
                "language out"
            )


def _types(examples: Sequence[Any]) -> set[str]:
    return {tag[2:] for example in examples for tag in example.tags if tag != "O"}
