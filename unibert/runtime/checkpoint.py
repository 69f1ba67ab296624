"""Checkpoints: a folder that is complete or does not count, and that any number of ranks can read.

    checkpoints/step_00001000/{student/, discriminator/, objectives/, rng/rank_00000.pt, state.json, COMPLETE}

Saving copies the state to host memory; the files are then written beside the training, into a temporary folder.
When every rank has written, the first one adds COMPLETE, with each file's size and CRC-32, and renames the folder.
Reading takes the newest complete folder, and when that one is damaged says so and takes the one before.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import shutil
import socket
import threading
import time
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from unibert.errors import CheckpointError
from unibert.runtime import engine_state
from unibert.runtime.dist import Ranks, everyone_says
from unibert.runtime.engine_state import Snapshot
from unibert.runtime.players import Players
from unibert.schema import Save

COMPLETE = "COMPLETE"
STATE = "state.json"
OWNER = ".owner"
"""Beside the checkpoints: which start of the run writes them, the last one that began."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """What a run has to know besides its engines.

    Attributes:
        step: optimizer steps done.
        samples: position in the stream, documents read or passed over.
        tokens: tokens read, padding not counted.
        world: ranks that saved.
        fingerprints: of shards, tokenizer and the recipe's stream.
        versions: of the packages.
        score: held-out masked cross-entropy of this step, nats; None where it was not measured.
    """

    step: int
    samples: int
    tokens: int
    world: int
    fingerprints: dict[str, str]
    versions: dict[str, str]
    score: float | None = None


def step_name(step: int) -> str:
    """Folder name of a step, in checkpoints/ and in hf/."""
    return f"step_{step:08d}"


class Saver:
    """Writes checkpoints, one at a time. Every rank makes one and calls its methods at the same steps.

    Args:
        folder: checkpoints/ of the run.
        ranks: this process and the others.
        table: how often, which to keep, and whether to write in the background.
    """

    def __init__(self, folder: Path, *, ranks: Ranks, table: Save) -> None:
        self.folder, self.ranks, self.table = folder, ranks, table
        self._state: State | None = None
        self._writer: threading.Thread | None = None
        self._written: dict[str, tuple[int, int]] = {}
        self._failed: str | None = None
        self._name = f"{socket.gethostname()}, process {os.getpid()}, {time.time_ns()}"
        if ranks.is_first:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / OWNER).write_text(self._name)

    @property
    def pending(self) -> bool:
        """Whether a checkpoint has been begun and not been finished."""
        return self._state is not None

    @property
    def writing(self) -> bool:
        """Whether this rank is still writing files."""
        return self._writer is not None and self._writer.is_alive()

    def begin(
        self, *, players: Players, state: State, objectives: Mapping[str, dict[str, Tensor]] | None = None
    ) -> None:
        """Copy the state and start to write it; `finish` makes it count.

        Args:
            players: their engines' state.
            state: of the run.
            objectives: what objectives remember, by name; the first rank writes it.

        Raises:
            CheckpointError: the disk is full or unwritable; the checkpoints before are untouched.
        """
        assert not self.pending, "finish the one before"
        self._state, self._written, self._failed = state, {}, None
        unfinished = self._unfinished()
        if self.ranks.is_first:
            self._failed = _try(lambda: self._make_room(unfinished))
        self._raise_if_any_failed()
        copies = {player.name: engine_state.snapshot(player.engine, rank=self.ranks.rank) for player in players}
        remembered = {
            name: {key: value.to("cpu", copy=True) for key, value in tensors.items()}
            for name, tensors in (objectives or {}).items()
            if tensors and self.ranks.is_first
        }
        arguments = (copies, remembered, _rng_state(), unfinished)
        self._writer = threading.Thread(target=self._write, args=arguments, name="checkpoint", daemon=True)
        self._writer.start()
        if not self.table.background:
            self._writer.join()

    def finish(self) -> Path:
        """Wait until all ranks have written and let the checkpoint count.

        Raises:
            CheckpointError: a rank could not write; the checkpoints before are untouched.
        """
        assert self._writer is not None
        assert self._state is not None
        self._writer.join()
        self._raise_if_any_failed()
        manifest = {name: facts for written in everyone_says(self._written) for name, facts in written.items()}
        final = self.folder / step_name(self._state.step)
        if self.ranks.is_first:
            self._failed = _try(lambda: self._seal(manifest, final))
        self._raise_if_any_failed()
        self._state = self._writer = None
        return final

    def _unfinished(self) -> Path:
        assert self._state is not None
        return self.folder / f".unfinished_{step_name(self._state.step)}"

    def _refuse_if_taken_over(self) -> None:
        """A start on a node that was cut off, and goes on there, must not write into the run of the start after it."""
        owner = (self.folder / OWNER).read_text()
        if owner != self._name:
            raise OSError(f"another start of this run has taken over ({owner}), so this one has to end")

    def _make_room(self, unfinished: Path) -> None:
        self._refuse_if_taken_over()
        for stale in self.folder.glob(".unfinished_*"):
            shutil.rmtree(stale)
        (unfinished / "rng").mkdir(parents=True)
        _check_room(self.folder)

    def _write(
        self,
        copies: dict[str, Snapshot],
        remembered: dict[str, dict[str, Tensor]],
        rng: dict[str, Any],
        unfinished: Path,
    ) -> None:
        """This rank's files; runs beside the training."""

        def write() -> None:
            rank = self.ranks.rank
            files = [file for name, copy in copies.items() for file in copy.write(unfinished / name, rank=rank)]
            for name, tensors in remembered.items():
                files.append(_remembered(unfinished, name))
                files[-1].parent.mkdir(exist_ok=True)
                save_file(tensors, files[-1])
            files.append(unfinished / "rng" / f"rank_{rank:05d}.pt")
            torch.save(rng, files[-1])
            self._written = {str(file.relative_to(unfinished)): _to_disk(file) for file in files}

        self._failed = _try(write)

    def _seal(self, manifest: dict[str, tuple[int, int]], final: Path) -> None:
        assert self._state is not None
        self._refuse_if_taken_over()
        unfinished = self._unfinished()
        (unfinished / STATE).write_text(json.dumps(asdict(self._state), indent=2))
        manifest[STATE] = _to_disk(unfinished / STATE)
        (unfinished / COMPLETE).write_text(json.dumps(dict(sorted(manifest.items())), indent=1))
        _to_disk(unfinished / COMPLETE)
        if final.exists():
            shutil.rmtree(final)
        unfinished.rename(final)
        _sync_folder(self.folder)
        prune(self.folder, table=self.table)

    def _raise_if_any_failed(self) -> None:
        """All ranks fail together, with the first one's reason."""
        failed = [reason for reason in everyone_says(self._failed) if reason]
        if not failed:
            return
        assert self._state is not None
        step, self._writer = self._state.step, None
        if self.ranks.is_first:
            shutil.rmtree(self._unfinished(), ignore_errors=True)
        self._state = None
        raise CheckpointError(
            f"cannot save step {step} to {self.folder}: {failed[0]}. Nothing that was saved before is lost: make room "
            "and run the same command again"
        )


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
        missing = {STATE, "rng/rank_00000.pt"} - manifest.keys()
        return f"its manifest lacks {sorted(missing)[0]}" if missing else None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return str(error)


