"""What `unibert slurm` can be told. Each field says which `#SBATCH` line or which setting of the script it becomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from unibert.errors import ConfigError

Action = Literal["submit", "status", "tail", "stop", "cancel", "tensorboard"]
ACTIONS = ("status", "tail", "stop", "cancel", "tensorboard")


@dataclass(frozen=True)
class Options:
    """The flags, with the recipe."""

    what: Annotated[tuple[str, ...], tyro.conf.Positional]
    """A recipe's name or the path of a TOML file; before it may stand status, tail, stop, cancel or tensorboard."""
    nodes: int = 1
    """Nodes of the training."""
    tasks_per_node: int | None = None
    """Ranks on a node, a device each; as many as --gpus-per-node when absent, or one."""
    gpus_per_node: int | None = None
    """GPUs on a node of the training; none are asked for when absent."""
    cpus_per_task: int | None = None
    """Cores of a rank, and of a job that prepares data; the file's own when absent."""
    time: str | None = None
    """Time limit of each job, as in 12:00:00; the file's own when absent."""
    partition: str | None = None
    """Partition; env.sh's or the cluster's own when absent."""
    cpu_partition: str | None = None
    """Partition of what needs no GPU (data, export, TensorBoard), when it is another."""
    account: str | None = None
    """Account that is charged."""
    qos: str | None = None
    """Quality of service."""
    sbatch: tuple[str, ...] = ()
    """More options of sbatch for each job, without their dashes, as in mem=64G exclude=node7."""
    stages: str = "train"
    """What to run one after the other, with commas between: some of teacher-fetch, data, teacher-trim, pairs,
    cache-teacher, train, evaluate, export."""
    members: int = 4
    """Jobs that share data or cache-teacher, as an array."""
    after: str | None = None
    """Job that has to end well before the first stage begins."""
    chain: int | None = None
    """Where requeueing is not allowed: so many jobs for the training, one after the other."""
    launcher: Literal["srun", "deepspeed"] = "srun"
    """Who starts the ranks: srun itself, or DeepSpeed's launcher, once on each node."""
    container: str | None = None
    """Image in which everything runs, where the cluster has pyxis."""
    mounts: str = ""
    """More folders of the container, HOST:INSIDE with commas between; the checkout, data and runs are there anyhow."""
    submit: bool = False
    """Submit; without it the script is printed and checked."""
    rank: int | None = None
    """Of tail: this rank's own log instead of the job's."""
    lines: int = 40
    """Of tail: how many."""
    follow: bool = False
    """Of tail: go on as the log grows."""

    @property
    def action(self) -> Action:
        """What is wanted.

        Raises:
            ConfigError: neither RECIPE nor ACTION RECIPE.
        """
        if len(self.what) == 1:
            return "submit"
        for action in ACTIONS:
            if len(self.what) == 2 and self.what[0] == action:
                return action
        raise ConfigError(f"unibert slurm {' '.join(self.what)}: say RECIPE, or {', '.join(ACTIONS)} and then RECIPE")

    @property
    def recipe(self) -> str:
        """The recipe's name or path."""
        return self.what[-1]

    @property
    def ranks_per_node(self) -> int:
        """Ranks of the training on a node."""
        return self.tasks_per_node or self.gpus_per_node or 1

    @property
    def world(self) -> int:
        """Ranks of the training."""
        return self.nodes * self.ranks_per_node

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            ConfigError: a number below 1, or more ranks than GPUs on a node.
        """
        for name in ("nodes", "tasks_per_node", "gpus_per_node", "cpus_per_task", "members", "chain"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} {value}: at least 1")
        if self.gpus_per_node and self.ranks_per_node > self.gpus_per_node:
            raise ConfigError(
                f"--tasks-per-node {self.ranks_per_node} on --gpus-per-node {self.gpus_per_node}: a rank needs a GPU "
                "of its own"
            )
        if self.mounts and not self.container:
            raise ConfigError("--mounts is of a --container: name its image")
