"""Many short runs in one process group: `torchrun --nproc_per_node W tests/resume/elastic.py RECIPE JOBS`.

JOBS is a JSON list of {name, engine, resume}: each trains or continues the recipe under its own name with that
DeepSpeed file (`engine_file`). `resume` is a checkpoint's path, or "never".
"""

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from unibert.config import load_recipe  # noqa: E402
from unibert.runtime import dist  # noqa: E402
from unibert.trainer import train_on  # noqa: E402

ENGINES = ("zero0", "zero1", "zero2", "zero3", "zero1_offload", "zero2_offload", "zero3_offload")


def engine_file(engine: str, folder: Path) -> Path:
    """A file of ds_configs/ in fp32, or, as in "zero1-bf16", in another precision."""
    name, _, precision = engine.partition("-")
    tree = json.loads((ROOT / "ds_configs" / f"{name}.json").read_text())
    tree.pop("bf16")
    if precision:
        tree[precision] = {"enabled": True} | ({"initial_scale_power": 12} if precision == "fp16" else {})
    if name.startswith("zero3"):
        tree["zero_optimization"]["stage3_param_persistence_threshold"] = 100  # some are cut, some stay whole
    path = folder / f"{engine}.json"
    beside = path.with_suffix(f".{os.getpid()}")
    beside.write_text(json.dumps(tree))
    beside.replace(path)
    return path


def main(recipe_path: str, jobs: str) -> None:
    ranks = dist.start(threads=1)
    for job in json.loads(jobs):
        engine = engine_file(job["engine"], Path(recipe_path).parent)
        options = ["--name", job["name"], "--engines.student", str(engine), "--save.export=false"]
        recipe = load_recipe(recipe_path, [*options, *job.get("options", [])])
        train_on(ranks, recipe=recipe, resume=job["resume"])
    dist.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
