"""The commands about finished models, and what commands share. The others, and the dispatch, are in cli.py."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from unibert.config import load_recipe
from unibert.errors import ConfigError, MachineError


def no_overrides(words: Sequence[str]) -> None:
    """Refuse words that would set a recipe's fields."""
    if words:
        raise ConfigError(f"this command has no recipe, so what is {' '.join(words)!r}?")


def _at_least(least: int, **options: int | None) -> None:
    """Refuse options' numbers with which nothing would be measured."""
    for name, value in options.items():
        if value is not None and value < least:
            raise ConfigError(f"--{name.replace('_', '-')} {value}: must be {least} or more")


def _refuse_place(option: str, path: Path, *, kind: Literal["file", "folder"]) -> None:
    """Refuse to write where a folder is in a file's place, or a file in a folder's."""
    if kind == "file" and path.is_dir():
        raise ConfigError(f"{option} {path}: it is a folder: name a file, as in {path / 'results.jsonl'}")
    for folder in ([path] if kind == "folder" else []) + list(path.parents):
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{option} {path}: {folder} is a file: name another {kind}")


@dataclass(frozen=True)
class Entities:
    """Write a model that has entities among its tokens, their vectors mapped to its word pieces (E-BERT)."""

    model: Annotated[Path, tyro.conf.Positional]
    """Hugging Face folder, or run folder whose newest export is meant."""
    vectors: Annotated[Path, tyro.conf.Positional]
    """Of words and entities in one space, word2vec's text format; entities begin with ENTITY/, as in Wikipedia2Vec."""
    output: Annotated[Path, tyro.conf.Positional]
    """Folder written to; AutoModel and AutoTokenizer load it."""
    mode: Literal["replace", "concat", "average"] = "replace"
    """Where an entity's name stands in a text: its token instead of the name; its token, a slash and the name; or its
    token with the mean of its vector and of its name's pieces."""
    only: Path | None = None
    """File with the names of the entities that are wanted, a line each; all when absent."""
    ridge: float = 0.0
    """Penalty on the map, as 1.0 for vectors of little text; the paper has none."""

    def run(self, overrides: Sequence[str]) -> None:
        no_overrides(overrides)
        from unibert.models.entity_model import write_with_entities

        write_with_entities(
            self.model, vectors=self.vectors, output=self.output, mode=self.mode, only=self.only, ridge=self.ridge
        )


