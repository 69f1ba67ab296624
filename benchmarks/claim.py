"""UniBERT's claim in miniature: MLM, MLM+ADV, MLM+KD and MLM+ADV+KD at equal tokens and sizes, on labelled tasks.

    python -m benchmarks.claim --data FOLDER [--seeds 3] [--steps 200] [--tasks sts,ner,...] [--minutes N]

Run it where `make demo` has prepared text and teacher, with a folder of labelled sets (docs/evaluation.md). Each
variant adds tables to one recipe and nothing else, trains by the deepspeed launcher, and with one seed reads the same
text in the same order with the same masks. It can be stopped at any time (or by --minutes, exit code 75) and started
again: trainings that are done stay in the ledger, scores in results files, and neither is made twice. At the end, and
when the minutes are over, `unibert report`'s tables are written to docs/claim.md, from docs/claim.jsonl.gz, which holds
every score; --page writes them again from that file alone, and measures nothing.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from scipy import stats

from benchmarks.ablation import ADVERSARY, CHOSEN, DISTILLATION
from benchmarks.trained import Ledger, metrics, table, train
from unibert.config import RECIPES, load_recipe
from unibert.errors import Stopped
from unibert.evaluate.compare.report import write_report
from unibert.evaluate.finetune.run import judge, settings_of
from unibert.evaluate.finetune.untuned import PLAIN
from unibert.evaluate.results_file import ResultRow, read_results
from unibert.evaluate.tasks import TASKS

DOCS = Path(__file__).parent.parent / "docs"
SCORES = "claim.jsonl.gz"
BASE = "mlm_only_demo"
REFERENCE = "mlm"
VARIANTS = {
    REFERENCE: "",
    "mlm+adv": ADVERSARY.format(weight=CHOSEN),
    "mlm+kd": DISTILLATION,
    "mlm+adv+kd": ADVERSARY.format(weight=CHOSEN) + DISTILLATION,
}


@dataclass(frozen=True)
class Unit:
    """One training, or one task of a trained model."""

    variant: str
    seed: int
    task: str | None = None

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.variant}, seed {self.seed}" + (f", {self.task}" if self.task else "")


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of labelled sets")
    add("--base", default=BASE, help="recipe that the variants add to: a name or the path of a TOML file")
    add("--variants", default=",".join(VARIANTS), help="with commas between")
    add("--seeds", type=int, default=3, help="of training, from 1")
    add("--steps", type=int, default=200)
    add("--batch", type=int, default=32, help="documents a step")
    add("--languages", default="", help="codes with commas between; the recipe's when empty")
    add("--ranks", type=int, default=2, help="of the deepspeed launcher")
    add("--tasks", default="sts,ner,nli,qa,retrieval,language_probe", help="with commas between")
    add("--source", action="append", default=["ner=sw"], help="TASK=LANGUAGE that is trained on; English elsewhere")
    add("--rates", type=float, nargs="+", default=[5e-5], help="of fine-tuning")
    add("--epochs", type=int, default=3)
    add("--batch-tuned", type=int, default=32, help="examples a step of fine-tuning")
    add("--limit", type=int, default=1000, help="most labelled examples of each language and split")
    add("--train-limit", action="append", default=[], help="TASK=N: most examples trained on, when not --limit")
    add("--max-tokens", type=int, default=128, help="of a row in fine-tuning")
    add("--minutes", type=float, help="begin nothing after so many; then exit with 75")
    add("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    add("--docs", type=Path, default=DOCS, help="folder of the page")
    add("--page", action="store_true", help="write the page again from the scores in its folder")
    add("--dry-run", action="store_true", help="say what is there and what would be done")
    return parser


def command(given: argparse.Namespace) -> str:
    """The command that gives the same page, without the folders of this machine."""
    words = ["python -m benchmarks.claim --data FOLDER"]
    for action in parser()._actions:
        value = getattr(given, action.dest, None)
        if action.dest in ("data", "runs", "docs", "minutes", "page", "dry_run") or value in (None, action.default):
            continue
        for one in value if isinstance(action.default, list) and action.nargs is None else [value]:
            many = one if isinstance(one, list) else [one]
            words.append(" ".join([action.option_strings[0], *(f"{word}" for word in many)]))
    return " ".join(words)


def units(given: argparse.Namespace) -> Iterator[Unit]:
    """In the order of work: seed by seed, so that what is done soonest can be compared."""
    for seed in range(1, given.seeds + 1):
        for variant in given.variants.split(","):
            yield Unit(variant, seed)
        for variant in given.variants.split(","):
            yield from (Unit(variant, seed, task) for task in given.tasks.split(","))


def main(words: Sequence[str] | None = None) -> None:
    """Do what is not done yet, and write the page."""
    given = parser().parse_args(words)
    unknown = {*given.tasks.split(",")} - TASKS.keys() | {*given.variants.split(",")} - VARIANTS.keys()
    if unknown:
        raise SystemExit(f"{', '.join(sorted(unknown))}: no such task or variant")
    began, claim = time.monotonic(), Claim(given)
    if given.page:
        claim.write(read_results(given.docs / SCORES))
        return
    for unit in units(given):
        late = given.minutes is not None and time.monotonic() - began > 60 * given.minutes
        if claim.is_done(unit):
            print(f"{unit.name}: done", flush=True)
        elif given.dry_run:
            print(f"{unit.name}: to do", flush=True)
        elif late:
            claim.write(claim.rows())
            print(f"{given.minutes:g} minutes are over: run the same command again to go on", flush=True)
            sys.exit(Stopped.exit_code)
        else:
            print(f"{unit.name}: begun", flush=True)
            claim.do(unit)
    if not given.dry_run:
        claim.write(claim.rows())


class Claim:
    """What is there of the claim, and how to make the rest."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.tag = f"{given.steps}x{given.batch}"
        if given.languages:
            self.tag += f"x{_short(','.join(sorted(given.languages.split(','))))}"
        if given.base != BASE:
            self.tag += f"_{_short(self.base.read_text(encoding='utf-8'))}"
        walk = os.walk(given.data, followlinks=True)  # sets are often links
        files = sorted(Path(folder, name) for folder, _, names in walk for name in names)
        self.data = _short("".join(f"{file.relative_to(given.data)} {file.stat().st_size}\n" for file in files))
        self.ledger = Ledger(given.docs / "claim.json")
        self.sources = dict(one.split("=") for one in given.source)
        self.trained_on = {task: int(most) for task, most in (one.split("=") for one in given.train_limit)}

    def own(self, unit: Unit) -> str:
        """The name of a unit's run: other sizes are other runs."""
        return f"claim_{unit.variant.replace('+', '_')}_{unit.seed}_{self.tag}"

    def label(self, unit: Unit) -> str:
        """The name in the ledger, for a task with all that its scores depend on."""
        given, label = self.given, self.own(unit)
        if unit.task is None:
            return label
        how = [self.sources.get(unit.task, "en"), given.epochs, given.limit, given.max_tokens, *given.rates]
        how += [given.batch_tuned, self.trained_on.get(unit.task, given.limit)]
        return f"{label} {unit.task} {' '.join(map(str, how))}"

    @property
    def base(self) -> Path:
        """The recipe that the variants add to."""
        base = self.given.base
        return Path(base if base.endswith(".toml") else f"{RECIPES / base}.toml")

    def is_done(self, unit: Unit) -> bool:
        """Whether the ledger has it, and what it speaks of is in the runs folder, of this data folder."""
        entry = self.ledger.find(self.label(unit))
        if entry is None or unit.task is None:
            return entry is not None and (self.given.runs / self.own(unit)).is_dir()
        return self._results(unit).is_file() and entry.get("data", self.data) == self.data

    def do(self, unit: Unit) -> None:
        """Train, or measure."""
        self.ledger.put(self.label(unit), self._measure(unit) if unit.task else self._train(unit))

    def _train(self, unit: Unit) -> dict[str, Any]:
        given, own = self.given, self.own(unit)
        given.runs.mkdir(parents=True, exist_ok=True)
        recipe_file = (given.runs / f"{own}.toml").absolute()
        codes = [f'"{code}"' for code in given.languages.split(",")] if given.languages else []
        languages = f"languages = [{', '.join(codes)}]\n" if codes else ""
        micro = max(1, min(32, given.batch // given.ranks))
        sizes = f"[train]\nglobal_batch_sequences = {given.batch}\nmicro_batch_sequences = {micro}\n"
        recipe_file.write_text(
            f'extends = "{self.base}"\nname = "{own}"\n{languages}\n{sizes}{VARIANTS[unit.variant]}', encoding="utf-8"
        )
        options = ["--runs_folder", str(given.runs), "--train.seed", str(unit.seed), "--train.steps", str(given.steps)]
        options += ["--log.evaluate_every_steps", str(given.steps), "--save.every_steps", str(given.steps)]
        began = _clocks()
        train(recipe_file, *options, ranks=given.ranks, log=given.runs / f"{own}.log")
        recipe = load_recipe(str(recipe_file), options)
        shutil.rmtree(recipe.run_folder / "checkpoints", ignore_errors=True)
        tokens = int(metrics(recipe.run_folder)[-1]["progress/tokens"])
        return {"tokens": tokens, "languages": len(recipe.languages), **_since(began)}

    def _measure(self, unit: Unit) -> dict[str, Any]:
        given, began = self.given, _clocks()
        assert unit.task is not None
        settings = settings_of(
            source=self.sources.get(unit.task, "en"),
            learning_rates=tuple(given.rates),
            epochs=given.epochs,
            batch=given.batch_tuned,
            limit=given.limit,
            train_limit=self.trained_on.get(unit.task),
            max_tokens=given.max_tokens,
            split_source=True,
        )
        model = f"{unit.variant}={given.runs / self.own(unit)}"
        rows = judge([model], [unit.task], given.data, self._results(unit), seeds=1, settings=settings).rows
        return {"rows": len(rows), "data": self.data, **_since(began)}

    def _results(self, unit: Unit) -> Path:
        return self.given.runs / "claim" / f"{self.label(unit).replace(' ', '_')}.jsonl"

    def rows(self) -> Iterator[ResultRow]:
        """Every score of what is done, a training's seed as its seed."""
        for unit in units(self.given):
            if unit.task and self.is_done(unit):
                for row in read_results(self._results(unit)):
                    yield row.model_copy(update={"seed": unit.seed})

    def write(self, found: Iterable[ResultRow]) -> None:
        """docs/claim.md, its charts in docs/claim/, and the scores."""
        docs, rows = self.given.docs, list(found)
        if REFERENCE not in {row.model for row in rows}:
            print("nothing is measured yet, so there is no page", flush=True)
            return
        results = docs / SCORES
        with gzip.GzipFile(results, "wb", mtime=0) as file:
            file.writelines(orjson.dumps(row.model_dump(), option=orjson.OPT_APPEND_NEWLINE) for row in rows)
        write_report([results], docs / "claim", reference=REFERENCE)
        body = (docs / "claim" / "report.md").read_text(encoding="utf-8")
        body = body.partition("\n")[2].replace("](", "](claim/").replace("\n## ", "\n### ")
        (docs / "claim" / "report.md").unlink()
        (docs / "claim.md").write_text(page(self, rows) + body, encoding="utf-8")


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _clocks() -> tuple[float, float]:
    """Seconds on the wall, and of CPU in this process and those that it has waited for."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return time.monotonic(), sum(one.ru_utime + one.ru_stime for one in (own, children))


def _since(began: tuple[float, float]) -> dict[str, float]:
    wall, cpu = (round((now - then) / 60, 2) for now, then in zip(_clocks(), began, strict=True))
    return {"minutes": wall, "cpu_minutes": cpu}


Column = tuple[str, str, str]
"""Task, set and way."""


def means(rows: Sequence[ResultRow]) -> dict[tuple[str, int], dict[Column, float]]:
    """(variant, seed) -> column -> mean over languages."""
    scores: dict[tuple[str, int], dict[Column, list[float]]] = {}
    for row in rows:
        if row.purpose == "test" and "language removed" not in row.way:
            own = scores.setdefault((row.model, row.seed), {})
            own.setdefault((row.task, row.set, row.way), []).append(row.values[row.metric])
    return {who: {column: float(np.mean(values)) for column, values in own.items()} for who, own in scores.items()}


def improvements(rows: Sequence[ResultRow]) -> dict[str, dict[int, dict[Column, float]]]:
    """variant -> seed -> column -> relative improvement over the reference of the same seed, in percent."""
    found: dict[str, dict[int, dict[Column, float]]] = {}
    scores = means(rows)
    for (variant, seed), own in scores.items():
        base = scores.get((REFERENCE, seed), {})
        gains = {c: 100 * (own[c] - base[c]) / base[c] for c in own if base.get(c, 0) > 0}
        if variant != REFERENCE and gains:
            found.setdefault(variant, {})[seed] = gains
    return found


def by_seed(rows: Sequence[ResultRow]) -> list[list[str]]:
    """Each variant's mean relative improvement over columns that rank, seed by seed, and a paired t-test.

    Over all columns that every seed has an improvement in (the same for each seed, or they could not be compared), and
    over those of embeddings as they are, which no fine-tuning blurs.
    """
    lines = []
    for of in ("all", PLAIN):
        for variant, seeds in improvements(rows).items():
            shared = set.intersection(*map(set, seeds.values()))
            ranked = [c for c in shared if not TASKS[c[0]].describes and of in ("all", c[2])]
            if ranked:
                each = [float(np.mean([own[column] for column in ranked])) for own in seeds.values()]
                said = ", ".join(f"{value:+.2f}" for value in each)
                lines.append([of, variant, str(len(each)), said, f"{np.mean(each):+.2f}", _p(each)])
    return lines


def by_column(rows: Sequence[ResultRow]) -> list[list[str]]:
    """The reference's score in each column, and each variant's relative improvement with deviation and p over seeds."""
    scores, found = means(rows), improvements(rows)
    lines = []
    for column in dict.fromkeys(column for own in scores.values() for column in own):
        base = [own[column] for (variant, _), own in scores.items() if variant == REFERENCE and column in own]
        line = [f"{column[0]}, {column[1]}, {column[2]}", _spread(base, ".3f")]
        for seeds in found.values():
            gains = [own[column] for own in seeds.values() if column in own]
            said = _p(gains) or ("the same for each seed" if len(gains) > 1 else "one seed")
            line.append(f"{_spread(gains, '+.1f')} ({said})" if gains else "")
        lines.append(line)
    return lines


def _spread(values: Sequence[float], how: str) -> str:
    return f"{np.mean(values):{how}}" + (f" ± {np.std(values, ddof=1):{how.strip('+')}}" if len(values) > 1 else "")


def _p(differences: Sequence[float]) -> str:
    """Two-sided, of a t-test that their mean is 0; nothing where there is one, or all are the same."""
    if len(set(differences)) < 2:
        return ""
    return f"{float(np.asarray(stats.ttest_1samp(differences, 0.0))[1]):.3f}"


def page(claim: Claim, rows: Sequence[ResultRow]) -> str:
    """The head of docs/claim.md: how it was made, what was reached, and the improvements seed by seed."""
    given = claim.given
    measured = {(row.model, row.seed, row.task) for row in rows}
    entries = [claim.ledger.find(claim.label(unit)) for unit in units(given) if unit.task is None]
    trained = [entry for entry in entries if entry is not None]
    missing = [unit.name for unit in units(given) if unit.task and (unit.variant, unit.seed, unit.task) not in measured]
    tokens = sorted({one["tokens"] for one in trained})
    languages = "/".join(map(str, sorted({one["languages"] for one in trained})))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    minutes = sum(one["minutes"] for one in trained)
    sources = ", ".join(f"{task} from {code}" for task, code in claim.sources.items())
    rates = ", ".join(f"{rate:g}" for rate in given.rates)
    most = "".join(f", {count} to train {task} on" for task, count in claim.trained_on.items())
    unchosen = " The rate was not chosen on a dev set." if len(given.rates) == 1 else ""
    where = f"by the deepspeed launcher on {given.ranks} ranks" if given.ranks > 1 else "in one process each"
    missed = f"**Not reached**: {'; '.join(missing)}." if missing else "All that was asked for was reached."
    return f"""# The claim in miniature

Made by

    {command(given)}

which can be stopped and continued: masked LM alone (`mlm`), with the language adversary on [CLS] (`+adv`, confusion
weight {CHOSEN:g}), with distillation of the demo's teacher (`+kd`: its masked-LM distribution and its last hidden
states), and with both. All are the student of `{Path(given.base).stem}`: {given.steps} steps of {given.batch} documents
in {languages} languages, {" or ".join(f"{count:,}" for count in tokens)} tokens (by the seed), {where}
({device}, {minutes:.0f} minutes of training in all). With one seed all read the same text in the same order with the
same masks.

Fine-tuning: {given.epochs} epochs at {rates} in batches of {given.batch_tuned}, trained on English, but for {sources};
rows of {given.max_tokens} tokens, at most {given.limit} examples of each language and split{most}.
Where a task has test files alone the source's are cut in three (`split`), so such scores are not the published
protocol's.{unchosen}
A run so short says what these parts do to each other here, and nothing of models trained to the end.

{missed}

## Seed by seed

Mean relative improvement over `{REFERENCE}` of the same seed, in percent, over the columns in which `{REFERENCE}` is
above 0 with every seed; the t-test is paired over seeds, two-sided.

{table(["columns", "variant", "seeds", "each", "mean", "p"], by_seed(rows))}
## Column by column

The score of `{REFERENCE}`, and the relative improvement in percent, with the standard deviation and p over seeds
(uncorrected: of so many, some are small by chance).
Where the score is near chance (a third for NLI) or near 0, fine-tuning was too short for the task, and an improvement
there is noise; where it is 0 a seed has none. In the language probe less is what the adversary is for; it counts in no
mean.

{table(["task, set, way", REFERENCE, *improvements(rows)], by_column(rows))}
## The report
"""


if __name__ == "__main__":
    main()
