"""Distillation end to end on a CPU: ours against a Hugging Face Trainer and against TextBrewer.

    python -m benchmarks.peers [--save] [--quick] [--widths 128 512] [--rows-512 R] [--vocabulary V] [--repeats N]

The same student (6 x 384) and teacher (12 x 768), both random, the same batches, optimizer and losses: masked LM, KL of
the logits at the masked positions (T = 2), squared distance of the attention maps of six pairs of layers, which is what
TextBrewer can do with the maps that transformers give today. fp32, one thread, each contestant in a process of its own
(benchmarks/contestants.py). Before anything is reported, the losses of each step are checked to be equal. A contestant
that is not installed is left out: `pip install accelerate` for the Trainer, `pip install --no-deps textbrewer`.

Tokens/s are of CPU time, so that other work on the machine shows little; memory is the most that was resident after
the first step: weights, gradients and optimizer of the student, the teacher, and what a step needs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from benchmarks.rows import save
from unibert.data.lines import write_json
from unibert.data.shard_format import TokenizerFacts, language_entry, write_file, write_manifest

TREE = Path(__file__).parents[1]
PEERS = {
    "trainer": ("accelerate", "Hugging Face Trainer, output_attentions and all logits"),
    "textbrewer": ("textbrewer", "TextBrewer 0.2.1.post1, GeneralDistiller"),
}
SPECIAL = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
HEADS = 12
RECIPE = """
name = "peers"
runs_folder = "{folder}/runs"
languages = ["en"]

[data]
folder = "{folder}/data"
max_sequence_tokens = {width}

[teacher]
path = "{folder}/teacher"
dtype = "fp32"

[student]
start = "random"
num_layers = {layers}
hidden_size = {hidden}
num_heads = {heads}
intermediate_size = {inner}

[optimizer]
warmup_fraction = 0.0
schedule = "constant"

[train]
steps = {steps}
global_batch_sequences = {rows}
micro_batch_sequences = {rows}
threads_per_rank = 1

[save]
export = false

[engines]
student = "{folder}/fp32.json"

[objectives.masked_lm]

[objectives.distill_logits]
temperature = 2.0

[objectives.distill_attention]
form = "maps_mse"
layers = {pairs}
"""


def make_workspace(
    folder: Path, *, layers: int, hidden: int, vocabulary: int, width: int, rows: int, steps: int
) -> Path:
    """Rows of made-up pieces, a random teacher of twice the student's layers and width, and a recipe; returns it."""
    data = folder / "data"
    names = [*SPECIAL.values(), *(f"p{number}" for number in range(len(SPECIAL), vocabulary))]
    tokenizer = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL).save_pretrained(data / "tokenizer")
    for kind, count in (("shards", 2 * rows * steps), ("shards_heldout", rows)):
        make_shards(data / kind, count=count, vocabulary=vocabulary, width=width)
    (data / "heldout" / "lines").mkdir(parents=True)
    (data / "heldout" / "parallel.jsonl").write_text('{"key": "m", "texts": {"en": "p7 p8"}}\n')
    (data / "heldout" / "lines" / "en.jsonl").write_text('{"id": "x", "text": "p7 p8"}\n')
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=vocabulary, num_hidden_layers=2 * layers, hidden_size=2 * hidden, num_attention_heads=HEADS,
        intermediate_size=8 * hidden, max_position_embeddings=width, pad_token_id=1,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder / "teacher")
    PreTrainedTokenizerFast.from_pretrained(data / "tokenizer").save_pretrained(folder / "teacher")
    write_json(folder / "fp32.json", {"zero_optimization": {"stage": 0}, "bf16": {"enabled": False}})
    recipe, pairs = folder / "peers.toml", [[layer, 2 * layer] for layer in range(1, layers + 1)]
    sizes = {"layers": layers, "hidden": hidden, "heads": HEADS, "inner": 4 * hidden, "width": width}
    recipe.write_text(RECIPE.format(folder=folder, rows=rows, steps=steps, pairs=pairs, **sizes))
    return recipe


