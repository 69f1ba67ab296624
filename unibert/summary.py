"""The last words of a run: where everything is, how to watch it, how to load the model."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from unibert.config import Recipe
from unibert.models.folders import newest_export
from unibert.runtime.checkpoint import complete_folders


def show(recipe: Recipe) -> None:
    """Print it; what does not exist yet is left out.

    Raises:
        DataError: the run has exported no model yet.
    """
    run = recipe.run_folder
    model = newest_export(run)
    places = {
        "model (Hugging Face)": model,
        "model card": model / "README.md",
        "evaluation report": run / "report" / "report.md",
        "charts": run / "report",
        "numbers of every step": run / "metrics.jsonl",
        "newest checkpoint": next(iter(complete_folders(run / "checkpoints")), None),
        "data, per language": recipe.data.folder / "report.md",
        "the recipe as it ran": run / "recipe.toml",
    }
    print(f"\n{recipe.name} is done.\n")
    for what, place in places.items():
        if place is not None and place.exists():
            print(f"  {what:<22} {place}")
    _figures(recipe)
    tensorboard = os.path.relpath(Path(sys.executable).parent / "tensorboard")  # of the environment that trained
    print(f"\nWatch it:\n\n  {tensorboard} --logdir {run / 'tb'}\n")
    print(f"""Load it:

  from transformers import AutoModel, AutoTokenizer
  tokenizer = AutoTokenizer.from_pretrained("{model}")
  model = AutoModel.from_pretrained("{model}")
  embedding = model(**tokenizer("Bonjour le monde", return_tensors="pt")).last_hidden_state.mean(dim=1)
""")


def _figures(recipe: Recipe) -> None:
    path = recipe.run_folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    looks = [row for line in lines if "eval/masked_cross_entropy" in (row := json.loads(line))]
    if looks:
        first, last = looks[0], looks[-1]
        print(
            f"\n  held-out masked cross-entropy {first['eval/masked_cross_entropy']:.3f} (step {first['step']}) -> "
            f"{last['eval/masked_cross_entropy']:.3f} (step {last['step']}); "
            f"unigram {last['eval/unigram_cross_entropy']:.3f}"
        )
