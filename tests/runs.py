"""Starting real runs from tests, by any launcher, and reading what they wrote."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
TIMEOUT_SECONDS = 240


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(**extra: str) -> dict[str, str]:
    """This process's environment, without the variables of a launcher, on the CPU."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("OMPI_", "PMI_", "SLURM_"))}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        env.pop(name, None)
    bin_folder = str(Path(sys.executable).parent)
    env |= {
        "PATH": f"{bin_folder}{os.pathsep}{env['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        # mpirun refuses root unless it is told twice; CI is often root.
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    }
    return env | extra


def trains_in(precision: str) -> bool:
    """Whether DeepSpeed trains in it on this CPU: torch's oneDNN wants AVX512-FP16 or AMX-FP16 for fp16."""
    import torch

    return not precision.startswith("fp16") or torch.ops.mkldnn._is_mkldnn_fp16_supported()


def launcher_words(launcher: str, *, world: int) -> list[str]:
    """The words before `train RECIPE` for a launcher."""
    python, module = sys.executable, ["-m", "unibert"]
    beside = Path(sys.executable).parent
    mpirun = shutil.which("mpirun", path=f"{beside}{os.pathsep}{os.environ['PATH']}") or "mpirun"
    words = {
        "alone": [python, *module],
        "deepspeed": [
            str(beside / "deepspeed"), "--num_gpus", str(world), "--master_port", str(free_port()),
            "--module", "unibert",
        ],
        "torchrun": [
            str(beside / "torchrun"), "--nproc_per_node", str(world), "--master_port", str(free_port()), *module,
        ],
        "mpirun": [mpirun, "-np", str(world), python, *module],
    }  # fmt: skip
    return words[launcher]


def start(
    recipe: Path, *options: str, launcher: str = "alone", world: int = 1, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start a training; its output is one stream of text."""
    words = [*launcher_words(launcher, world=world), "train", str(recipe), *options]
    return subprocess.Popen(
        words,
        env=environment(**(env or {})),
        cwd=recipe.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], *, expect: int = 0, seconds: float = TIMEOUT_SECONDS) -> str:
    """Wait for the end, demand an exit code, and return what was printed."""
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        output, _ = process.communicate()
        raise AssertionError(f"no end after {seconds} s:\n{output[-3000:]}") from None
    assert process.returncode == expect, f"exit {process.returncode}, not {expect}:\n{output[-5000:]}"
    return output


def train(recipe: Path, *options: str, launcher: str = "alone", world: int = 1, expect: int = 0) -> str:
    """Train to the end."""
    return finish(start(recipe, *options, launcher=launcher, world=world), expect=expect)


def metrics(run: Path) -> list[dict[str, float]]:
    """The steps of metrics.jsonl, without the look before the first one."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["step"]]


def trace(run: Path, tags: Sequence[str] = ("loss/total",)) -> list[tuple[float, ...]]:
    """(step, values...) of every line."""
    return [(row["step"], *(row[tag] for tag in tags)) for row in metrics(run)]
