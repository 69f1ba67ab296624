"""Which teacher it is: a fingerprint of what decides its answers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from unibert.data.lines import file_sha256
from unibert.errors import DataError

IDLE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")
"""Of a configuration: what changes no answer."""


def teacher_fingerprint(folder: Path) -> str:
    """Of a Hugging Face folder's weights and configuration.

    Raises:
        DataError: no weights there.
    """
    weights = sorted(path for kind in ("*.safetensors", "*.bin") for path in folder.glob(kind))
    if not weights:
        raise DataError(f"{folder}: no weights (*.safetensors, *.bin)")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    facts = {key: value for key, value in config.items() if key not in IDLE}
    everything = [json.dumps(facts, sort_keys=True), *(file_sha256(path) for path in weights)]
    return hashlib.sha256("\n".join(everything).encode()).hexdigest()
