"""The stages of a run as jobs: which file of launch_slurm/ each is, what it asks for, and its command.

teacher-fetch -> data (an array) -> teacher-trim -> pairs -> cache-teacher (an array) -> train -> evaluate -> export
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unibert.config import Recipe
from unibert.errors import ConfigError
from unibert.slurm import script
from unibert.slurm.options import Options


@dataclass(frozen=True)
class Stage:
    """A kind of job. `words` are the command of stage.sbatch; none where the file knows its own."""

    file: str
    words: tuple[str, ...] = ()
    gpus: Literal["none", "one", "all"] = "none"
    """Of --gpus-per-node."""
    array: bool = False
    """Whether many can share it."""


STAGES: dict[str, Stage] = {
    "teacher-fetch": Stage("stage.sbatch", ("teacher", "fetch")),
    "data": Stage("data.sbatch", array=True),
    "teacher-trim": Stage("stage.sbatch", ("teacher", "trim")),
    "pairs": Stage("stage.sbatch", ("data", "pairs")),
    "cache-teacher": Stage("stage.sbatch", ("cache-teacher",), gpus="all", array=True),
    "train": Stage("train.sbatch", gpus="all"),
    "evaluate": Stage("stage.sbatch", ("evaluate",), gpus="one"),
    "export": Stage("stage.sbatch", ("export",)),
}
TENSORBOARD = Stage("tensorboard.sbatch")


@dataclass(frozen=True)
class Job:
    """A script that is ready to be submitted."""

    stage: str
    text: str
    path: Path
    log: str
    """Its output, with sbatch's %j, or %A and %a in an array."""
    members: int
    """Of its array; 0 when it is none."""
    given: frozenset[str]
    """Names of the options that were filled in."""


def stages_of(options: Options) -> list[str]:
    """The names in --stages.

    Raises:
        ConfigError: an unknown one, or one twice.
    """
    names = [name.strip() for name in options.stages.split(",") if name.strip()]
    unknown = [name for name in names if name not in STAGES]
    if unknown or not names:
        raise ConfigError(f"--stages {options.stages}: what is {unknown or 'it'}? There are {', '.join(STAGES)}")
    if len(set(names)) < len(names):
        raise ConfigError(f"--stages {options.stages}: a stage is there twice")
    return names


def folder_of(recipe: Recipe) -> Path:
    """Where a run's scripts, its jobs' logs and their numbers are kept."""
    return recipe.run_folder / "slurm"


def job_of(name: str, *, recipe: Recipe, options: Options, overrides: Sequence[str]) -> Job:
    """The job of a stage, or of "tensorboard"."""
    stage = TENSORBOARD if name == "tensorboard" else STAGES[name]
    words = [str(recipe.run_folder)] if name in ("export", "tensorboard") else [options.recipe, *overrides]
    chain = options.chain or 0 if name == "train" else 0
    members = options.members if stage.array and options.members > 1 else chain
    folder = folder_of(recipe)
    log = f"{folder}/{name}-{'%A_%a' if members else '%j'}.out"
    given = {"job-name": f"{recipe.name}-{name}", "output": log, **_asked(name, stage, options)}
    given |= {key: value for key, _, value in (word.partition("=") for word in options.sbatch)}
    if members:
        given["array"] = f"1-{chain}%1" if chain else f"0-{members - 1}"
    elif stage.array:
        given["array"] = None
    if chain:
        given |= {"requeue": None, "no-requeue": ""}
    text = script.filled(
        script.read(stage.file),
        options=given,
        settings=_settings(name, recipe=recipe, options=options),
        words=[*stage.words, *words],
        command=_command(options, overrides),
    )
    named = frozenset(key for key, value in given.items() if value is not None)
    return Job(name, text, folder / f"{name}.sbatch", log, members, named)


def _asked(name: str, stage: Stage, options: Options) -> dict[str, str | None]:
    """sbatch's options from ours."""
    gpus = {"none": None, "one": options.gpus_per_node and 1, "all": options.gpus_per_node}[stage.gpus]
    partition = options.partition
    if stage.gpus == "none" and options.cpu_partition:
        partition = options.cpu_partition
    asked = {"gpus-per-node": gpus, "partition": partition, "account": options.account, "qos": options.qos}
    asked |= {"time": options.time, "cpus-per-task": options.cpus_per_task}
    if name == "train":
        asked |= {"nodes": options.nodes, "ntasks-per-node": options.ranks_per_node}
    return {key: str(value) for key, value in asked.items() if value is not None}


def _settings(name: str, *, recipe: Recipe, options: Options) -> dict[str, str]:
    """Environment variables that the file reads."""
    settings = {}
    if name == "train" and options.chain:
        settings["UNIBERT_CHAIN"] = "1"
    if name == "train" and options.launcher == "deepspeed":
        settings["UNIBERT_LAUNCHER"] = "deepspeed"
    if options.container:
        settings["UNIBERT_SRUN"] = container_words(options, recipe=recipe)
    return settings


def container_words(options: Options, *, recipe: Recipe) -> str:
    """Options of srun for pyxis: the checkout, the data and the runs are inside where they are outside.

    Raises:
        ConfigError: a name with a space, which the script would split.
    """
    needed: list[Path] = []
    for folder in (Path.cwd(), recipe.run_folder.parent.absolute(), recipe.data.folder.absolute()):
        if not any(folder.is_relative_to(there) for there in needed):
            needed.append(folder)
    mounts = [*(f"{folder}:{folder}" for folder in needed), *filter(None, options.mounts.split(","))]
    words = [f"--container-image={options.container}", f"--container-mounts={','.join(mounts)}"]
    words += [f"--container-workdir={Path.cwd()}", "--no-container-mount-home"]
    if spaced := [word for word in words if re.search(r"\s", word)]:
        raise ConfigError(f"a container's options cannot have spaces in them: {spaced[0]}")
    return " ".join(words)


def _command(options: Options, overrides: Sequence[str]) -> str:
    """What the user may have typed, for the head of the script."""
    words = ["unibert", "slurm", *options.what]
    defaults = Options(what=())
    for name, value in vars(options).items():
        if name in ("what", "submit") or value == getattr(defaults, name):
            continue
        words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else (value,))]
    return shlex.join([*words, *overrides])
