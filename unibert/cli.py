"""The command line: `unibert COMMAND RECIPE [--table.field value ...]`.

Every command is a dataclass that tyro turns into flags; what tyro does not know are the recipe's own
fields, which config.py checks. Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import tyro

from unibert import __version__
from unibert.commands import Entities, Evaluate, Preflight, ReportCommand, no_overrides
from unibert.config import field_help, load_recipe, parallel_help, source_help
from unibert.errors import INTERRUPTED, ConfigError, UnibertError
from unibert.slurm.command import Slurm

RecipeName = Annotated[str, tyro.conf.Positional]


@dataclass(frozen=True)
class Doctor:
    """Say what of this machine is fine, what is missing, and how to mend it."""

    def run(self, overrides: Sequence[str]) -> None:
        no_overrides(overrides)
        from unibert import doctor

        report = doctor.run()
        report.show()
        sys.exit(report.exit_code)


@dataclass(frozen=True)
class DataCommand:
    """Prepare text: fetch, parallel, clean, dedup and tokenize in this order, then pairs; check or inspect the result.

    Each stage is shared out to processes; under mpirun to the ranks, in a SLURM array to its members. A stage that was
    cut off goes on where it was, and the result is the same bytes however many did the work.
    """

    stage: Annotated[
        Literal["fetch", "parallel", "clean", "dedup", "tokenize", "pairs", "check", "inspect"], tyro.conf.Positional
    ]
    """What to do."""
    recipe: RecipeName
    """A recipe's name, or the path of a TOML file."""
    force: bool = False
    """Do it again although it is finished."""
    workers: int | None = None
    """Processes; as many as there are cores when absent."""

    def run(self, overrides: Sequence[str]) -> None:
        recipe = load_recipe(self.recipe, overrides)
        if self.stage == "inspect":
            from unibert.data import inspect, report

            inspect.show(recipe)
            page, *charts = report.write(recipe)
            print(f"\nper language, in a browser: {page} (charts: {charts[0].parent})")
            return
        from importlib import import_module

        module = {"clean": "cleaning", "tokenize": "tokenizing", "pairs": "pairing"}.get(self.stage, self.stage)
        from unibert.data.work import crew, sweep

        with crew(self.workers) as those:
            if those is not None:  # a rank that serves the first one is done when that is
                if those.claims is None:
                    sweep(recipe.data.folder)
                import_module(f"unibert.data.{module}").run(recipe, force=self.force, crew=those)


@dataclass(frozen=True)
class TeacherCommand:
    """Get the frozen teacher: fetch it, then trim its vocabulary to the recipe's tokenizer."""

    stage: Annotated[Literal["fetch", "trim"], tyro.conf.Positional]
    """What to do."""
    recipe: RecipeName
    """A recipe's name, or the path of a TOML file."""
    force: bool = False
    """Do it again although it is finished."""

    def run(self, overrides: Sequence[str]) -> None:
        recipe = load_recipe(self.recipe, overrides)
        if self.stage == "fetch":
            from unibert.models import e5

            e5.fetch(recipe, force=self.force)
        else:
            from unibert.models import vocabulary

            vocabulary.trim(recipe, force=self.force)


@dataclass(frozen=True)
class CacheTeacher:
    """Let the teacher read the run's text once and write what it says, for teacher.kind = cached.

    It is shared out and goes on as the stages of `unibert data` do: by processes, under mpirun, or in a SLURM array.
    """

    recipe: RecipeName
    """A recipe's name, or the path of a TOML file."""
    force: bool = False
    """Do it again although it is finished."""
    workers: int | None = None
    """Processes; as many as there are GPUs when absent, or one."""

    def run(self, overrides: Sequence[str]) -> None:
        recipe = load_recipe(self.recipe, overrides)
        from unibert import cache_teacher
        from unibert.data.work import crew

        with crew(self.workers or cache_teacher.default_workers()) as those:
            if those is not None:
                cache_teacher.run(recipe, force=self.force, crew=those)


@dataclass(frozen=True)
class ServeTeacher:
    """Serve the teacher to the ranks of this machine, for teacher.kind = served; runs until it is ended."""

    recipe: RecipeName
    """A recipe's name, or the path of a TOML file."""

    def run(self, overrides: Sequence[str]) -> None:
        recipe = load_recipe(self.recipe, overrides)
        from unibert.models.teacher import serve_teacher

        serve_teacher(recipe)


