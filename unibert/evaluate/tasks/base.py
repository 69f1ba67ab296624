"""A task: labelled files to examples by language, the head it needs, and what predictions are worth.

One file a task. Everything is read and checked before any training, and what is wrong is refused with file, line and
fix. `read` gives examples by (set, split, language); a set is a folder below the data folder, so that XQuAD and MLQA
are kept apart. What an example leaves for a score is a row of numbers (statistics/scores.py).
"""

from __future__ import annotations

import csv
import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from unibert.errors import DataError
from unibert.evaluate.tasks.names import FileName, labelled_files
from unibert.evaluate.tasks.twice import Part, refuse_twice

Head = Literal["tokens", "classes", "value", "span", "conversation", "none"]
ENGLISH = "en"


@dataclass(frozen=True)
class Example:
    """What all examples have."""

    id: str
    """The same of its translations, where the task's sets are parallel (Task.parallel)."""
    group: str
    """What must not be on both sides of a cut, among the examples of one language: the article, the premise."""
    own_id: bool = field(default=False, repr=False, compare=False, kw_only=True)
    """Whether its file says the id. Not a part of what an example's fingerprint is made of."""


@dataclass(frozen=True)
class Measured:
    """A metric of a model on the examples of one language: rows [N, K] of a kind of scores.KINDS."""

    kind: str
    rows: np.ndarray


Examples = dict[str, dict[str, list[Any]]]
"""split -> language -> examples."""


@dataclass
class Labelled:
    """All that a task found: set -> split -> language -> examples."""

    sets: dict[str, Examples] = field(default_factory=dict)

    def add(self, name: FileName, language: str, example: Example) -> None:
        """Take one more example."""
        self.sets.setdefault(name.set, {}).setdefault(name.split, {}).setdefault(language, []).append(example)

    def of(self, split: str) -> dict[str, list[Any]]:
        """language -> examples of a split, of all sets together."""
        together: dict[str, list[Any]] = {}
        for splits in self.sets.values():
            for language, examples in splits.get(split, {}).items():
                together.setdefault(language, []).extend(examples)
        return together

    def tests(self, *, chosen_on: Set[str]) -> Iterator[tuple[str, str, str, list[Any]]]:
        """(set, split, language, examples) of what is measured: test, or dev in a language that has no test.

        Not the dev of languages that a learning rate is `chosen_on`; with one rate, or none, these are none.
        """
        for name, splits in self.sets.items():
            test, dev = splits.get("test", {}), splits.get("dev", {})
            for language in sorted({*test, *dev} - (chosen_on - set(test))):
                split, examples = ("test", test[language]) if language in test else ("dev", dev[language])
                yield name, split, language, examples


class Task(ABC):
    """What a task is. Subclasses give the class variables and the three methods."""

    name: ClassVar[str]
    sets: ClassVar[tuple[str, ...]]
    """Folders below the data folder that hold it."""
    head: ClassVar[Head]
    metric: ClassVar[str]
    """The metric that is compared, of those `measure` gives."""
    describes: ClassVar[bool] = False
    """Whether it only says how a model is, so that more is not better: it is shown and not ranked."""
    by_tokenizer: ClassVar[bool] = False
    """Whether the model's tokenizer decides what is asked."""
    parallel: ClassVar[bool] = True
    """Whether an example of another language with the same id is its translation."""

    def read(self, folder: Path) -> Labelled:
        """Every labelled file of the task below a data folder.

        Raises:
            DataError: there is none, one cannot be read or holds no examples, or two hold the same; it names file, line
                and fix.
        """
        found, parts = Labelled(), []
        for name in labelled_files(folder, self.sets):
            if self.is_side(name):
                continue
            by_language: dict[str, list[Example]] = {}
            for language, example in self.read_file(name):
                found.add(name, language, example)
                by_language.setdefault(language, []).append(example)
            if not by_language:
                raise DataError(f"{name.path}:1: no examples; fetch or write the file again, or take it out")
            parts += [Part(name, language, examples) for language, examples in by_language.items()]
        refuse_twice(self.name, parts)
        if not found.sets:
            wanted = ", ".join(f"{folder / name}/" for name in self.sets)
            raise DataError(f"{self.name}: no labelled files: put them into one of {wanted} or leave the task out")
        return found

    def is_side(self, name: FileName) -> bool:
        """Whether a file is read with another one beside it, or not at all."""
        return False

    @abstractmethod
    def read_file(self, name: FileName) -> Iterable[tuple[str, Example]]:
        """(language, example) of one file."""

    @abstractmethod
    def measure(
        self, examples: Sequence[Any], predictions: Sequence[Any], *, of: str, language: str
    ) -> dict[str, Measured]:
        """Metric -> rows, from as many predictions as examples; `of` is the set."""

    def labels(self, examples: Sequence[Any]) -> list[str]:
        """The classes of training examples, in the order of the head's outputs; none for other heads."""
        return []


def fingerprint(examples: Sequence[Example]) -> str:
    """SHA-256 of examples, whole: other examples, or the same in another order, have another one."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(repr(example).encode())
    return digest.hexdigest()[:16]


def ids_fingerprint(examples: Sequence[Example]) -> str:
    """SHA-256 of the ids: the same for the translations of a parallel test set."""
    return hashlib.sha256("\n".join(example.id for example in examples).encode()).hexdigest()[:16]


# --- files ------------------------------------------------------------------------------------------------------------


def text_of(path: Path) -> str:
    """A file's text.

    Raises:
        DataError: it cannot be read or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: not UTF-8; write the file again in UTF-8") from error


