"""The cases of players_table.py: what is trained, by which engines, from which start."""

from __future__ import annotations

import json
import re
from dataclasses import astuple, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from tests.runs import ROOT, trains_in
from tests.tiny import make_teacher, make_workspace
from unibert.data.batches import Batch, Stream

STEPS, GLOBAL_BATCH = 10, 32
WITHOUT_TARGETS = range(12, 16)  # of each step's documents, in the cases "empty terms": one micro-batch of one rank
WINDOW, MICRO = "--discriminator.turns=1", '--discriminator.turns="every_micro_batch"'
WAYS = {
    "reversal": ["--objectives.language_confusion.form=reversal", WINDOW],
    "k = 1, per window": [WINDOW],
    "k = 3, per window": [WINDOW, "--discriminator.moves=3"],
    "k = 1, per micro-batch": [MICRO],
    "k = 3, per micro-batch": [MICRO, "--discriminator.moves=3"],
}
OPTIMIZERS = {"adamw": 1e-3, "lamb": 1e-2}
"""The student's optimizer and its rate: LAMB's is a share of the weight's norm."""
VARIATIONS = {
    "": [],
    "empty terms": [],
    "activations recomputed": ["--train.recompute_activations=true"],
    "compiled": ["--train.compile=true"],
    "discriminator in ZeRO-1": ["--engines.discriminator=zero1_fp32"],
    "discriminator in ZeRO-2": ["--engines.discriminator=zero2_fp32"],
    "discriminator in ZeRO-3": ["--engines.discriminator=zero3_fp32"],
    "student overflows": [],
    "discriminator overflows": ["--engines.discriminator=zero0_fp16_overflow"],
    "tutorial": [],
    "tutorial, discriminator in ZeRO-1": ["--engines.discriminator=zero1_fp32"],
    "tutorial, discriminator in ZeRO-2": ["--engines.discriminator=zero2_fp32"],
}
PRECISIONS: dict[str, dict] = {
    "fp32": {},
    "bf16": {"bf16": {"enabled": True}},
    "fp16": {"fp16": {"enabled": True, "initial_scale_power": 12}},
    # Too large for the first gradients; each overflow halves it.
    "fp16_overflow": {"fp16": {"enabled": True, "initial_scale_power": 18, "hysteresis": 1}},
}


@dataclass(frozen=True)
class Case:
    """One cell of a table."""

    stage: int
    way: str
    optimizer: str = "adamw"
    world: int = 2
    accumulation: int = 4
    precision: str = "fp32"
    variation: str = ""

    def __str__(self) -> str:
        shape = f"{self.world} rank(s), accumulation {self.accumulation}, {self.precision}"
        return f"ZeRO-{self.stage}, {self.way}, {self.optimizer}, {shape}, {self.variation}".removesuffix(", ")


FP32 = [
    Case(stage, way, optimizer, world, accumulation)
    for way, optimizer, stage, world, accumulation in product(WAYS, OPTIMIZERS, range(4), (1, 2), (1, 4))
]
HALF = [
    Case(stage, way, optimizer, world, precision=precision)
    for (precision, way), optimizer, stage, world in product(
        (("bf16", "reversal"), ("bf16", "k = 3, per window"), ("fp16", "reversal")), OPTIMIZERS, range(4), (1, 2)
    )
]
MORE = [
    *(Case(stage, "k = 1, per window", variation="empty terms") for stage in range(4)),
    *(Case(stage, "k = 1, per window", variation="activations recomputed") for stage in range(4)),
    *(Case(1, "k = 3, per micro-batch", variation=f"discriminator in ZeRO-{stage}") for stage in (1, 2, 3)),
    Case(1, "k = 1, per window", variation="compiled"),
]
OVERFLOWS = [
    *(Case(stage, "k = 1, per window", precision="fp16_overflow", variation="student overflows") for stage in range(4)),
    Case(1, "k = 1, per window", variation="discriminator overflows"),
]
TUTORIAL = [
    *(Case(stage, "k = 1, per window", variation="tutorial") for stage in range(4)),
    *(Case(1, "k = 1, per window", variation=f"tutorial, discriminator in ZeRO-{stage}") for stage in (1, 2)),
]
SELECTIONS = {
    "all": [*FP32, *HALF, *MORE, *OVERFLOWS, *TUTORIAL],
    # Every stage, way and optimizer at least once; for `make test`.
    "sample": [
        Case(0, "reversal"),
        Case(1, "reversal", "lamb", accumulation=1),
        Case(1, "k = 1, per window"),
        Case(2, "k = 3, per window", "lamb"),
        Case(2, "k = 1, per micro-batch"),
        Case(3, "k = 3, per micro-batch", "lamb"),
        Case(0, "reversal", world=1, precision="bf16"),
        Case(1, "reversal", precision="bf16"),
        Case(0, "reversal", precision="fp16"),
        Case(2, "k = 1, per window", variation="empty terms"),
        Case(1, "k = 1, per window", variation="activations recomputed"),
        OVERFLOWS[1],
        OVERFLOWS[-1],
        TUTORIAL[0],
    ],
}


