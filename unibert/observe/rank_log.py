"""logs/<job>/rank_NNNNN.log: what every rank says, each in its own file."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

LOGGERS = ("unibert", "DeepSpeed")


def job_name() -> str:
    """A name for this start of the run, the same on every rank.

    SLURM's job id (and which restart it is), or else rank 0's clock, told to the others where there is a
    process group. Call it on every rank, after the group exists.
    """
    if job := os.environ.get("SLURM_JOB_ID"):
        restart = os.environ.get("SLURM_RESTART_COUNT", "0")
        return f"slurm_{job}" if restart == "0" else f"slurm_{job}_restart_{restart}"
    import torch.distributed as dist

    name = [time.strftime("%Y%m%d_%H%M%S")]
    if dist.is_available() and dist.is_initialized():
        dist.broadcast_object_list(name, src=0)
    return name[0]


class RankLog:
    """Python's logging of this process, into one file, from opening to `close`."""

    def __init__(self, run_folder: Path, *, rank: int, job: str) -> None:
        self.path = run_folder / "logs" / job / f"rank_{rank:05d}.log"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._handler = logging.FileHandler(self.path, encoding="utf-8")
        self._handler.setFormatter(
            logging.Formatter(f"%(asctime)s rank={rank} %(levelname)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S")
        )
        self._levels = {name: logging.getLogger(name).level for name in LOGGERS}
        for name in LOGGERS:
            logging.getLogger(name).addHandler(self._handler)
        logging.getLogger("unibert").setLevel(logging.INFO)

    def close(self) -> None:
        """Take the file off the loggers and close it."""
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(self._handler)
            logging.getLogger(name).setLevel(self._levels[name])
        self._handler.close()