def make_shards(folder: Path, *, count: int, vocabulary: int, width: int) -> None:
    """Documents that fill a row each."""
    facts = TokenizerFacts.read(folder.parent / "tokenizer")
    ids = np.random.default_rng(0).integers(len(SPECIAL), vocabulary, size=(count, width))
    ids[:, 0], ids[:, -1] = facts.special.cls, facts.special.sep
    lengths = np.full(count, width)
    file = write_file(folder / "en-00000.tokens", language="en", chunks=[(ids.ravel(), lengths)], tokenizer=facts)
    assert file is not None
    entries = {"en": language_entry([file], tokenizer=facts, facts={"characters": 1})}
    write_manifest(folder, languages=entries, tokenizer=facts, max_sequence_tokens=width)


def run(name: str, recipe: Path, *, steps: int) -> dict[str, Any]:
    """What a contestant prints.

    Raises:
        SystemExit: it failed; with its own words.
    """
    words = [sys.executable, "-m", "benchmarks.contestants", name, str(recipe), str(steps)]
    path = os.pathsep.join([str(TREE), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", **os.environ, "PYTHONPATH": path}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def check(found: dict[str, dict[str, Any]], *, tolerance: float = 1e-5) -> None:
    """Every part of the loss is the same at every step for all contestants that tell it.

    TextBrewer tells no KL of the logits; were its gradient another, the other parts would differ from step 2 on. The
    steps move all by gradients that differ in the last digits, which AdamW makes as large as any: hence ten times the
    tolerance after the first.
    """
    for name, other in found.items():
        for number, (ours, theirs) in enumerate(zip(found["ours"]["losses"], other["losses"], strict=True)):
            allowed = tolerance * (1 if number == 0 else 10)
            for part, value in theirs.items():
                if value is not None and not math.isclose(ours[part], value, rel_tol=allowed):
                    raise SystemExit(f"step {number + 1}: {part} is {ours[part]} for ours and {value} for {name}")


def installed() -> Iterable[str]:
    """Peers that are here; says which are not."""
    for name, (package, _) in PEERS.items():
        if find_spec(package) is not None:
            yield name
        else:
            print(f"{name} is left out: {package} is not installed")


def compare(*, shape: str, tokens: int, recipe: Path, steps: int) -> list[list[object]]:
    """Rows of one width."""
    found = {name: run(name, recipe, steps=steps) for name in ("ours", *installed())}
    check(found)
    speed = {name: tokens / statistics.median(one["seconds"]) for name, one in found.items()}
    rows: list[list[object]] = []
    for name in list(found)[1:]:
        about = [PEERS[name][1], shape, "CPU, 1 thread, float32"]
        figures = f"{speed['ours']:.1f}", f"{speed[name]:.1f}", steps - 2
        rows.append(["distillation end to end", *about, "tokens per CPU second (higher is better)", *figures])
        figures = f"{found['ours']['peak']:.0f}", f"{found[name]['peak']:.0f}", steps - 2
        rows.append(["distillation end to end, peak memory", *about, "MiB resident (lower is better)", *figures])
    return rows


def main(words: list[str] | None = None) -> list[list[object]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="append the rows to results.csv")
    parser.add_argument("--quick", action="store_true", help="small sizes, which show that it runs and nothing else")
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 512], help="tokens of a row")
    parser.add_argument("--rows-512", type=int, default=1, help="rows of 512 tokens; more of fewer")
    parser.add_argument("--vocabulary", type=int, default=119_547)
    parser.add_argument("--repeats", type=int, default=3, help="steps that are timed")
    options = parser.parse_args(words)
    layers, hidden, vocabulary = (2, 48, 500) if options.quick else (6, 384, options.vocabulary)
    rows: list[list[object]] = []
    for width in options.widths:
        documents = 512 * options.rows_512 // width
        shape = f"{layers}x{hidden} from {2 * layers}x{2 * hidden}, V {vocabulary}, {documents}x{width}"
        with tempfile.TemporaryDirectory() as folder:
            sizes = {"layers": layers, "hidden": hidden, "vocabulary": vocabulary, "width": width, "rows": documents}
            recipe = make_workspace(Path(folder), **sizes, steps=options.repeats + 2)
            rows += compare(shape=shape, tokens=documents * width, recipe=recipe, steps=options.repeats + 2)
    for row in rows:
        print(*row, f"ratio {float(str(row[5])) / float(str(row[6])):.2f}", sep=" | ")
    if options.save:
        save([["peers.py", *row] for row in rows])
    return rows


if __name__ == "__main__":
    main()
