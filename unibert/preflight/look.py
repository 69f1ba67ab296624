"""What one node says of itself: devices, disks, and the code and the data that it sees. Without torch on the CPU."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from unibert.config import Recipe

FREE_GIB = {"run folder": 1.0, "TMPDIR": 0.1}
PACKAGES = ("torch", "deepspeed", "transformers", "tokenizers", "numpy")

Answer = dict[str, Any]


def look(recipe: Recipe) -> Answer:
    """What this node says of itself. Every check is made, whatever the others find."""
    wrong = []
    for check in (_devices, _folders):
        try:
            wrong += check(recipe)
        except Exception as error:  # what a broken node raises is its finding
            wrong.append(f"{check.__name__.strip('_')}: {type(error).__name__}: {error}")
    same = {"code": _code(), "packages": _packages(), "data": _data(recipe)}
    return {"node": node_name(), "stage": "look", "wrong": wrong, "same": same}


def node_name() -> str:
    """As SLURM calls it."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname().split(".")[0]


def _devices(_recipe: Recipe) -> list[str]:
    """Every GPU that SLURM gave multiplies, and is right."""
    promised = int(os.environ.get("SLURM_GPUS_ON_NODE") or 0)
    if not promised and not Path("/proc/driver/nvidia/version").exists():
        return []
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    wrong = [f"SLURM gave {promised} GPU(s) and torch sees {there}"] if there < promised else []
    for index in range(there):
        try:
            a = torch.randn(512, 512, generator=torch.Generator().manual_seed(0))
            product = (a.to(f"cuda:{index}").double() @ a.to(f"cuda:{index}").double()).cpu()
            if not torch.allclose(product, a.double() @ a.double()):
                wrong.append(f"GPU {index} multiplies wrongly")
        except RuntimeError as error:
            wrong.append(f"GPU {index}: {str(error).splitlines()[0]}")
    return wrong


def _folders(recipe: Recipe) -> list[str]:
    """The run folder and the node's own temporary folder take a file, and have room."""
    wrong = []
    for what, folder in (("run folder", recipe.run_folder), ("TMPDIR", Path(os.environ.get("TMPDIR", "/tmp")))):
        try:
            if what == "run folder":
                folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".preflight_") as file:
                file.write(bytes(1 << 20))
                file.flush()
                os.fsync(file.fileno())
            free = shutil.disk_usage(folder).free / 2**30
            if free < FREE_GIB[what]:
                wrong.append(f"{what} {folder}: {free:.2f} GiB are free, {FREE_GIB[what]:g} are wanted")
        except OSError as error:
            wrong.append(f"{what} {folder}: {error.strerror}")
    return wrong


def _code() -> str:
    """Of every file of our own that decides what a rank does."""
    root = Path(__file__).parents[2]
    files = [path for name in ("unibert", "kernels", "ds_configs") for path in (root / name).rglob("*.*")]
    digest = hashlib.sha256()
    for path in sorted(path for path in files if path.suffix in (".py", ".json", ".toml")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _packages() -> str:
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            versions.append(f"no {name}")
    return ", ".join(versions)


def _data(recipe: Recipe) -> str:
    """Of names and sizes of shards, tokenizer and teacher, and of what the small files say."""
    data, digest = recipe.data.folder, hashlib.sha256()
    folders = [data / "shards", data / "shards_parallel", data / "tokenizer"]
    folders += [Path(recipe.teacher.path)] if recipe.teacher and recipe.teacher.path else []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                size = path.stat().st_size
                digest.update(f"{path.relative_to(folder)} {size}\n".encode())
                digest.update(path.read_bytes() if path.suffix == ".json" and size < 1 << 20 else b"")
    return digest.hexdigest()[:12]
