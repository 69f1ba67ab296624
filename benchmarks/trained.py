"""What the scripts share that train whole runs and measure what came of them, and can be stopped and continued."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from unibert.config import Recipe
from unibert.data.lines import atomic
from unibert.evaluate.measure import Limits, measure, prepare
from unibert.models.folders import newest_export
from unibert.models.precision import bf16_is_faster

LIMITS = Limits(messages=4000, masked_lines=3000, probe_lines=4000)
"""A smaller evaluation than the report's: half a minute a model on two cores."""


class Ledger:
    """Results by name in a JSON file; what is there is not computed again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, Any] = {}
        self._read()

    def _read(self) -> None:
        """Take in what is there, perhaps of another process."""
        self.found |= json.loads(self.path.read_text()) if self.path.exists() else {}

    def put(self, name: str, value: Any) -> None:
        """Write a result down, beside what other processes have written meanwhile."""
        self._read()
        self.found[name] = value
        with atomic(self.path) as file:
            file.write(json.dumps(self.found, indent=1) + "\n")

    def find(self, name: str) -> Any:
        """The result of this name, perhaps of another process; None without."""
        self._read()
        return self.found.get(name)

    def get(self, name: str, compute: Callable[[], Any]) -> Any:
        """The result of this name, computed now if it is not there yet."""
        if self.find(name) is None:
            self.put(name, compute())
        return self.found[name]


def train(recipe: str | Path, *options: str, ranks: int = 1, log: Path) -> None:
    """Train to the end, alone or by the deepspeed launcher, with what it prints in a file.

    Raises:
        SystemExit: it failed; names the file.
    """
    words = ["unibert", "train", str(recipe), *options]
    if ranks == 1:
        command = [sys.executable, "-m", *words]
    else:
        with socket.socket() as free:
            free.bind(("", 0))
            port = str(free.getsockname()[1])
        launcher = [str(Path(sys.executable).with_name("deepspeed")), "--num_gpus", str(ranks), "--master_port", port]
        command = [*launcher, "--module", *words]
    log.parent.mkdir(parents=True, exist_ok=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    threads = str(max(1, (os.cpu_count() or 1) // ranks))
    accelerator = {} if torch.cuda.is_available() else {"DS_ACCELERATOR": "cpu"}
    environment = {"OMP_NUM_THREADS": threads, **os.environ, "PATH": path, **accelerator}
    with log.open("a") as file:
        code = subprocess.run(command, env=environment, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        raise SystemExit(f"{' '.join(words)} ended with {code}; see {log}")


def metrics(run: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; the first one, of step 0, is of the models before training."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def measured(recipe: Recipe, folder: Path, *, removed: int | None = None) -> dict[str, float]:
    """Held-out cross-entropy, retrieval and fresh probe of a run's newest export, means over languages.

    Args:
        recipe: of the run.
        folder: of the run.
        removed: directions of each language that LIR takes away for `..._removed`; not done when None.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    facts = {"key": "", "dtype": "bf16" if bf16_is_faster(device) else "fp32", "device": device}
    material = prepare(recipe, limits=LIMITS, remove_language=removed)
    result = measure(folder.name, newest_export(folder), material, **facts)
    found = {"cross_entropy": result.mean("cross_entropy")}
    for ending, model in (("", result), ("_removed", result.without_language)):
        if model is not None:
            found |= {f"{name}{ending}": model.mean(name) for name in ("to_english", "from_english")}
            found |= {f"probe_{kind}{ending}": score.accuracy for kind, score in model.probe.items()}
    return found


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
