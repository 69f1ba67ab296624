"""Three ways to distil the same student from the same teacher on the same batches; peers.py compares them.

    python -m benchmarks.contestants NAME RECIPE STEPS

NAME is `ours` (the trainer of the recipe), `trainer` (a Hugging Face Trainer whose compute_loss reads the maps that
`output_attentions=True` gives, which wants eager attention, and the logits of every token) or `textbrewer`
(GeneralDistiller on the same models). All three take the recipe's student, batches, optimizer and clipping. Prints one
line of JSON: the parts of the loss of each step, CPU seconds of each step after the first, and the most MiB that were
resident during those.

TextBrewer's last release is of 2020. What its caller has to know today: logits and maps are handed over by an adaptor;
`kd_loss_weight` brings the T^2 that its cross-entropy lacks, which besides is larger than the KL by T^2 times the
entropy of the teacher; its `attention_mse` is given no mask, as the rows are full; its own step has no clipping unless
`max_grad_norm` is given; it saves the student after the last step, wherever that is.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import AutoModelForMaskedLM, PreTrainedModel

from unibert.config import Recipe, load_recipe
from unibert.data.batches import Batch, Stream
from unibert.data.shards import ShardSet
from unibert.measure import forget_memory, throwaway_trainer
from unibert.models.student import build_student
from unibert.models.teacher import teacher_sizes
from unibert.objectives.layers import layer_pairs
from unibert.runtime import dist
from unibert.runtime.optimizers import build

PARTS = ("masked_lm", "distill_logits", "distill_attention")


class Steps(Dataset):
    """The batches of a run, one a step; a step lasts until the next one is asked for."""

    def __init__(self, recipe: Recipe, *, count: int, form: Callable[[Batch], Any]) -> None:
        shards = ShardSet.open(recipe.data.folder / "shards", languages=recipe.languages)
        stream = Stream(recipe, shards, rank=0, world=1)
        self.given = [form(stream.step(number)[0]) for number in range(count)]
        self.asked: list[float] = []

    def __len__(self) -> int:
        return len(self.given)

    def __getitem__(self, number: int) -> Any:
        if number == 1:
            forget_memory()  # what the start and the first step needed
        self.asked.append(time.process_time())
        return self.given[number]

    def __iter__(self) -> Iterator[Any]:
        return (self[number] for number in range(len(self)))

    def seconds(self) -> list[float]:
        """Of each step but the first and the last, of which the end is not seen."""
        return [end - begin for begin, end in zip(self.asked[1:], self.asked[2:], strict=False)]


def resident(name: str) -> float:
    """MiB of a line of /proc/self/status: VmRSS is now, VmHWM the most since it was last forgotten."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def plain(batch: Batch) -> dict[str, Tensor]:
    """What a Hugging Face masked-LM model reads; every row is one document, as long as the row."""
    labels = torch.full_like(batch.input_ids, -100)
    labels.view(-1)[batch.target_positions] = batch.target_ids
    return {"input_ids": batch.input_ids, "attention_mask": torch.ones_like(labels), "labels": labels}


def models(recipe: Recipe) -> tuple[PreTrainedModel, PreTrainedModel, list[tuple[int, int]]]:
    """Student, teacher, and the layers whose maps are compared (from 0); both give maps."""
    assert recipe.teacher is not None
    student = build_student(recipe).hf
    teacher = AutoModelForMaskedLM.from_pretrained(recipe.teacher.path, dtype=torch.float32)
    for model in (student, teacher):
        model.set_attn_implementation("eager")
        model.config.output_attentions = True
    layers = student.config.num_hidden_layers, teacher_sizes(recipe).layers
    table: Any = recipe.objectives.distill_attention
    pairs = layer_pairs(table.layers, student=layers[0], teacher=layers[1], name=table.form, lowest=1)
    return student, teacher.eval().requires_grad_(False), [(ours - 1, theirs - 1) for ours, theirs in pairs]


# --- the three --------------------------------------------------------------------------------------------------------


def ours(recipe: Recipe, *, count: int) -> tuple[Steps, list[dict[str, float]]]:
    """The trainer's own step."""
    ranks, losses = dist.start(threads=1), []
    steps = Steps(recipe, count=count, form=lambda batch: batch)
    with throwaway_trainer(recipe, ranks=ranks) as trainer:
        for number, batch in enumerate(steps, start=1):
            trainer.meter.start()
            values = trainer.train_step(number, [batch])
            losses.append({part: values[f"loss/{part}"] for part in PARTS})
    dist.stop()
    return steps, losses