@dataclass(frozen=True)
class PlanCommand:
    """Print what a run would be: batches, steps, tokens, memory per rank, share per language."""

    recipe: RecipeName
    """A recipe's name, or the path of a TOML file."""
    world: int | None = None
    """Ranks; 1 when absent, or with --measure those that it was started on."""
    measure: bool = False
    """Also train a few steps under each ZeRO stage, two minutes in all, and say which to take; starts like train."""

    def run(self, overrides: Sequence[str]) -> None:
        recipe = load_recipe(self.recipe, overrides)
        from unibert.plan import make_plan
        from unibert.runtime import dist, dsconfig

        ranks = dist.ranks_from_environment() if self.measure else None
        world = self.world or (ranks.world if ranks else 1)
        if ranks and world != ranks.world:
            raise ConfigError(f"--measure on {ranks.world} rank(s) cannot stand for --world {world}: leave --world out")
        engine = dsconfig.load(recipe.engines.student, owned=dsconfig.owned_by_recipe(recipe, world=world))
        plan = make_plan(recipe, world=world, student_engine=engine)
        if ranks is None or ranks.is_first:
            print(plan.text(), flush=True)
        if ranks is not None:
            from unibert.measure import measure

            measure(recipe)


@dataclass(frozen=True)
class Train:
    """Start or continue a run; the same command does both, by itself or under deepspeed, torchrun, mpirun or srun."""

    recipe: RecipeName
    """A recipe's name, or the path of a TOML file."""
    resume: str = "auto"
    """auto: go on from the newest sound checkpoint if there is one; must: fail if there is none; never: put what is
    there aside and start over; or the path of a checkpoint."""

    def run(self, overrides: Sequence[str]) -> None:
        from unibert.runtime.stop import remember_signals

        if "SLURM_STEP_ID" in os.environ:  # it signals whom it pre-empts, the ranks that have not begun too
            remember_signals()
        recipe = load_recipe(self.recipe, overrides)
        from unibert.trainer import train

        train(recipe, resume=self.resume)


@dataclass(frozen=True)
class Export:
    """Write the Hugging Face folder of a checkpoint."""

    run_folder: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    step: int | None = None
    """The checkpoint's step; the newest when absent."""

    def run(self, overrides: Sequence[str]) -> None:
        no_overrides(overrides)
        from unibert.export import export_run

        print(export_run(self.run_folder, step=self.step))


@dataclass(frozen=True)
class Summary:
    """Say where everything of a run is, how to watch it and how to load the model."""

    recipe: RecipeName
    """A recipe's name, or the path of a TOML file."""

    def run(self, overrides: Sequence[str]) -> None:
        from unibert.summary import show

        show(load_recipe(self.recipe, overrides))


@dataclass(frozen=True)
class Fields:
    """List every field of a recipe: what it means, and its default."""

    def run(self, overrides: Sequence[str]) -> None:
        no_overrides(overrides)
        for key, default, text in field_help():
            print(f"--{key}  [{default}]\n    {text}")
        for kind, key, default, text in source_help():
            print(f"[[data.sources]] {kind}: {key}  [{default}]\n    {text}")
        for kind, key, default, text in parallel_help():
            print(f"[[data.parallel]] {kind}: {key}  [{default}]\n    {text}")


COMMANDS: dict[str, type[Any]] = {
    "doctor": Doctor,
    "data": DataCommand,
    "teacher": TeacherCommand,
    "cache-teacher": CacheTeacher,
    "serve-teacher": ServeTeacher,
    "plan": PlanCommand,
    "train": Train,
    "preflight": Preflight,
    "evaluate": Evaluate,
    "report": ReportCommand,
    "export": Export,
    "entities": Entities,
    "slurm": Slurm,
    "summary": Summary,
    "fields": Fields,
}


def parse(arguments: Sequence[str]) -> tuple[Any, list[str]]:
    """(command, the recipe's overrides) of a command line.

    Raises:
        SystemExit: with code 2, after saying what is wrong; or 0 after --help.
    """
    words = [word for word in arguments if not word.startswith("--local_rank")]  # the deepspeed launcher's
    if words[:1] == ["--version"]:
        print(__version__)
        sys.exit(0)
    commands = Union[tuple(Annotated[kind, tyro.conf.subcommand(name)] for name, kind in COMMANDS.items())]  # noqa: UP007
    return tyro.cli(
        commands,  # type: ignore[arg-type]
        prog="unibert",
        args=words,
        return_unknown_args=True,
        description="Train compact encoders whose representations are universal across languages.",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; a user's error is printed without a traceback and leaves with its own exit code."""
    try:
        command, overrides = parse(sys.argv[1:] if arguments is None else arguments)
        command.run(overrides)
    except UnibertError as error:
        print(f"unibert: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("unibert: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
