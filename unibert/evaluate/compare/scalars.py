"""Scores as TensorBoard scalars: a run a model, a chart a column, so that models stand side by side there too."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from torch.utils.tensorboard.writer import SummaryWriter

from unibert.evaluate.compare.analysis import Analysis
from unibert.observe.tags import tag_of


def write_scalars(found: Analysis, folder: Path) -> Path:
    """Write `<folder>/<model>`, replacing what is there: task/<column>.<language>, and .mean over languages.

    A score has no step of training, so all stand at 0.
    """
    for model in found.models:
        own = folder / _slug(model)
        shutil.rmtree(own, ignore_errors=True)
        with SummaryWriter(str(own)) as writer:
            for column, by_language in found.entries.items():
                for language, entries in by_language.items():
                    tag = f"task/{_slug(column)}.{_slug(language)}"
                    tag_of(tag)
                    writer.add_scalar(tag, entries[model].score.value, 0)
    return folder


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_")
