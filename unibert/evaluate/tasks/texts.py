"""Text by language, without labels: which language is it (a fresh probe), and which token was masked.

Files are of the folders `text` and `heldout` (such as a data folder's own heldout/): a text a line, or JSON Lines with
"text"; the name says the language. Without such a folder the sentences of the labelled translations are read
(Tatoeba's), which are text by language too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unibert.errors import DataError
from unibert.evaluate.tasks.base import ENGLISH, Example, Labelled, Measured, Task, pick, table, text_of
from unibert.evaluate.tasks.names import FileName, labelled_files
from unibert.evaluate.tasks.retrieval import Retrieval

SETS = ("text", "heldout")
MOST = 1000
"""Texts of a language, evenly spread: more would tell little, and English stands beside every other language."""
LEAST = 20
"""A language with fewer says too little, and a probe could not be fitted."""
MESSAGES = ("parallel.jsonl", "parallel.done.json", "parallel_report.json")
"""Of a data folder's heldout/: messages in many languages at once, which retrieval reads, and notes of the stage."""


@dataclass(frozen=True)
class Text(Example):
    """One text."""

    text: str


class TextTask(Task):
    """What is asked of text alone."""

    sets = SETS
    head = "none"

    def read(self, folder: Path) -> Labelled:
        found = Labelled()
        for of, by_language in read_texts(folder).items():
            for code, texts in by_language.items():
                if len(texts) < LEAST:
                    raise DataError(
                        f"{self.name}: {of} has {len(texts)} texts in {code!r}, and {LEAST} are needed: add lines or "
                        "take that language's file out"
                    )
                for i in range(count := min(MOST, len(texts))):
                    text = texts[i * len(texts) // count]
                    found.add(FileName(folder, of, "test", ()), code, Text(f"{code}:{i}", f"{code}:{i}", text))
        if not found.sets:
            wanted = ", ".join(f"{folder / name}/" for name in (*self.sets, *Retrieval.sets))
            raise DataError(f"{self.name}: no text by language: put files into one of {wanted} or leave the task out")
        return found

    def read_file(self, name: FileName) -> Iterator[tuple[str, Text]]:
        raise AssertionError("read takes all files of a language together")


def read_texts(folder: Path) -> dict[str, dict[str, list[str]]]:
    """Set -> language -> texts, each once, of the folders of text, else of the translations.

    Raises:
        DataError: a file whose name says no language, or a row without text.
    """
    found = heldout_texts(folder)
    if not found and any((folder / name).is_dir() for name in Retrieval.sets):
        for of, splits in Retrieval().read(folder).sets.items():
            for by_language in splits.values():
                for code, pairs in by_language.items():
                    found.setdefault(of, {}).setdefault(code, []).extend(pair.first for pair in pairs)
                    found[of].setdefault(ENGLISH, []).extend(pair.second for pair in pairs)
    return {of: {code: list(dict.fromkeys(rows)) for code, rows in sorted(by.items())} for of, by in found.items()}


def heldout_texts(folder: Path) -> dict[str, dict[str, list[str]]]:
    """Set -> language -> texts of the folders of text alone.

    Raises:
        DataError: as read_texts.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for name in labelled_files(folder, SETS):
        if name.path.name in MESSAGES:
            continue
        if len(name.languages) != 1:
            raise DataError(f"{name.path}: its name must say one language, as de.txt; it says {list(name.languages)}")
        texts = found.setdefault(name.set, {}).setdefault(name.languages[0], [])
        if name.path.suffix == ".jsonl":
            texts += [pick(row, ["text"], path=name.path, line=line) for line, row in table(name.path, read=["text"])]
        else:
            texts += [line.strip() for line in text_of(name.path).split("\n") if line.strip()]
    return found


class LanguageProbe(TextTask):
    """Accuracy of a fresh linear probe on frozen sentence features, on texts it was not fitted on (probe.py).

    A prediction is what the probe was worth on a text, by name, and None on texts that it was fitted on. `accuracy` is
    of the mean over tokens, `first_token` of the first token; `chance` is 1 / languages, `majority` the share of the
    most frequent language among the judged. It is no merit and no fault of a model, so nobody is better in it.
    """

    name = "language_probe"
    metric = "accuracy"
    describes = True

    def measure(
        self, examples: Sequence[Text], predictions: Sequence[Mapping[str, float] | None], *, of: str, language: str
    ) -> dict[str, Measured]:
        judged = [one for one in predictions if one is not None]
        return {name: Measured("mean", np.array([[one[name]] for one in judged])) for name in judged[0]}


class Masked(TextTask):
    """Share of masked tokens whose first choice is right, and their cross-entropy in nats; 15 %, masked as in BERT.

    A prediction is (nats, right, targets), the sums of a text. What is asked depends on the model's tokenizer: models
    of other pieces do not compare.
    """

    name = "masked"
    metric = "accuracy"
    by_tokenizer = True

    def measure(
        self, examples: Sequence[Text], predictions: Sequence[Sequence[float]], *, of: str, language: str
    ) -> dict[str, Measured]:
        sums_N3 = np.asarray(predictions, float)
        return {
            "accuracy": Measured("ratio", sums_N3[:, [1, 2]]),
            "cross_entropy": Measured("ratio", sums_N3[:, [0, 2]]),
        }
