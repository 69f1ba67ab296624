"""Examples that a task would read twice, or measure after it was trained on them: refused with the files' names.

Published files hold a few equal rows, and their parts may have a few in common. Two files hold the same when half of
the examples of the smaller one are in the other, or when both have an example of the same id.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from unibert.errors import DataError
from unibert.evaluate.tasks.names import FileName

_NOT_CONTENT = frozenset(("id", "group", "own_id", "style"))


@dataclass(frozen=True)
class Part:
    """The examples of one language in a file."""

    name: FileName
    language: str
    examples: Sequence[Any]


def refuse_twice(task: str, parts: Sequence[Part]) -> None:
    """Refuse an example that is there twice.

    Raises:
        DataError: two files give a set's split and language the same examples; test or dev examples of a language are
            training examples of it in any set; or a file has two examples of an id.
    """
    places: dict[tuple[str, str, str], list[Part]] = {}
    for part in parts:
        _refuse_same_ids(part)
        places.setdefault((part.name.set, part.name.split, part.language), []).append(part)
    for together in places.values():
        for one, other in combinations(together, 2):
            _refuse_same_files(task, one, other)
    trained = [part for part in parts if part.name.split == "train"]
    for part in parts:
        for training in trained:
            if part.name.split in ("test", "dev") and part.language == training.language:
                _refuse_trained(part, training)


def _refuse_same_ids(part: Part) -> None:
    seen: set[str] = set()
    for example in part.examples:
        if example.own_id and example.id in seen:
            path = part.name.path
            first, *_, last = _lines(path, example.id)
            raise DataError(
                f"{path}:{last}: the id {example.id!r} is that of another question too (line {first}); keep each "
                "question once, and give each an id of its own, the same as its translations"
            )
        seen.add(example.id)


def _refuse_same_files(task: str, one: Part, other: Part) -> None:
    same = {e.id for e in one.examples if e.own_id} & {e.id for e in other.examples if e.own_id}
    if count := len(same) or _shared(one, other):
        name = one.name
        raise DataError(
            f"{other.name.path}: {task}: {name.set}/ has {count} {name.split} examples in {one.language} twice: keep "
            f"one of the files that hold the same, {name.path.name} and {other.name.path.name} (such as XNLI's .jsonl "
            "and .tsv), and put sets that use the same ids for other examples into folders of their own"
        )


def _refuse_trained(part: Part, training: Part) -> None:
    if count := _shared(part, training):
        raise DataError(
            f"{part.name.path}: {count} of the {len(part.examples)} {part.name.split} examples in {part.language} are "
            f"in {training.name.path} too: what is trained on must not be measured; take one of the two files out"
        )


def _shared(one: Part, other: Part) -> int:
    """The number of examples of the one that are in the other; 0 when half of the smaller one are not."""
    small, large = sorted((one.examples, other.examples), key=len)
    wanted = {_content(example) for example in small}
    found = {content for example in large if (content := _content(example)) in wanted}
    return sum(_content(e) in found for e in one.examples) if 2 * len(found) >= len(wanted) else 0


def _content(example: Any) -> tuple[Any, ...]:
    return tuple(value for name, value in vars(example).items() if name not in _NOT_CONTENT)


def _lines(path: Path, id: str) -> list[int]:
    """The lines where a JSON document has an object of this id, its story's where it is a turn's; two at least."""
    text, name = path.read_text("utf-8-sig"), re.escape(id)
    for own in (name, name.rpartition(":")[0]):
        found = [text.count("\n", 0, match.start()) + 1 for match in re.finditer(rf'"id":\s*"?{own}"?\s*[,}}]', text)]
        if len(found) > 1:
            return found
    return [1, 1]