def load(path: Path, *, players: Players, ranks: Ranks) -> State:
    """Give engines and random generators back what they had, whatever the number of ranks that saved it.

    A rank that has no random state of its own there (more ranks than before) keeps the one it was seeded with.

    Raises:
        CheckpointError: it is of another model, or of other players.
    """
    state = read_state(path)
    for player in players:
        if not (path / player.name).is_dir():
            raise CheckpointError(f"{path} holds no {player.name}: was the run's recipe another one?")
        engine_state.restore(player.engine, path / player.name)
    own = path / "rng" / f"rank_{ranks.rank:05d}.pt"
    if own.is_file():
        _set_rng_state(torch.load(own, weights_only=False))
    return state


def load_objective(path: Path, name: str, *, device: torch.device) -> dict[str, Tensor]:
    """What an objective remembered in a checkpoint.

    Raises:
        CheckpointError: it is not there, or cannot be read.
    """
    file = _remembered(path, name)
    if not file.is_file():
        raise CheckpointError(f"{path} holds nothing of {name}: was the run's recipe another one?")
    try:
        return load_file(file, device=str(device))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from error


def _remembered(folder: Path, name: str) -> Path:
    return folder / "objectives" / f"{name}.safetensors"


def read_state(path: Path) -> State:
    """The state of a checkpoint."""
    return State(**json.loads((path / STATE).read_text()))


def abandon(run_folder: Path, *, after: int) -> list[Path]:
    """Put aside the checkpoints and exports of later steps than a run goes on from; nothing takes them up again.

    Else the newest of them would be kept in place of what is written from here on, and be gone on from at the next
    start. Of an earlier going back, those of the same step make room.

    Returns:
        Where they are now: abandoned_step_00001200 and so on.
    """
    aside = []
    for path in sorted((*run_folder.glob("checkpoints/step_*"), *run_folder.glob("hf/step_*"))):
        if int(path.name.removeprefix("step_")) > after:
            aside.append(path.with_name(f"abandoned_{path.name}"))
            shutil.rmtree(aside[-1], ignore_errors=True)
            path.rename(aside[-1])
    return aside


def prune(folder: Path, *, table: Save) -> None:
    """Remove the checkpoints that nobody asked to keep: not among the newest, not a kept step, not the best."""
    found = complete_folders(folder)
    scores = {path: read_state(path).score for path in found} if table.keep_best else {}
    scored = [path for path, score in scores.items() if score is not None]
    best = min(scored, key=lambda path: scores[path]) if scored else None  # type: ignore[arg-type, return-value]
    for path in found[table.keep_last :]:
        every = table.keep_every_steps
        if path != best and not (every and int(path.name.removeprefix("step_")) % every == 0):
            shutil.rmtree(path)


def _try(work: Any) -> str | None:
    """Why it failed, or None. torch and safetensors turn a failed write into errors of their own."""
    try:
        work()
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return f"the disk is full ({error})" if full else str(error)
    except (RuntimeError, SafetensorError) as error:
        return str(error)
    return None


def _to_disk(file: Path) -> tuple[int, int]:
    """Force a file to the disk itself; its size and CRC-32."""
    with open(file, "rb") as written:
        os.fsync(written.fileno())
    return file.stat().st_size, _crc32(file)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _crc32(file: Path) -> int:
    checksum = 0
    with open(file, "rb") as source:
        while block := source.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _check_room(folder: Path) -> None:
    """Fail before the first byte when the last checkpoint would not fit again."""
    before = complete_folders(folder)
    if not before:
        return
    needed = sum(file.stat().st_size for file in before[0].rglob("*") if file.is_file())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed / 2**30:.2f} GiB are needed and {free / 2**30:.2f} GiB are free")


def _rng_state() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state(), "cuda": cuda}


def _set_rng_state(saved: dict[str, Any]) -> None:
    random.setstate(saved["python"])
    np.random.set_state(saved["numpy"])
    torch.set_rng_state(saved["torch"])
    if saved["cuda"] is not None:
        torch.cuda.set_rng_state(saved["cuda"])
