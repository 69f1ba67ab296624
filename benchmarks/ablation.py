"""What the adversary and distillation do to a student, at equal tokens and over seeds; writes docs/ablation.md.

    python benchmarks/ablation.py [--seeds 3] [--steps 100] [--lambdas 0.3 1 3 10] [--runs FOLDER]

Run it where `make demo` has prepared text and teacher. The student is that of the recipe mlm_only_demo; each variant
adds tables to it and nothing else, so that with one seed all of them read the same text in the same order with the
same masks. It can be stopped and started again: what is done stays in docs/ablation.json.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from scipy import stats

from benchmarks.trained import Ledger, measured, table, train
from unibert.config import RECIPES, load_recipe
from unibert.evaluate import style

DOCS = Path(__file__).parent.parent / "docs"
BASE = "mlm_only_demo"
CHOSEN = 1.0
"""Weight of the confusion in the variants that are run with every seed."""
RANK_REMOVED = 1
"""Directions of each language that LIR takes from the student of masked LM alone."""

BATCH = """
[train]
global_batch_sequences = 64
micro_batch_sequences = 32
"""
ADVERSARY = """
[discriminator]
feature = "cls"
moves = 4
learning_rate = 2e-3

[objectives.language_guess]

[objectives.language_confusion]
weight = {{ max = {weight} }}
"""
FROM_NOTHING = """
[student]
start = "random"
num_layers = 4
hidden_size = 192
num_heads = 6
intermediate_size = 768
trainable = "all"

[optimizer]
learning_rate = 1e-3
"""
DISTILLATION = """
[objectives.distill_logits]
weight = 0.5

[objectives.distill_hidden]
form = "cosine"
weight = 3.0
"""
VARIANTS = {
    "mlm": "",
    "mlm+adv": ADVERSARY.format(weight=CHOSEN),
    "random mlm": FROM_NOTHING,
    "random mlm+kd": FROM_NOTHING + DISTILLATION,
}


def main() -> None:
    """Do what is not done yet, and write the page and the chart."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--lambdas", type=float, nargs="*", default=[0.3, 1.0, 3.0, 10.0])
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--only", help="the runs to do now, by the beginning of their names")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="of a run; several can go on beside"
    )
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    ledger = Ledger(DOCS / "ablation.json")
    jobs = [(name, tables, seed) for seed in range(1, given.seeds + 1) for name, tables in VARIANTS.items()]
    sweep = [weight for weight in given.lambdas if weight != CHOSEN]
    jobs += [(f"lambda {weight:g}", ADVERSARY.format(weight=weight), 1) for weight in sweep]
    for name, tables, seed in jobs:
        label = f"{name}, seed {seed}"
        if given.only is None or label.startswith(given.only):
            found = ledger.get(label, lambda job=(name, tables, seed): run(*job, steps=given.steps, runs=given.runs))
            print(label, found, flush=True)
    write(ledger.found, steps=given.steps)


def run(name: str, tables: str, seed: int, *, steps: int, runs: Path) -> dict[str, Any]:
    """Train a variant and measure it; of MLM alone, with the training-free removal of languages besides."""
    own = f"ablation_{name.replace('+', '_').replace(' ', '_')}_{seed}"
    recipe_file = runs / f"{own}.toml"
    runs.mkdir(parents=True, exist_ok=True)
    recipe_file.write_text(f'extends = "{RECIPES / BASE}.toml"\nname = "{own}"\n{BATCH}{tables}')
    options = ["--runs_folder", str(runs), "--train.seed", str(seed), "--train.steps", str(steps)]
    options += ["--log.evaluate_every_steps", str(steps), "--save.every_steps", str(steps)]
    options += ["--train.threads_per_rank", str(torch.get_num_threads())]
    train(recipe_file, *options, log=runs / f"{own}.log")
    recipe = load_recipe(recipe_file, options)
    found = measured(recipe, recipe.run_folder, removed=RANK_REMOVED if name == "mlm" else None)
    shutil.rmtree(recipe.run_folder / "checkpoints")
    return found


COLUMNS = {
    "cross_entropy": "held-out cross-entropy, nats",
    "probe_first": "fresh probe, [CLS]",
    "probe_mean": "fresh probe, mean",
    "to_english": "retrieval to English",
    "from_english": "from English",
}
CLAIMS = (
    ("The adversary hides the language", "mlm+adv", "mlm", "probe_first"),
    ("elsewhere than where it is told to", "mlm+adv", "mlm", "probe_mean"),
    ("at what cost", "mlm+adv", "mlm", "cross_entropy"),
    ("Distillation helps", "random mlm+kd", "random mlm", "cross_entropy"),
    ("and what it does to retrieval", "random mlm+kd", "random mlm", "to_english"),
)


