"""A training step of distillation, ours against what a Hugging Face user writes by hand, in one run on one CPU.

    python -m benchmarks.distillation_step [--save] [--quick] [--repeats N] [--rows-512 R] [--threads N]

The same student (6 x 384), teacher (12 x 768), batch and losses on both sides: masked LM, KL of the logits at the
masked positions (T = 2), KL of the attention maps of six pairs of layers. The other side is transformers with eager
attention, `output_attentions=True`, and the logits of every token. Forward and backward, without the optimizer, which
is the same. Both use the same weights, and the run ends if their losses or gradients differ. Memory is the peak of the
resident set over a step, less what was there before it; gradients are there already. K3 alone is the raw-score
distance of one layer.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import BertConfig, BertForMaskedLM

from benchmarks.rows import save
from kernels.attention_maps import attention_distance
from unibert.data.batches import Batch
from unibert.models.attention import NAME
from unibert.models.encoder import Encoder, encode
from unibert.models.wanted import Sizes
from unibert.objectives import MicroStep, Needs, Setting, build
from unibert.schema import Recipe, Student

TEMPERATURE, MASKED = 2.0, 0.15
OBJECTIVES = {"masked_lm": {}, "distill_logits": {"temperature": TEMPERATURE}, "distill_attention": {"form": "kl"}}


def bert(*, layers: int, width: int, vocabulary: int, longest: int) -> BertForMaskedLM:
    return BertForMaskedLM(
        BertConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=12,
            intermediate_size=4 * width,
            max_position_embeddings=longest,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )


def full_rows(rows: int, width: int, *, vocabulary: int) -> Batch:
    """One document a row, each as long as the row."""
    generator = torch.Generator().manual_seed(0)
    tokens = rows * width
    targets = torch.randperm(tokens, generator=generator)[: int(MASKED * tokens)].sort().values
    ids = torch.randint(5, vocabulary, (rows, width), generator=generator)
    return Batch(
        input_ids=ids,
        position_ids=torch.arange(width).repeat(rows, 1),
        document=torch.arange(rows)[:, None].repeat(1, width),
        target_positions=targets,
        target_ids=torch.randint(5, vocabulary, targets.shape, generator=generator),
        cls_positions=torch.arange(rows) * width,
        language=torch.zeros(rows, dtype=torch.int64),
        sample_ids=torch.arange(rows),
        tokens=tokens,
    )


class Sides:
    """Both ways over the same two models."""

    def __init__(self, *, layers: int, width: int, vocabulary: int, longest: int) -> None:
        torch.manual_seed(0)
        self.student = bert(layers=layers, width=width, vocabulary=vocabulary, longest=longest).train()
        wider = {"layers": 2 * layers, "width": 2 * width}
        self.teacher = bert(**wider, vocabulary=vocabulary, longest=longest).eval().requires_grad_(False)
        self.encoders = Encoder(self.student), Encoder(self.teacher)
        pairs = [[layer, 2 * layer] for layer in range(1, layers + 1)]
        tables = OBJECTIVES | {"distill_attention": {"form": "kl", "layers": pairs}}
        recipe = Recipe(name="bench", languages=("en",), student=Student(start="random"), teacher={}, objectives=tables)
        self.pairs = pairs
        self.objectives = build(Setting(recipe, Sizes.of(self.student.config), Sizes.of(self.teacher.config)))

    def ours(self, batch: Batch) -> torch.Tensor:
        needs = Needs()
        for objective in self.objectives:
            needs = needs | objective.needs
        at = MicroStep(batch)
        with torch.no_grad():
            at.teacher = encode(self.encoders[1], batch, needs.teacher)
        at.student = encode(self.encoders[0], batch, needs.student)
        at.factors = {objective.name: 1 / objective.count(batch) for objective in self.objectives}
        return sum(at.factors[o.name] * o.term(at).total for o in self.objectives)

    def eager(self, batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            theirs = self.teacher(batch.input_ids, output_attentions=True)
        out = self.student(batch.input_ids, output_attentions=True)
        z, z_t = (logits.flatten(0, 1)[batch.target_positions] for logits in (out.logits, theirs.logits))
        log_s, log_t = (F.log_softmax(x / TEMPERATURE, dim=-1) for x in (z, z_t))
        loss = F.cross_entropy(z, batch.target_ids)
        loss = loss + TEMPERATURE**2 * F.kl_div(log_s, log_t, log_target=True, reduction="batchmean")
        for student, teacher in self.pairs:
            maps, others = out.attentions[student - 1], theirs.attentions[teacher - 1]
            apart = (others * (others.clamp_min(1e-30).log() - maps.clamp_min(1e-30).log())).sum()
            loss = loss + apart / (maps.shape[0] * maps.shape[1] * maps.shape[2] * len(self.pairs))
        return loss

    def step(self, side: str, batch: Batch) -> float:
        for model in (self.student, self.teacher):
            model.set_attn_implementation(NAME if side == "ours" else "eager")
        for parameter in self.student.parameters():
            if parameter.grad is not None:
                parameter.grad.zero_()
        loss = getattr(self, side)(batch)
        loss.backward()
        return loss.item()


def peak_of(call: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds of a call, and MiB that it needed at most beside what was there."""
    Path("/proc/self/clear_refs").write_text("5")
    before, began = resident("VmRSS"), time.process_time()
    call()
    return time.process_time() - began, resident("VmHWM") - before