@dataclass(frozen=True)
class Preflight:
    """Look at the nodes of a SLURM job before its ranks start; launch_slurm/preflight.sh calls it, a task a node.

    look: a node by itself; meet: the nodes together. Both print a line of JSON. judge_look and judge_meet read the
    lines of all nodes, and write the bad ones to bad_nodes beside the file, one a line with the reason.
    """

    stage: Annotated[Literal["look", "judge_look", "meet", "judge_meet"], tyro.conf.Positional]
    """What to do."""
    recipe: Annotated[str, tyro.conf.Positional]
    """A recipe's name, or the path of a TOML file."""
    answers: Path = Path("answers")
    """The file with what all nodes said."""
    nodes: tuple[str, ...] = ()
    """The nodes that should have said something, the first one first."""

    def run(self, overrides: Sequence[str]) -> None:
        recipe = load_recipe(self.recipe, overrides)
        if self.stage == "look":
            from unibert.preflight.look import look

            _say(look(recipe))
        elif self.stage == "meet":
            from unibert.preflight.meet import meet

            meet(_say)
        else:
            self._judge(self.stage.removeprefix("judge_"))

    def _judge(self, stage: str) -> None:
        from unibert.preflight.judge import judge, read_answers

        verdict = judge(read_answers(self.answers), self.nodes, stage=stage)
        lines = [f"{node} {why}\n" for node, why in verdict.bad.items()]
        self.answers.with_name("bad_nodes").write_text("".join(lines), encoding="utf-8")
        if verdict.unclear:
            raise MachineError(f"preflight: {verdict.unclear}")
        print("".join(f"bad node {line}" for line in lines) or verdict.facts, flush=True)


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a RECIPE's run on held-out text and write its report/; or, with --tasks, MODELs on labelled tasks.

    With --tasks each (model, task, language, seed) becomes a row of a results file, which `unibert report` shows. What
    is there is not measured again: stop it whenever you like, and run it again with other models or tasks.
    """

    what: Annotated[tuple[str, ...], tyro.conf.Positional]
    """A recipe's name or the path of a TOML file; with --tasks: Hugging Face folders, run folders or names on the hub,
    NAME=PATH to choose what one is called."""
    force: bool = False
    """Measure again what has been measured."""
    remove_language: int | None = None
    """Also measure embeddings without so many directions of each language (LIR's rank, as 1): retrieval and probe of a
    recipe; with --tasks sts (untuned), retrieval, word_translation and language_probe."""
    tasks: str = ""
    """Some of ner, nli, qa, conversational_qa, sts, retrieval, language_probe, masked, word_translation, with commas
    between."""
    data: Path = Path("data/evaluation")
    """Folder of labelled files: a folder below it for each set (ner, xnli, xquad, stsb, tatoeba, ...)."""
    results: Path = Path("results.jsonl")
    """The results file, begun or continued."""
    seeds: int = 3
    """Seeds of fine-tuning."""
    source: str = "en"
    """Language that is trained on."""
    mode: Literal["zero-shot", "translate-train", "code-switch", "distil"] = "zero-shot"
    """What is trained on: the source language; all that have training files; both parts of an example in two; or what
    a teacher says of text without labels."""
    task_teacher: str = ""
    """The model that is fine-tuned and teaches in mode distil."""
    rates: tuple[float, ...] = (2e-5, 5e-5)
    """Learning rates; of several the best on the source's dev set."""
    dev: Literal["source", "joint"] = "source"
    """Whose dev sets choose the rate: the source's, or those of all languages that have one (said in the report)."""
    epochs: int = 3
    """Passes over the training examples."""
    batch: int = 32
    """Examples a step."""
    max_tokens: int = 256
    """Longest row; longer contexts are read in windows."""
    limit: int | None = None
    """Most examples of each language and split."""
    train_limit: int | None = None
    """Most examples of each language that are trained on, when not `limit`."""
    prefix: str = ""
    """What stands before every text that is embedded as it is, such as "query: " for e5."""
    split_source: bool = False
    """Cut the source's labelled examples into train, dev and test where a task has no training file."""

    @property
    def recipe(self) -> str | None:
        """The recipe, when it is about one."""
        return None if self.tasks or len(self.what) != 1 else self.what[0]

    def run(self, overrides: Sequence[str]) -> None:
        if self.tasks:
            self._judge(overrides)
        elif self.recipe is None:
            raise ConfigError("several models need --tasks: say on which, as in --tasks ner,nli")
        else:
            recipe = load_recipe(self.recipe, overrides)
            from unibert.evaluate import run

            run(recipe, force=self.force, remove_language=self.remove_language)

    def _judge(self, overrides: Sequence[str]) -> None:
        no_overrides(overrides)
        tasks = self._checked()
        from unibert.evaluate.finetune.run import judge, settings_of

        settings = settings_of(
            source=self.source,
            mode=self.mode,
            task_teacher=self.task_teacher,
            learning_rates=self.rates,
            dev=self.dev,
            epochs=self.epochs,
            batch=self.batch,
            max_tokens=self.max_tokens,
            limit=self.limit,
            train_limit=self.train_limit,
            split_source=self.split_source,
            remove_language=self.remove_language,
            prefix=self.prefix,
        )
        judge(self.what, tasks, self.data, self.results, seeds=self.seeds, settings=settings, force=self.force)

    def _checked(self) -> list[str]:
        """The tasks' names, when every option can be; nothing has been read then.

        Raises:
            ConfigError: an option that cannot be.
        """
        if not self.what:
            raise ConfigError("name at least one model")
        _at_least(1, seeds=self.seeds, epochs=self.epochs, batch=self.batch, limit=self.limit)
        _at_least(1, train_limit=self.train_limit, remove_language=self.remove_language)
        _at_least(16, max_tokens=self.max_tokens)
        if not self.rates or not all(math.isfinite(rate) and rate > 0 for rate in self.rates):
            said = " ".join(f"{rate:g}" for rate in self.rates) or "without a number"
            raise ConfigError(f"--rates {said}: name learning rates above 0, as in --rates 2e-5 5e-5")
        if (self.mode == "distil") != bool(self.task_teacher):
            raise ConfigError("--mode distil and --task-teacher MODEL go together: name both or neither")
        _refuse_place("--results", self.results, kind="file")
        from unibert.evaluate.finetune.subject import parted
        from unibert.evaluate.tasks import TASKS

        tasks = [name.strip() for name in self.tasks.split(",")]
        if unknown := [name or "nothing" for name in tasks if name not in TASKS]:
            raise ConfigError(f"--tasks {self.tasks}: {', '.join(unknown)} is no task: name some of {', '.join(TASKS)}")
        names = [parted(word)[0] for word in self.what]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"two models are called {', '.join(twice)}: name them, as in first=PATH")
        return tasks


@dataclass(frozen=True)
class ReportCommand:
    """Join results files into one page: tables, charts, and what is significant (Markdown, JSON, LaTeX, PNG)."""

    results: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Results files of `unibert evaluate MODEL... --tasks ...`."""
    out: Path = Path("report")
    """Folder to write."""
    reference: str | None = None
    """The model that improvements are relative to."""
    ours: tuple[str, ...] = ()
    """Models that are compared, as a group, with the others."""
    resamples: int = 1000
    """Of each bootstrap."""
    tensorboard: bool = False
    """Also write the scores as TensorBoard scalars, into OUT/tb."""
    cards: tuple[str, ...] = ()
    """NAME=FOLDER of models whose cards (README.md) are told their scores, in the hub's model-index."""

    def run(self, overrides: Sequence[str]) -> None:
        no_overrides(overrides)
        if not self.results:
            raise ConfigError("name at least one results file")
        _at_least(1, resamples=self.resamples)
        _refuse_place("--out", self.out, kind="folder")
        if self.ours and not self.reference:
            raise ConfigError(
                "--ours needs --reference MODEL: groups are compared by their improvements over that model"
            )
        from unibert.evaluate.compare.report import write_report

        write_report(
            self.results,
            self.out,
            reference=self.reference,
            ours=self.ours,
            resamples=self.resamples,
            tensorboard=self.tensorboard,
            cards=self.cards,
        )
