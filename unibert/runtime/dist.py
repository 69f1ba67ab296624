"""Ranks: whichever launcher started this process, the same five variables, checked, then DeepSpeed.

DeepSpeed reads RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, and nothing of SLURM's; under
`srun` without them every process would silently train alone. So they are mapped here first.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import warnings
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

from unibert.errors import MachineError, UnibertError

# (launcher, rank, world, local rank) in the order in which they are believed.
LAUNCHERS = (
    ("torch or deepspeed", "RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("OpenMPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("PMI", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    ("SLURM", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
)


@dataclass(frozen=True)
class Ranks:
    """Where this process stands."""

    rank: int
    world: int
    local_rank: int
    local_world: int
    launcher: str

    @property
    def is_first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0


def ranks_from_environment(environ: dict[str, str] | None = None) -> Ranks:
    """Read the launcher's variables; one process alone when there are none.

    Raises:
        MachineError: a rank outside its world, or only half of a launcher's variables.
    """
    env = os.environ if environ is None else environ
    for launcher, rank_name, world_name, local_name in LAUNCHERS:
        # A SLURM batch shell has SLURM_PROCID too; only a step started by srun is a rank.
        if launcher == "SLURM" and "SLURM_STEP_ID" not in env:
            continue
        if rank_name in env and world_name in env:
            rank, world = int(env[rank_name]), int(env[world_name])
            if not 0 <= rank < world:
                raise MachineError(f"{rank_name}={rank} is outside {world_name}={world}: check the launcher")
            return Ranks(rank, world, int(env.get(local_name, "0")), _local_world(env, world), launcher)
        if rank_name in env and launcher != "SLURM":
            raise MachineError(f"{rank_name} is set without {world_name}: start by deepspeed, torchrun, mpirun or srun")
    return Ranks(0, 1, 0, 1, "alone")


def _local_world(env: Any, world: int) -> int:
    for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"):
        if name in env:
            return int(env[name])
    tasks = re.match(r"\d+", env.get("SLURM_STEP_TASKS_PER_NODE", ""))
    return int(tasks.group()) if tasks else world


def export_variables(ranks: Ranks) -> None:
    """Set the five variables from what the launcher gave, leaving those that it set alone."""
    env = os.environ
    env.setdefault("RANK", str(ranks.rank))
    env.setdefault("WORLD_SIZE", str(ranks.world))
    env.setdefault("LOCAL_RANK", str(ranks.local_rank))
    env.setdefault("MASTER_ADDR", master_address(ranks))
    env.setdefault("MASTER_PORT", str(master_port(ranks)))


def master_address(ranks: Ranks) -> str:
    """Where the ranks meet: the first node.

    Raises:
        MachineError: nobody says which one that is.
    """
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST")
    if ranks.local_world == ranks.world:
        return "127.0.0.1"
    if not nodes:
        raise MachineError(f"{ranks.launcher} started ranks on several nodes: set MASTER_ADDR to the first one's name")
    try:
        names = subprocess.run(
            ["scontrol", "show", "hostnames", nodes], check=True, capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise MachineError(f"cannot expand SLURM's node list {nodes!r}: {error}; set MASTER_ADDR yourself") from None
    return names.stdout.split()[0]


def master_port(ranks: Ranks) -> int:
    """The port there: a free one for a rank alone; else another one for each job and restart, the same on all ranks."""
    if ranks.world == 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]
    job = os.environ.get("SLURM_JOB_ID") or str(os.getppid())  # all ranks of one mpirun share their parent
    restart = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    return 20000 + (int(job) + 1009 * restart) % 10000


def start(*, threads: int | None = None, timeout_minutes: float = 30.0) -> Ranks:
    """Join the process group through DeepSpeed and set this rank's device and threads."""
    ranks = ranks_from_environment()
    export_variables(ranks)
    import torch

    cores = len(os.sched_getaffinity(0))  # what SLURM or taskset gives this process, not what the machine has

    torch.set_num_threads(threads or max(1, cores // ranks.local_world))
    if torch.cuda.is_available():
        torch.cuda.set_device(ranks.local_rank)
    else:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    # DeepSpeed's calls, which torch would report at every step.
    warnings.filterwarnings("ignore", ".*(all_gather_into_tensor|reduce_scatter_tensor).*", FutureWarning)
    accelerator: Any = get_accelerator()
    if accelerator.device_name() == "cpu":
        # Only tensor-parallel inference uses this operator; building it costs a compiler and a minute.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(
        dist_backend=accelerator.communication_backend_name(),
        timeout=timedelta(minutes=timeout_minutes),
        verbose=False,
        auto_mpi_discovery=False,
    )
    if torch.distributed.get_world_size() != ranks.world:
        raise MachineError(f"{ranks.launcher} promised {ranks.world} ranks, the group has another number")
    return ranks


def device() -> Any:
    """This rank's torch device."""
    import torch

    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def everyone_says(value: Any) -> list[Any]:
    """Every rank's value (anything that pickles), by rank."""
    import torch.distributed as group

    if not (group.is_available() and group.is_initialized()) or group.get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * group.get_world_size()
    group.all_gather_object(values, value)
    return values


def refuse_differences(facts: dict[str, str]) -> None:
    """Raise on every rank when ranks do not agree on what they are about to do.

    Raises:
        MachineError: nodes see different recipes, data or code.
    """
    for name, *values in zip(facts, *(said.values() for said in everyone_says(facts)), strict=True):
        different = [rank for rank, value in enumerate(values) if value != values[0]]
        if different:
            raise MachineError(
                f"rank {different[0]} has another {name} than rank 0 ({values[different[0]]} and {values[0]}): all "
                "nodes must see the same files and the same command"
            )


def fail_together(failure: Exception | None) -> NoReturn:
    """Raise the first rank's error on every rank."""
    rank, (kind, words) = next((r, what) for r, what in enumerate(everyone_says(_told(failure))) if what)
    if failure is not None and not isinstance(failure, UnibertError):
        raise failure
    raise (kind if issubclass(kind, UnibertError) else UnibertError)(f"on rank {rank}: {words}") from failure


def _told(failure: Exception | None) -> tuple[type[Exception], str] | None:
    return None if failure is None else (type(failure), str(failure))


def stop() -> None:
    """Leave the process group, if this process is in one."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
