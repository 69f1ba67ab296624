"""Scores into a model's card, in the hub's model-index form, so that the hub shows them beside the model.

Only folders that somebody names are written to, and only where the scores are of the very weights that lie there. Of
the card nothing changes but its model-index, in which scores of other sets stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from huggingface_hub import EvalResult, ModelCard

from unibert.data.lines import atomic, say
from unibert.errors import ConfigError, DataError
from unibert.evaluate.finetune.subject import find_model
from unibert.evaluate.results_file import ResultRow

HUB_TASKS = {
    "ner": "token-classification",
    "nli": "text-classification",
    "qa": "question-answering",
    "conversational_qa": "question-answering",
    "sts": "sentence-similarity",
    "retrieval": "sentence-similarity",
    "word_translation": "sentence-similarity",
    "language_probe": "text-classification",
    "masked": "fill-mask",
}
"""Our tasks as the hub calls them."""
CARD = "README.md"


def make_cards(rows: Iterable[ResultRow], cards: Sequence[str]) -> dict[Path, str]:
    """The card's file -> its new text with the scores of models, for every folder that is named; nothing is written.

    Args:
        rows: of results files.
        cards: NAME=FOLDER each, NAME as in the results; FOLDER a Hugging Face folder or a run folder.

    Raises:
        ConfigError: no results of that name.
        DataError: results of other weights than lie there, or a card that cannot be read.
    """
    tests, made = [row for row in rows if row.purpose == "test"], {}
    for word in cards:
        model = find_model(word)
        own = [row for row in tests if row.model == model.name]
        if not own:
            names = ", ".join(sorted({row.model for row in tests}))
            raise ConfigError(f"--cards {word}: no results of {model.name!r}: write NAME=FOLDER, NAME one of {names}")
        if {row.weights for row in own} != {model.weights}:
            raise DataError(
                f"--cards {word}: the results of {model.name!r} are of other weights than lie in {model.folder}: name "
                "the folder that was measured, or measure this one"
            )
        path = model.folder / CARD
        made[path] = _with_scores(_read(path, made.get(path), name=model.name), own, name=model.name)
    return made


def write_cards(made: Mapping[Path, str]) -> None:
    """Write the cards that make_cards made."""
    for path, text in made.items():
        with atomic(path) as file:
            file.write(text)
        say(f"report: scores written into {path}")


def _with_scores(card: ModelCard, rows: Sequence[ResultRow], *, name: str) -> str:
    new = eval_results(rows)
    known = {(one.unique_identifier, one.metric_name) for one in new}
    data: Any = card.data  # a ModelCardData, which ModelCard's own type does not say
    old = [one for one in data.eval_results or [] if (one.unique_identifier, one.metric_name) not in known]
    data.model_name = data.get("model_name") or name
    data.eval_results = [*old, *new]
    return str(card)


def _read(path: Path, made: str | None, *, name: str) -> ModelCard:
    """The card that was made for another name, or is there, or a new one.

    Raises:
        DataError: it cannot be read.
    """
    try:
        there = path.read_text(encoding="utf-8") if path.exists() else f"---\n{{}}\n---\n\n# {name}\n"
        return ModelCard(made or there)
    # What huggingface_hub raises where a model-index is of other things than it expects.
    except (OSError, ValueError, yaml.YAMLError, TypeError, AttributeError, LookupError) as error:
        raise DataError(
            f"{path}: a card whose head cannot be read ({error}): mend what stands between its two lines of ---, of "
            "which the model-index needs name and results, or take the model-index out"
        ) from error


def eval_results(rows: Sequence[ResultRow]) -> list[EvalResult]:
    """One a set, split, language and way: the mean over seeds, as it was measured (a share, or a correlation)."""
    places: dict[tuple[str, str, str, str, str], list[ResultRow]] = {}
    for row in rows:
        places.setdefault((row.task, row.set, row.split, row.language, row.way), []).append(row)
    found = []
    for (task, of, split, language, way), several in sorted(places.items()):
        metric = several[0].metric
        found.append(
            EvalResult(
                task_type=HUB_TASKS.get(task, task),
                dataset_type=of,
                dataset_name=of,
                dataset_config=language,
                dataset_split=split,
                metric_type=metric,
                metric_name=f"{metric} ({way}{', ' + several[0].source if several[0].source else ''})",
                metric_value=round(float(np.mean([row.values[metric] for row in several])), 4),
                metric_args={"seeds": len(several)},
            )
        )
    return found