def json_of(path: Path) -> Any:
    """A JSON document.

    Raises:
        DataError: with file and line.
    """
    try:
        return json.loads(text_of(path))
    except ValueError as error:
        line = getattr(error, "lineno", 1)
        raise DataError(f"{path}:{line}: not JSON ({error}); fetch or write the file again") from error


def line_of(path: Path, words: str) -> int:
    """The first line of a file with these words; 1 when none has. For errors in a JSON document."""
    before, found, _ = text_of(path).partition(words)
    return before.count("\n") + 1 if found else 1


def table(path: Path, *, columns: Sequence[str] = (), read: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, row by column) of JSON Lines, CSV or TSV (no quoting) with a header.

    Args:
        path: .jsonl, .csv, and everything else is TSV.
        columns: of a file that has no header.
        read: columns that are read, if others of JSON Lines may be null.

    Raises:
        DataError: a line that has other columns than the header, a null, or a quote that is not closed on its line.
    """
    lines = text_of(path).split("\n")
    lines = [line.removesuffix("\r") for line in (lines[:-1] if not lines[-1] else lines)]
    if path.suffix == ".jsonl":
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                empty = [key for key, value in row.items() if value is None and key in (read or row)]
            except (ValueError, AttributeError) as error:
                raise DataError(f"{path}:{number}: not a JSON object; write one on each line") from error
            if empty:
                raise DataError(f"{path}:{number}: {empty[0]} is null; write a value or remove the key")
            yield number, {str(key): value if isinstance(value, str) else str(value) for key, value in row.items()}
        return
    if path.suffix == ".csv":
        rows = _csv_rows(path, lines)
    else:
        rows = ((number, line.split("\t")) for number, line in enumerate(lines, 1))
    header = list(columns)
    for number, row in rows:
        if not header:
            header = row
        elif len(row) != len(header):
            fix = "a value must hold no tab" if path.suffix != ".csv" else "quote values that hold a comma"
            raise DataError(f"{path}:{number}: {len(row)} columns, and {len(header)} were announced; {fix}")
        else:
            yield number, dict(zip(header, row, strict=True))


def _csv_rows(path: Path, lines: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """(first line, values) of CSV: a value that goes on in the next line is one whose quote was not closed."""
    reader = csv.reader([f"{line}\n" for line in lines], strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{path}:{line}: {error}; close every quote, and write one within a value twice") from error
        if row is None:
            return
        if any("\n" in value for value in row):
            raise DataError(
                f"{path}:{line}: a quote that opens here is not closed on its line; close it, write one within a value "
                "twice, and a line break as a space"
            )
        yield line, row


def identified(
    rows: Iterable[tuple[int, dict[str, str]]], *, path: Path
) -> Iterator[tuple[int, str, bool, dict[str, str]]]:
    """(line, id, whether the file says it, row) of a table's rows.

    The id is what a column of IDS says, and else the row's number among those of its language, from 1: so it does not
    depend on a header, and is the same in parallel files and for several languages in one file. Rows that the caller
    leaves out count too. A column with fewer values than half of the rows of a language is no id (a premise's number).

    Raises:
        DataError: two rows of a language have the same id, or one has none.
    """
    rows = list(rows)
    languages = [row.get("language") or row.get("lang") or "" for _, row in rows]
    seen: Counter[str] = Counter()
    ids: list[str] = []
    for language in languages:
        seen[language] += 1
        ids.append(str(seen[language]))
    is_own = False
    for column in IDS:
        own = [(language, row.get(column, "")) for language, (_, row) in zip(languages, rows, strict=True)]
        if rows and 2 * len({key for key in own if key[1]}) >= len(rows):
            _require_other_ids(path, column, [(line, key) for key, (line, _) in zip(own, rows, strict=True)])
            ids, is_own = [id for _, id in own], True
            break
    return ((line, id, is_own, row) for id, (line, row) in zip(ids, rows, strict=True))


def _require_other_ids(path: Path, column: str, keys: Sequence[tuple[int, tuple[str, str]]]) -> None:
    first: dict[tuple[str, str], int] = {}
    for line, key in keys:
        if not key[1] or key in first:
            wrong = f"line {first[key]} has {column} {key[1]!r} too" if key[1] else f"no {column}"
            raise DataError(
                f"{path}:{line}: {wrong}; give each row of a language its own, as in its translations, or take the "
                "column out of all files of the set"
            )
        first[key] = line


IDS = ("pairID", "pair_id", "id")
"""Columns that may say which example a row is: XNLI's, STS22's, AmericasNLI's."""


def pick(row: Mapping[str, str], names: Sequence[str], *, path: Path, line: int) -> str:
    """The first of these columns that a row has.

    Raises:
        DataError: it has none of them.
    """
    for name in names:
        if name in row:
            return row[name]
    raise DataError(f"{path}:{line}: no column {' or '.join(names)}; there are {', '.join(row)}: name it in the header")


def require_language(name: FileName) -> str:
    """The language of a file with one; English when its name says none."""
    return "+".join(dict.fromkeys(name.languages)) or ENGLISH