def resident(name: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def check(sides: Sides, batch: Batch) -> None:
    """The same losses and gradients to 1e-5 of their size."""
    losses, gradients = [], []
    for side in ("eager", "ours"):
        losses.append(sides.step(side, batch))
        gradients.append([p.grad.clone() for p in sides.student.parameters() if p.grad is not None])
    assert abs(losses[0] - losses[1]) <= 1e-5 * abs(losses[0]), losses
    whole = torch.stack([g.norm() for g in gradients[0]]).norm()
    apart = torch.stack([(a - b).norm() for a, b in zip(*gradients, strict=True)]).norm()
    assert apart <= 1e-5 * whole, f"gradients are {apart / whole:.1e} apart"


def measure(sides: Sides, batch: Batch, *, repeats: int) -> tuple[dict[str, float], dict[str, float]]:
    found: dict[str, list[tuple[float, float]]] = {"ours": [], "eager": []}
    for _ in range(repeats):
        for side, seen in found.items():
            seen.append(peak_of(lambda side=side: sides.step(side, batch)))
    speed = {side: batch.tokens / statistics.median(s for s, _ in seen) for side, seen in found.items()}
    return speed, {side: statistics.median(m for _, m in seen) for side, seen in found.items()}


def raw_scores(width: int, *, rows: int, repeats: int) -> tuple[float, float]:
    """CPU ms of K3 and of autograd over maps."""
    generator = torch.Generator().manual_seed(0)
    every = [torch.randn(rows, width, 12, size, generator=generator).transpose(1, 2) for size in (32, 32, 64, 64)]
    student, teacher = [x.requires_grad_() for x in every[:2]], every[2:]  # laid out as a model's projections give them
    document_RS = torch.arange(rows)[:, None].repeat(1, width)

    def maps() -> torch.Tensor:
        s, t = (q @ k.mT / q.shape[-1] ** 0.5 for q, k in (student, teacher))
        return (s - t).square().sum() / (width * 12)

    def ours() -> torch.Tensor:
        return attention_distance(tuple(student), tuple(teacher), document_RS=document_RS, form="scores_mse")

    torch.testing.assert_close(ours(), maps(), rtol=1e-5, atol=0)
    times: dict[Callable, list[float]] = {ours: [], maps: []}
    for _ in range(repeats + 1):
        for call, seen in times.items():
            seen.append(peak_of(lambda call=call: torch.autograd.grad(call(), student))[0])
    return 1000 * statistics.median(times[ours][1:]), 1000 * statistics.median(times[maps][1:])


def main(words: list[str] | None = None) -> list[list[object]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="append the rows to results.csv")
    parser.add_argument("--quick", action="store_true", help="small sizes, which show that it runs and nothing else")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows-512", type=int, default=4, help="rows of 512 tokens; four times as many of 128")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(words)
    torch.set_num_threads(options.threads)
    layers, width, vocabulary = (2, 48, 500) if options.quick else (6, 384, 119_547)
    widths, repeats = ((16, 32), 1) if options.quick else ((128, 512), options.repeats)
    sides = Sides(layers=layers, width=width, vocabulary=vocabulary, longest=max(widths))
    device, rows = f"CPU, {options.threads} threads, float32", []
    for tokens in widths:
        batch = full_rows(options.rows_512 * max(widths) // tokens, tokens, vocabulary=vocabulary)
        check(sides, batch)
        speed, memory = measure(sides, batch, repeats=repeats)
        shape = f"{layers}x{width} from {2 * layers}x{2 * width}, V {vocabulary}, {len(batch.document)}x{tokens}"
        for what, unit, found in (
            ("step: masked LM + logits KL + attention KL", "tokens per CPU second (higher is better)", speed),
            ("step: peak memory of activations", "MiB (lower is better)", memory),
        ):
            against = "transformers, eager maps and all logits"
            rows.append([what, against, shape, device, unit, f"{found['ours']:.1f}", f"{found['eager']:.1f}", repeats])
        ours, maps = raw_scores(tokens, rows=len(batch.document), repeats=repeats)
        shape = f"{len(batch.document)}x12x{tokens}, 32 from 64 wide"
        rows.append(["K3 raw-score MSE", "autograd over maps", shape, device, "CPU ms (lower is better)"])
        rows[-1] += [f"{ours:.2f}", f"{maps:.2f}", repeats]
        for row in rows[-3:]:
            print(*row, sep=" | ", flush=True)
    if options.save:
        save([["distillation_step.py", *row] for row in rows])
    return rows


if __name__ == "__main__":
    main()
