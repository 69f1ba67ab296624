"""What the adversary and distillation do to a student, at equal tokens and over seeds; writes docs/ablation.md.

    python benchmarks/ablation.py [--seeds 3] [--steps 100] [--lambdas 0.1 0.3 1 3 10] [--runs FOLDER]

Run it where `make demo` has prepared text and teacher. The student is that of the recipe mlm_only_demo; each variant
adds tables to it and nothing else, so that with one seed all of them read the same text in the same order with the
same masks. It can be stopped and started again: what is done stays in docs/ablation.json.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch
from unibert.evaluate.language_removal import fit_parts, remove_parts

from benchmarks.trained import Ledger, material, measured, train
from unibert.config import RECIPES, load_recipe
from unibert.evaluate.embed import Embedder
from unibert.evaluate.heldout import split_fraction
from unibert.evaluate.probe import language_probe
from unibert.models.encoder import load_encoder
from unibert.models.folders import newest_export

DOCS = Path(__file__).parent.parent / "docs"
BASE = "mlm_only_demo"
CHOSEN = 1.0
"""Weight of the confusion in the variants that are run with every seed."""
RANKS_REMOVED = (1, 2, 4)
LIR_SHARE = 0.5
"""Share of the held-out lines that the removal is fitted on; the probe has the others."""

ADVERSARY = """
[discriminator]
feature = "cls"
moves = 4
learning_rate = 2e-3

[objectives.language_guess]

[objectives.language_confusion]
weight = {{ max = {weight} }}
"""
DISTILLATION = """
[objectives.distill_hidden]
form = "cosine"
positions = "unmasked"
weight = { start = 10.0, end = 0.0, until = 0.7 }
"""


def main() -> None:
    """Do what is not done yet, and write the page and the chart."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--lambdas", type=float, nargs="*", default=[0.1, 0.3, 1.0, 3.0, 10.0])
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--only", help="a part of the names of the runs to do now; all when absent")
    given = parser.parse_args()
    ledger = Ledger(DOCS / "ablation.json")
    variants = {"mlm": "", "mlm+adv": ADVERSARY.format(weight=CHOSEN), "mlm+kd": DISTILLATION}
    variants["mlm+adv+kd"] = variants["mlm+adv"] + DISTILLATION
    jobs = [(name, tables, seed) for seed in range(1, given.seeds + 1) for name, tables in variants.items()]
    sweep = [weight for weight in given.lambdas if weight != CHOSEN]
    jobs += [(f"lambda {weight:g}", ADVERSARY.format(weight=weight), 1) for weight in sweep]
    for name, tables, seed in jobs:
        label = f"{name}, seed {seed}"
        if given.only is None or given.only in label:
            found = ledger.get(label, lambda job=(name, tables, seed): run(*job, steps=given.steps, runs=given.runs))
            print(label, found, flush=True)
    write(ledger.found, steps=given.steps)


def run(name: str, tables: str, seed: int, *, steps: int, runs: Path) -> dict[str, Any]:
    """Train a variant and measure it; of MLM alone, with the training-free removal of languages besides."""
    own = f"ablation_{name.replace('+', '_').replace(' ', '_')}_{seed}"
    recipe_file = runs / f"{own}.toml"
    runs.mkdir(parents=True, exist_ok=True)
    recipe_file.write_text(f'extends = "{RECIPES / BASE}.toml"\nname = "{own}"\n{tables}')
    options = ["--runs_folder", str(runs), "--train.seed", str(seed), "--train.steps", str(steps)]
    options += ["--log.evaluate_every_steps", str(steps), "--save.every_steps", str(steps)]
    train(recipe_file, *options, log=runs / f"{own}.log")
    recipe = load_recipe(recipe_file, options)
    found = measured(recipe, recipe.run_folder)
    if name == "mlm":
        found |= removal(recipe.run_folder, load_recipe(recipe_file, options))
    shutil.rmtree(recipe.run_folder / "checkpoints")
    return found


def removal(folder: Path, recipe: Any) -> dict[str, float]:
    """The fresh probe on [CLS] features that LIR has been at, beside the same lines without it."""
    texts_of = material(recipe).probe_lines
    texts = [text for lines in texts_of.values() for text in lines]
    languages = [code for code, lines in texts_of.items() for _ in lines]
    encoder, _ = load_encoder(newest_export(folder))
    embedder = Embedder.of(encoder.eval(), newest_export(folder), max_tokens=recipe.data.max_sequence_tokens)
    features_NH = embedder.features(texts).first.float()
    fitted_N = torch.tensor([split_fraction(f"removal {text}") < LIR_SHARE for text in texts])
    kept = [i for i, fitted in enumerate(fitted_N.tolist()) if not fitted]
    rest, rest_languages = [texts[i] for i in kept], [languages[i] for i in kept]
    fit_languages = [code for code, fitted in zip(languages, fitted_N.tolist(), strict=True) if fitted]

    def probe(features: torch.Tensor) -> float:
        return language_probe(features, texts=rest, languages=rest_languages).accuracy

    found = {"removal_0": probe(features_NH[kept])}
    for rank in RANKS_REMOVED:
        parts = fit_parts(features_NH[fitted_N], languages=fit_languages, rank=rank)
        left_NH = remove_parts(features_NH[kept], languages=rest_languages, parts=parts)
        found[f"removal_{rank}"] = probe(left_NH)
    return found