def trains_here(case: Case) -> bool:
    """Whether this CPU trains in what the case needs."""
    return trains_in("fp16" if case in OVERFLOWS else case.precision)


def prepare(folder: Path) -> None:
    """The miniature workspace with a 4-layer teacher, a 4-layer student that is not its teacher, and engine files."""
    from transformers import BertForMaskedLM, PreTrainedTokenizerFast

    make_workspace(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "data" / "tokenizer")
    for name in ("teacher", "student"):
        make_teacher(folder / name, tokenizer, layers=4)
    student = BertForMaskedLM.from_pretrained(folder / "student")
    torch.manual_seed(8)
    with torch.no_grad():
        for parameter in student.parameters():
            # Vectors as if on their way: those that start at 0 would be nothing but their first steps' signs, and of
            # gradients near 0 these are rounding.
            parameter.add_(torch.randn_like(parameter) * (0.02 if parameter.dim() > 1 else 0.1))
    student.save_pretrained(folder / "student")
    for stage, (precision, table) in product(range(4), PRECISIONS.items()):
        tree: dict[str, Any] = json.loads((ROOT / "ds_configs" / f"zero{stage}.json").read_text())
        tree.pop("bf16")
        if stage == 3:  # else the tiny matrices would not be cut, and be one sub-group
            tree["zero_optimization"] |= {"stage3_param_persistence_threshold": 1000, "sub_group_size": 20000}
        (folder / f"zero{stage}_{precision}.json").write_text(json.dumps(tree | table))


def words(case: Case, folder: Path) -> list[str]:
    """The case as overrides of the tiny recipe."""
    settings = [
        f"--runs_folder={folder}/runs",
        f"--name={re.sub(r'[^A-Za-z0-9]+', '_', str(astuple(case)))}",
        f"--student.start_from={folder}/student",
        "--student.teacher_layers=[0, 1, 2, 3]",
        f"--engines.student=zero{case.stage}_{case.precision}",
        f"--optimizer.name={case.optimizer}",
        f"--optimizer.learning_rate={OPTIMIZERS[case.optimizer]}",
        "--optimizer.epsilon=1e-4",
        "--objectives.language_confusion.weight.max=1",
        "--optimizer.warmup_fraction=0",
        f"--train.steps={STEPS}",
        f"--train.global_batch_sequences={GLOBAL_BATCH}",
        f"--train.micro_batch_sequences={GLOBAL_BATCH // (case.world * case.accumulation)}",
        "--save.export=false",
        "--log.every_steps=1000",
    ]
    settings += WAYS[case.way] + VARIATIONS[case.variation]
    files = {file.stem: str(file) for file in folder.glob("zero*.json")}
    return [f"{key}={files.get(value, value)}" for key, value in (word.split("=", 1) for word in settings)]


def batches(stream: Stream, step: int, *, case: Case) -> list[Batch]:
    """The micro-batches of a step (from 1); some without targets where the case says so."""
    found = stream.step(step - 1)
    return [_some_without_targets(batch) for batch in found] if case.variation == "empty terms" else found


def _some_without_targets(batch: Batch) -> Batch:
    sample_M = batch.sample_ids[batch.document.flatten()[batch.target_positions]] % GLOBAL_BATCH
    keep = (sample_M < WITHOUT_TARGETS.start) | (sample_M >= WITHOUT_TARGETS.stop)
    return replace(batch, target_positions=batch.target_positions[keep], target_ids=batch.target_ids[keep])
