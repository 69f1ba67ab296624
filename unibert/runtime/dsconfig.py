"""DeepSpeed's JSON files: found, checked and completed with what the recipe owns.

A file in ds_configs/ holds the engine's mechanics only (ZeRO stage, offload, buckets, precision). Batch,
clipping and optimizer are the recipe's: in the file they are absent or "auto". DeepSpeed ignores unknown
top-level keys in silence, so they are refused here. Pure: no torch, no deepspeed.
"""

from __future__ import annotations

import difflib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from unibert.errors import ConfigError
from unibert.plan import accumulation_steps
from unibert.schema import Recipe

# Keys of the file's own, and keys that the recipe owns (absent or "auto").
MECHANICS = frozenset(
    """zero_optimization bf16 fp16 data_types communication_data_type prescale_gradients
    gradient_predivide_factor zero_force_ds_cpu_optimizer aio comms_logger compile checkpoint memory_breakdown
    wall_clock_breakdown disable_allgather seq_parallel_communication_data_type timers""".split()
)
RECIPE_OWNED = {
    "train_batch_size": "train.global_batch_sequences",
    "train_micro_batch_size_per_gpu": "train.micro_batch_sequences",
    "gradient_accumulation_steps": "train.global_batch_sequences",
    "gradient_clipping": "optimizer.clip_norm",
}
FORBIDDEN = {
    "optimizer": "the recipe's [optimizer] table",
    "scheduler": "the recipe's [optimizer] table",
    "tensorboard": "unibert's own TensorBoard files",
    "csv_monitor": "unibert's own metrics.jsonl",
    "wandb": "unibert's own TensorBoard files",
    "steps_per_print": "the recipe's log.every_steps",
    "activation_checkpointing": "the recipe",
    "zero_allow_untested_optimizer": "unibert, which passes its own optimizer",
    # It clips scaled gradients in ZeRO-1 to 3 (moments thousands of times too small), and loses its scaler's state.
    "torch_autocast": "the tables bf16 and fp16",
}


def find(name_or_path: str) -> Path:
    """The file of an engine: a name in ds_configs/ or a path.

    Raises:
        ConfigError: there is no such file.
    """
    path = Path(name_or_path)
    if path.suffix == ".json" and path.is_file():
        return path
    # The user's own, a checkout's, and where a wheel puts them.
    installed = Path(sys.prefix) / "share" / "unibert" / "ds_configs"
    folders = [Path("ds_configs"), Path(__file__).parents[2] / "ds_configs", installed]
    for folder in folders:
        if (folder / f"{name_or_path}.json").is_file():
            return folder / f"{name_or_path}.json"
    known = sorted({path.stem for folder in folders for path in folder.glob("*.json")})
    close = difflib.get_close_matches(name_or_path, known, n=1)
    hint = f"; perhaps you meant {close[0]!r}" if close else ""
    raise ConfigError(f"no DeepSpeed file {name_or_path!r}: name a .json file or one of: {', '.join(known)}{hint}")


def load(name_or_path: str, *, owned: dict[str, Any] | None = None) -> dict[str, Any]:
    """Read and check one file.

    Args:
        name_or_path: as in `find`.
        owned: the recipe's value of each key of RECIPE_OWNED, to be compared with literals in the file.

    Raises:
        ConfigError: not JSON, an unknown or forbidden key, or a literal that differs from the recipe.
    """
    path = find(name_or_path)
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from None
    problems = [_problem(key, value, owned or {}) for key, value in tree.items()]
    problems = [problem for problem in problems if problem]
    if problems:
        raise ConfigError(f"{path}: {len(problems)} thing(s) to mend:\n  " + "\n  ".join(problems))
    return tree


def _problem(key: str, value: Any, owned: dict[str, Any]) -> str | None:
    if key in FORBIDDEN:
        return f"{key}: belongs to {FORBIDDEN[key]}; take it out"
    if key in RECIPE_OWNED:
        mine = owned.get(key)
        if value == "auto" or (mine is not None and value == mine):
            return None
        said = f" (which says {mine})" if mine is not None else ""
        return f"{key} = {value}: the recipe's {RECIPE_OWNED[key]}{said} owns it; write 'auto' or leave it out"
    if key not in MECHANICS:
        close = difflib.get_close_matches(key, [*MECHANICS, *RECIPE_OWNED], n=1)
        hint = f"; perhaps you meant {close[0]!r}" if close else ""
        return f"{key}: DeepSpeed would ignore this key in silence{hint}"
    return _zero_problem(value) if key == "zero_optimization" else None


def _zero_problem(zero: dict[str, Any]) -> str | None:
    if zero.get("round_robin_gradients"):
        return "zero_optimization.round_robin_gradients: breaks DeepSpeed's map to the fp32 weights; take it out"
    optimizer = zero.get("offload_optimizer", {})
    if optimizer.get("device") == "nvme":
        return 'zero_optimization.offload_optimizer.device = "nvme": checkpoints could not read it; write "cpu"'
    if optimizer.get("ratio", 1) != 1:
        return "zero_optimization.offload_optimizer.ratio: DeepSpeed would put an AdamW of its own beside; take it out"
    return None


def owned_by_recipe(recipe: Recipe, *, world: int) -> dict[str, float]:
    """The recipe's value of each key that a file may only repeat.

    Raises:
        ConfigError: the global batch does not divide.
    """
    return {
        "train_batch_size": recipe.train.global_batch_sequences,
        "train_micro_batch_size_per_gpu": recipe.train.micro_batch_sequences,
        "gradient_accumulation_steps": accumulation_steps(recipe, world=world),
        "gradient_clipping": recipe.optimizer.clip_norm,
    }


def stage(tree: dict[str, Any]) -> int:
    """ZeRO stage of a file, 0 to 3."""
    return int(tree.get("zero_optimization", {}).get("stage", 0))


def offloads(tree: dict[str, Any], what: str) -> bool:
    """Whether the file moves `optimizer` or `param` off the device."""
    return tree.get("zero_optimization", {}).get(f"offload_{what}", {}).get("device", "none") != "none"


def complete(
    tree: dict[str, Any], *, micro_batch: int, accumulation: int, world: int, clip_norm: float, bf16_is_faster: bool
) -> dict[str, Any]:
    """The dictionary given to `deepspeed.initialize`: every "auto" filled, every trap closed.

    Gradient clipping is always written, since DeepSpeed's default has changed from 0 to 1. An nvme_path of "auto" is
    the folder in UNIBERT_NVME, or else where temporary files go (TMPDIR).
    """
    out = json.loads(json.dumps(tree))
    bf16 = out.get("bf16", {})
    if bf16.get("enabled") == "auto":
        bf16["enabled"] = bf16_is_faster
    if bf16.get("enabled"):
        # With fp32 accumulation in ZeRO-1 DeepSpeed would else clear the gradients of what is used behind the
        # encoder (a head's bias, projections): they are there before its own backward begins.
        bf16["immediate_grad_update"] = True
    else:
        out.pop("bf16", None)
    out.update(
        train_batch_size=micro_batch * accumulation * world,
        train_micro_batch_size_per_gpu=micro_batch,
        gradient_accumulation_steps=accumulation,
        gradient_clipping=clip_norm,
        zero_allow_untested_optimizer=True,
        steps_per_print=10**9,
    )
    out.setdefault("zero_force_ds_cpu_optimizer", False)
    parameters = out.get("zero_optimization", {}).get("offload_param", {})
    if parameters.get("nvme_path") == "auto":
        parameters["nvme_path"] = os.environ.get("UNIBERT_NVME") or tempfile.gettempdir()
    return out