def trainer(recipe: Recipe, *, count: int) -> tuple[Steps, list[dict[str, float]]]:
    """A Hugging Face Trainer, as its users write distillation."""
    from transformers import Trainer, TrainingArguments

    student, teacher, pairs = models(recipe)
    table, steps, losses = recipe.objectives.distill_logits, Steps(recipe, count=count, form=plain), []
    assert table is not None

    class Distiller(Trainer):
        def get_train_dataloader(self) -> DataLoader:
            return DataLoader(steps, batch_size=None)  # batches in their order, as the others have them

        def compute_loss(self, model: Any, inputs: dict[str, Tensor], *_: Any, **__: Any) -> Tensor:
            out = model(**inputs)
            with torch.no_grad():
                theirs = teacher(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
            chosen = inputs["labels"] != -100
            log_s, log_t = (F.log_softmax(x.logits[chosen] / table.temperature, dim=-1) for x in (out, theirs))
            apart = F.kl_div(log_s, log_t, log_target=True, reduction="batchmean") * table.temperature**2
            maps = [F.mse_loss(out.attentions[s], theirs.attentions[t]) for s, t in pairs]
            parts = out.loss, apart, torch.stack(maps).mean()
            losses.append({name: part.item() for name, part in zip(PARTS, parts, strict=True)})
            return sum(parts)  # type: ignore[return-value]

    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder, max_steps=count, max_grad_norm=recipe.optimizer.clip_norm, use_cpu=True, save_strategy="no",
            logging_strategy="no", report_to=[], disable_tqdm=True,
        )  # fmt: skip
        Distiller(model=student, args=settings, train_dataset=steps, optimizers=moving(student, recipe)).train()
    return steps, losses


def textbrewer(recipe: Recipe, *, count: int) -> tuple[Steps, list[dict[str, float]]]:
    """TextBrewer's GeneralDistiller."""
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig  # type: ignore[import-not-found]

    student, teacher, pairs = models(recipe)
    table, steps, losses = recipe.objectives.distill_logits, Steps(recipe, count=count, form=plain), []
    assert table is not None

    class Distiller(GeneralDistiller):
        def train_on_batch(self, batch: Any, args: Any) -> Any:
            total, parts = super().train_on_batch(batch, args)
            maps = [part.item() for name, part in parts.items() if "attention" in name]
            found = (parts["unweighted_hard_label_loss"].item(), None, sum(maps) / len(maps))
            losses.append(dict(zip(PARTS, found, strict=True)))
            return total, parts

    def adaptor(batch: dict[str, Tensor], out: Any) -> dict[str, Any]:
        chosen = batch["labels"] != -100
        return {"logits": out.logits, "logits_mask": chosen, "losses": out.loss, "attention": out.attentions}

    one = {"feature": "attention", "loss": "attention_mse", "weight": 1 / len(pairs)}
    distillation = DistillationConfig(
        temperature=table.temperature,
        kd_loss_weight=table.temperature**2,
        hard_label_weight=1,
        intermediate_matches=[{"layer_S": s, "layer_T": t, **one} for s, t in pairs],
    )
    optimizer, scheduler = moving(student, recipe)
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingConfig(device="cpu", output_dir=folder, ckpt_steps=count + 1)
        with (distiller := Distiller(settings, distillation, teacher, student, adaptor, adaptor)):
            distiller.train(
                optimizer, steps, scheduler=scheduler, num_steps=count, max_grad_norm=recipe.optimizer.clip_norm
            )
    return steps, losses


def moving(student: PreTrainedModel, recipe: Recipe) -> tuple[Any, Any]:
    """The recipe's optimizer, and a schedule that changes nothing."""
    optimizer = build(student, table=recipe.optimizer)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)


CONTESTANTS = {"ours": ours, "trainer": trainer, "textbrewer": textbrewer}


def main(name: str, path: str, count: str) -> None:
    """Run one of them in this process."""
    torch.set_num_threads(1)
    steps, losses = CONTESTANTS[name](load_recipe(path), count=int(count))
    print(json.dumps({"losses": losses, "seconds": steps.seconds(), "peak": resident("VmHWM")}))


if __name__ == "__main__":
    main(*sys.argv[1:])
