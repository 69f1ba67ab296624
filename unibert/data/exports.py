"""Where a model lies: a Hugging Face folder, or a run folder whose newest export is meant. No torch here."""

from __future__ import annotations

import re
from pathlib import Path

from unibert.errors import DataError

STEP = re.compile(r"step_(\d+)")


def newest_export(path: Path) -> Path:
    """The Hugging Face folder that a path means: itself, or the export of the latest step of a run folder.

    Raises:
        DataError: neither a Hugging Face folder nor a run folder with an export.
    """
    if (path / "config.json").is_file():
        return path
    exports = [folder for folder in (path / "hf").glob("step_*") if (folder / "config.json").is_file()]
    steps = {int(match[1]): folder for folder in exports if (match := STEP.fullmatch(folder.name))}
    if not steps:
        raise DataError(
            f"{path}: no model here. A Hugging Face folder has a config.json, "
            f"a run folder has exports in hf/step_*: train that run first, or name another folder"
        )
    return steps[max(steps)]