def of(found: dict[str, dict[str, float]], variant: str, column: str) -> list[float]:
    """A figure of a variant in every seed that is there."""
    return [one[column] for label, one in found.items() if label.split(", ")[0] == variant and column in one]


def write(found: dict[str, dict[str, float]], *, steps: int) -> None:
    """docs/ablation.md and the chart of the sweep, of what is there."""
    variants = dict.fromkeys(label.split(", ")[0] for label in found)
    rows = [[name, len(of(found, name, "cross_entropy")), *_figures(found, name, "")] for name in variants]
    if removed := of(found, "mlm", "probe_first_removed"):
        rows.append([f"mlm, then LIR (rank {RANK_REMOVED})", len(removed), *_figures(found, "mlm", "_removed")])
    text = (
        f"""# Adversary and distillation, at equal tokens

Made by `python benchmarks/ablation.py`: {steps} steps of 64 documents on real text in 68 languages. With one seed every
variant reads the same documents with the same masks. `mlm` is the student of `{BASE}`, half of the teacher's layers;
`mlm+adv` has the language discriminator on [CLS] besides, with a confusion weight of {CHOSEN:g}; `lambda x` is the same
with that weight. `random mlm` begins from random weights, 4 layers of 192, and `random mlm+kd` learns from the demo's
teacher too, by its masked-LM distribution and its last hidden states. Means over seeds, with the standard deviation.
LIR, the removal of languages without training, is told the language of every text, which no encoder is.

"""
        + table(["variant", "seeds", *COLUMNS.values()], rows)
        + "\n## Paired by seed\n\n"
        + table(["", "is", "against", "differences", "mean", "relative", "p (paired t, two-sided)"], _claims(found))
        + "\n![Sweep of the confusion's weight](ablation.png)\n"
    )
    (DOCS / "ablation.md").write_text(text)
    chart(found)


def _figures(found: dict[str, dict[str, float]], variant: str, ending: str) -> list[str]:
    """Mean and deviation of every column."""
    cells = []
    for column in COLUMNS:
        values = of(found, variant, column + ending if column != "cross_entropy" else column)
        deviation = f" \u00b1 {statistics.stdev(values):.3f}" if len(values) > 1 else ""
        cells.append(f"{statistics.mean(values):.3f}{deviation}" if values else "")
    return cells


def _claims(found: dict[str, dict[str, float]]) -> list[list[str]]:
    """What one variant changes of another, seed by seed."""
    rows = []
    for claim, one, other, column in CLAIMS:
        pairs = list(zip(of(found, one, column), of(found, other, column), strict=False))
        apart = [a - b for a, b in pairs]
        if not apart:
            continue
        relative = sum(apart) / sum(b for _, b in pairs)
        p = float(np.asarray(stats.ttest_1samp(apart, 0.0))[1]) if len(apart) > 1 else float("nan")
        shown = ", ".join(f"{value:+.4f}" for value in apart)
        cells = [shown, f"{statistics.mean(apart):+.4f}", f"{relative:+.1%}", f"{p:.3f}"]
        rows.append([f"{claim} ({COLUMNS[column]})", one, other, *cells])
    return rows


def chart(found: dict[str, dict[str, float]]) -> None:
    """Probe and cross-entropy by the confusion's weight, at seed 1."""
    points = {0.0: found.get("mlm, seed 1"), CHOSEN: found.get("mlm+adv, seed 1")}
    points |= {float(label.split()[1].strip(",")): one for label, one in found.items() if label.startswith("lambda")}
    weights = sorted(weight for weight, one in points.items() if one is not None)
    with style.context():
        figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), constrained_layout=True)
        for ax, columns in zip(axes, (("probe_first", "probe_mean"), ("cross_entropy",)), strict=True):
            for column, colour in zip(columns, ("#0072b2", "#e69f00"), strict=False):
                values = [(points[weight] or {})[column] for weight in weights]
                ax.plot(range(len(weights)), values, marker="o", color=colour, label=COLUMNS[column])
            ax.set_xticks(range(len(weights)), [f"{weight:g}" for weight in weights])
            ax.set_xlabel("weight of the language confusion")
            ax.set_title("Fresh linear probe, accuracy" if len(columns) > 1 else "Held-out masked cross-entropy, nats")
        axes[0].legend(frameon=False)
        style.save(figure, DOCS / "ablation.png")


if __name__ == "__main__":
    main()
