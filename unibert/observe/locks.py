"""Locks that a killed build of a DeepSpeed operator left behind.

torch builds an operator under `$TORCH_EXTENSIONS_DIR/<operator>/lock` and waits for that file to go away
without a word or an end (torch.utils.file_baton). A build that was killed leaves it: every later run hangs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def extensions_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where torch builds operators: `$TORCH_EXTENSIONS_DIR`, or torch_extensions in the user's cache."""
    if folder := environ.get("TORCH_EXTENSIONS_DIR"):
        return Path(folder)
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch_extensions"


def stale_locks(folder: Path | None = None) -> list[Path]:
    """Lock files under the extensions folder that no live process of this machine holds open.

    A build keeps its lock file open until it removes it, so a lock that nobody has open is left over. (A
    build on another machine that shares the folder cannot be seen from here.)
    """
    root = folder or extensions_folder()
    # <root>/<operator>/lock where the variable is set, <root>/py311_cpu/<operator>/lock where it is not.
    locks = sorted([*root.glob("*/lock"), *root.glob("*/*/lock")])
    return [lock for lock in locks if not _held(lock)] if locks else []


def _held(lock: Path) -> bool:
    """Whether some process has this file open."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if link.samefile(lock):
                return True
        except OSError:  # the process ended, or is another user's
            continue
    return False
