"""Every `_demo` recipe, trained, stopped, resumed, exported, read back and measured; writes docs/recipes.md.

    python benchmarks/recipes.py [RECIPE ...] [--ranks 2] [--runs FOLDER]

Run it where `make demo` has prepared text and teacher, after `unibert data pairs mmkd_demo`. It can be stopped and
started again: what is done stays in docs/recipes.json. Each recipe trains by the deepspeed launcher; then the same
command goes on from the checkpoint before the last in a copy of the run, and both must agree in every bit.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from benchmarks.trained import Ledger, measured, metrics, table, train
from unibert.config import RECIPES, Recipe, load_recipe
from unibert.models.folders import newest_export
from unibert.objective_tables import MomentumContrast

DOCS = Path(__file__).parent.parent / "docs"
GAME = ("language_guess", "language_confusion")
"""The two sides of one game: where the one gains the other loses, so that both cannot fall."""


def main() -> None:
    """Do what is not done yet, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="names without _demo; all when absent")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    given = parser.parse_args()
    ledger = Ledger(DOCS / "recipes.json")
    for name in [f"{name}_demo" for name in given.recipes] or demos():
        found = ledger.get(name, lambda name=name: try_recipe(name, ranks=given.ranks, runs=given.runs))
        print(name, found, flush=True)
    (DOCS / "recipes.md").write_text(page(ledger.found))


def demos() -> list[str]:
    """Names of the demo twins."""
    return sorted(path.stem for path in RECIPES.glob("[!_]*_demo.toml"))


def try_recipe(name: str, *, ranks: int, runs: Path) -> dict[str, Any]:
    """Train a recipe, resume a copy of it, read its export; everything worth telling.

    Raises:
        SystemExit: a run fails, or the resumed one is another.
    """
    recipe = load_recipe(name, ["--runs_folder", str(runs)])
    options, log = ["--runs_folder", str(runs)], runs / f"{name}.log"
    if not (runs / name / "hf" / f"step_{recipe.train.steps:08d}").exists():
        train(name, *options, ranks=ranks, log=log)
    again = resume_copy(recipe, options=options, ranks=ranks, log=log)
    read_back(recipe)
    rows = metrics(recipe.run_folder)
    steady = [row["speed/tokens_per_second"] for row in rows[1:] if row["step"] > recipe.train.steps // 10]
    found = {
        "ranks": ranks,
        "steps": recipe.train.steps,
        "tokens": int(rows[-1]["progress/tokens"]),
        "tokens_per_second": sorted(steady)[len(steady) // 2],
        "resumed_bitwise": again,
        "losses": {objective: falls(recipe, objective, rows) for objective in recipe.objectives.on()},
    }
    found |= measured(recipe, recipe.run_folder)
    for folder in (recipe.run_folder, resumed_folder(recipe)):
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return found


def falls(recipe: Recipe, objective: str, rows: list[dict[str, Any]]) -> list[float]:
    """An objective's held-out loss before training and after it; with a queue, from when that is full."""
    looks = [row for row in rows if f"loss_heldout/{objective}" in row]
    form = getattr(recipe.objectives, objective)
    if isinstance(form, MomentumContrast):
        pairs = recipe.train.global_batch_sequences // 2 * recipe.data.parallel_ratio
        looks = [row for row in looks if row["step"] * pairs >= form.queue_size]
    return [looks[0][f"loss_heldout/{objective}"], looks[-1][f"loss_heldout/{objective}"]]


def resumed_folder(recipe: Recipe) -> Path:
    """Where the copy of a run goes."""
    return recipe.run_folder.with_name(f"{recipe.name}_resumed")


def resume_copy(recipe: Recipe, *, options: list[str], ranks: int, log: Path) -> bool:
    """Go on from the checkpoint before the last, in a copy, and compare every loss and every exported weight.

    Raises:
        SystemExit: they differ.
    """
    last = recipe.train.steps
    middle = last - recipe.save.every_steps
    copy = resumed_folder(recipe)
    if not (copy / "hf" / f"step_{last:08d}").exists():
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(recipe.run_folder, copy, ignore=shutil.ignore_patterns(f"step_{last:08d}", "tb"))
        train(recipe.name, *options, "--name", copy.name, "--resume", "must", ranks=ranks, log=log)
    for one, other in zip(metrics(recipe.run_folder), metrics(copy), strict=True):
        own = {tag: value for tag, value in one.items() if tag.startswith(("loss", "eval/", "optim/"))}
        if own != {tag: other[tag] for tag in own}:
            raise SystemExit(f"{recipe.name}: step {one['step']} is another after resuming at {middle}")
    first, second = (load_file(newest_export(folder) / "model.safetensors") for folder in (recipe.run_folder, copy))
    if not all(torch.equal(weight, second[name]) for name, weight in first.items()):
        raise SystemExit(f"{recipe.name}: the weights are others after resuming at {middle}")
    return True


def read_back(recipe: Recipe) -> None:
    """Let Hugging Face load the export and read a line with it."""
    folder = newest_export(recipe.run_folder)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForMaskedLM.from_pretrained(folder)
    with torch.no_grad():
        logits = model(**tokenizer("Bonjour le monde", return_tensors="pt")).logits
    assert torch.isfinite(logits).all(), f"{folder}: not finite"


def page(found: dict[str, dict[str, Any]]) -> str:
    """docs/recipes.md."""
    rows = []
    for name, one in sorted(found.items()):
        losses = "; ".join(f"{objective} {a:.4g} -> {b:.4g}" for objective, (a, b) in one["losses"].items())
        figures = [one[key] for key in ("cross_entropy", "to_english", "from_english", "probe_first", "probe_mean")]
        speed, tokens = f"{one['tokens_per_second']:,.0f}", f"{one['tokens']:,}"
        rows.append([f"`{name}`", tokens, speed, losses, *(f"{figure:.3f}" for figure in figures)])
    header = ["recipe", "tokens", "tokens/s", "held-out losses, before -> after", "held-out cross-entropy, nats"]
    header += ["retrieval to English", "from English", "fresh probe, [CLS]", "fresh probe, mean"]
    rose = [
        f"`{name}` {objective}"
        for name, one in sorted(found.items())
        for objective, (before, after) in one["losses"].items()
        if after >= before and objective not in GAME
    ]
    missing = sorted(set(demos()) - found.keys())
    steps, ranks = {one["steps"] for one in found.values()}, {one["ranks"] for one in found.values()}
    return (
        f"""# Every recipe, at demo scale

Made by `python benchmarks/recipes.py` on real text, in {"/".join(map(str, sorted(steps)))} steps on
{"/".join(map(str, sorted(ranks)))} ranks (CPU) by the deepspeed launcher. So few steps show that every part works, not
which system is best, and the machine was shared, so that speeds tell little. Each run went on from its last
checkpoint but one in a copy and came to the same bits; each export was read by `AutoModelForMaskedLM`.

"""
        + table(header, rows)
        + "\nThe held-out losses are of text and pairs that nothing trains on, by the models as they were before the "
        "first step and after the last one (with a queue of momentum contrast: from when it was full). language_guess "
        "and language_confusion are the two sides of a game, so both cannot fall.\n\n"
        + (f"Not tried yet: {', '.join(f'`{name}`' for name in missing)}.\n\n" if missing else "")
        + (f"Not lower after training: {', '.join(rose)}.\n" if rose else "Every other loss is lower after training.\n")
    )


if __name__ == "__main__":
    main()
