"""Checkpoints: a folder that is complete or does not count.

    checkpoints/step_00001000/{student/, discriminator/, rng/rank_00000.pt, state.json, COMPLETE}

Everything is written into a temporary folder; COMPLETE holds each file's size and CRC-32 and is written
last; then the folder is renamed. Reading takes the newest complete folder, and when that one is damaged
says so and takes the one before.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import shutil
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unibert.errors import CheckpointError
from unibert.runtime.players import Players

TAG = "engine"
COMPLETE = "COMPLETE"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """What a run has to know besides its engines.

    Attributes:
        step: optimizer steps done.
        samples: position in the stream, documents read.
        tokens: tokens read, padding not counted.
        world: ranks that saved.
        fingerprints: of shards, tokenizer and the recipe's stream.
        versions: of the packages.
    """

    step: int
    samples: int
    tokens: int
    world: int
    fingerprints: dict[str, str]
    versions: dict[str, str]


def step_name(step: int) -> str:
    """Folder name of a step, in checkpoints/ and in hf/."""
    return f"step_{step:08d}"


def save(folder: Path, *, players: Players, state: State, rank: int, keep_last: int) -> Path:
    """Write one checkpoint; every rank calls it.

    Raises:
        CheckpointError: the disk is full or unwritable; the checkpoints before are untouched.
    """
    final, unfinished = folder / step_name(state.step), folder / f".unfinished_{step_name(state.step)}"
    try:
        if rank == 0:
            for stale in folder.glob(".unfinished_*"):
                shutil.rmtree(stale)
            (unfinished / "rng").mkdir(parents=True)
            _check_room(folder)
        _barrier()
        for player in players:
            player.engine.save_checkpoint(str(unfinished / player.name), tag=TAG)
        torch.save(_rng_state(), unfinished / "rng" / f"rank_{rank:05d}.pt")
        _barrier()
        if rank == 0:
            (unfinished / "state.json").write_text(json.dumps(asdict(state), indent=2))
            _seal(unfinished)
            if final.exists():
                shutil.rmtree(final)
            unfinished.rename(final)
            _prune(folder, keep_last=keep_last)
        _barrier()
    except (OSError, RuntimeError) as error:
        # torch's zip writer turns a failed write into a RuntimeError of its own.
        full = isinstance(error, RuntimeError) or error.errno in (errno.ENOSPC, errno.EDQUOT)
        if isinstance(error, RuntimeError) and "write" not in str(error) and "file" not in str(error):
            raise
        shutil.rmtree(unfinished, ignore_errors=True)
        why = "the disk is full" if full and _free_gib(folder) < 1 else str(error)
        raise CheckpointError(
            f"cannot save step {state.step} to {final}: {why} ({_free_gib(folder):.2f} GiB free). Nothing that was "
            "saved before is lost: make room and run the same command again"
        ) from error
    return final


def complete_folders(folder: Path) -> list[Path]:
    """The complete checkpoints, newest first."""
    return sorted((path.parent for path in folder.glob(f"step_*/{COMPLETE}")), reverse=True)


def newest_sound(folder: Path) -> Path | None:
    """The newest complete checkpoint whose files are all there and unchanged; None when there is none.

    Raises:
        CheckpointError: there are checkpoints, but every one of them is damaged.
    """
    found = complete_folders(folder)
    for path in found:
        damage = damaged(path)
        if damage is None:
            return path
        log.warning("checkpoint %s is damaged (%s): falling back to the one before", path, damage)
    if found:
        raise CheckpointError(
            f"every checkpoint in {folder} is damaged. Restore one, or start over with --resume never"
        )
    return None


def damaged(path: Path) -> str | None:
    """What is wrong with a complete checkpoint, or None."""
    try:
        manifest = json.loads((path / COMPLETE).read_text())
        for name, (size, checksum) in manifest.items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != size:
                return f"{name} has {file.stat().st_size} bytes instead of {size}"
            if _crc32(file) != checksum:
                return f"{name} has changed"
    except (OSError, ValueError) as error:
        return str(error)
    return None


def load(path: Path, *, players: Players, rank: int, world: int) -> State:
    """Give engines and random generators back what they had.

    Raises:
        CheckpointError: saved by another number of ranks, or for other players.
    """
    state = read_state(path)
    if state.world != world:
        raise CheckpointError(
            f"{path} was saved by {state.world} rank(s) and this run has {world}: start it with {state.world}, or "
            "start over with --resume never"
        )
    for player in players:
        if not (path / player.name).is_dir():
            raise CheckpointError(f"{path} holds no {player.name}: was the run's recipe another one?")
        loaded, _ = player.engine.load_checkpoint(str(path / player.name), tag=TAG)
        if loaded is None:
            raise CheckpointError(f"DeepSpeed could not read {path / player.name}")
    _set_rng_state(torch.load(path / "rng" / f"rank_{rank:05d}.pt", weights_only=False))
    return state


def read_state(path: Path) -> State:
    """The state of a checkpoint."""
    return State(**json.loads((path / "state.json").read_text()))


def _seal(path: Path) -> None:
    files: Iterable[Path] = sorted(file for file in path.rglob("*") if file.is_file())
    manifest = {str(file.relative_to(path)): (file.stat().st_size, _crc32(file)) for file in files}
    with open(path / COMPLETE, "w") as out:
        json.dump(manifest, out, indent=1)
        out.flush()
        os.fsync(out.fileno())


def _crc32(file: Path) -> int:
    checksum = 0
    with open(file, "rb") as source:
        while block := source.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _prune(folder: Path, *, keep_last: int) -> None:
    for old in complete_folders(folder)[keep_last:]:
        shutil.rmtree(old)


def _check_room(folder: Path) -> None:
    """Fail before the first byte when the last checkpoint would not fit again."""
    before = complete_folders(folder)
    if not before:
        return
    needed = sum(file.stat().st_size for file in before[0].rglob("*") if file.is_file())
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, f"{needed / 2**30:.2f} GiB are needed")


def _free_gib(folder: Path) -> float:
    return shutil.disk_usage(folder).free / 2**30


def _rng_state() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state(), "cuda": cuda}


def _set_rng_state(saved: dict[str, Any]) -> None:
    random.setstate(saved["python"])
    np.random.set_state(saved["numpy"])
    torch.set_rng_state(saved["torch"])
    if saved["cuda"] is not None:
        torch.cuda.set_rng_state(saved["cuda"])


def _barrier() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
