"""Scores as TensorBoard scalars: a run a model, a chart a column, so that models stand side by side there too."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from torch.utils.tensorboard.writer import SummaryWriter

from unibert.evaluate.compare.analysis import Analysis
from unibert.observe.tags import tag_of


def write_scalars(found: Analysis, folder: Path) -> Path:
    """Write `<folder>/<model>`, replacing what is there: task/<column>.<language>, and .mean over languages.

    A score has no step of training, so all stand at 0.
    """
    folders = slugs(found.models)
    # Tags are of ASCII letters (observe/tags.py), folders of any.
    columns = slugs(found.entries, letters="A-Za-z0-9_")
    languages = slugs(dict.fromkeys(code for by in found.entries.values() for code in by), letters="A-Za-z0-9_")
    for model in found.models:
        own = folder / folders[model]
        shutil.rmtree(own, ignore_errors=True)
        with SummaryWriter(str(own)) as writer:
            for column, by_language in found.entries.items():
                for language, entries in by_language.items():
                    tag = f"task/{columns[column]}.{languages[language]}"
                    tag_of(tag)
                    writer.add_scalar(tag, entries[model].score.value, 0)
    return folder


def slugs(names: Iterable[str], *, letters: str = r"\w") -> dict[str, str]:
    """name -> what it is called in a path or a tag, never empty, "." or ".."; no two are alike."""
    plain = {name: re.sub(rf"[^{letters}.-]+", "_", name).strip("_") for name in names}
    taken = list(plain.values())
    return {
        name: slug
        if slug.strip(".") and taken.count(slug) == 1
        else f"{slug.strip('.')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}".lstrip("-")
        for name, slug in plain.items()
    }
