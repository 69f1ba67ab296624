"""Sizes of the models and bytes of each player on one rank, by ZeRO stage and precision."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unibert.errors import DataError
from unibert.schema import Recipe


@dataclass(frozen=True)
class Dimensions:
    """Sizes of a BERT encoder with a masked-LM head whose decoder is tied to the word embeddings."""

    hidden: int
    layers: int
    intermediate: int
    vocabulary: int
    positions: int = 512
    types: int = 2

    @property
    def embeddings(self) -> int:
        """Parameters of the three embedding tables."""
        return (self.vocabulary + self.positions + self.types) * self.hidden

    @property
    def head(self) -> int:
        """Parameters of the masked-LM head without the tied decoder: dense, LayerNorm, bias."""
        return self.hidden * self.hidden + 3 * self.hidden + self.vocabulary

    @property
    def words(self) -> int:
        """Parameters of the word embeddings, which are the decoder's too."""
        return self.vocabulary * self.hidden

    @property
    def layer(self) -> int:
        """Parameters of a layer: 4 H^2 + 2 H F + F + 9 H."""
        return 4 * self.hidden * self.hidden + 2 * self.hidden * self.intermediate + self.intermediate + 9 * self.hidden

    @property
    def total(self) -> int:
        """All parameters: the layers, the tables with their LayerNorm, and the head."""
        return self.embeddings + 2 * self.hidden + self.layers * self.layer + self.head

    def moving(self, trainable: str) -> int:
        """Parameters with a gradient, by `student.trainable`."""
        return {"all": self.total, "all_but_embeddings": self.total - self.embeddings, "head": self.head}[trainable]

    def largest(self, trainable: str) -> int:
        """Elements of the largest tensor with a gradient."""
        matrix = self.hidden * (self.hidden if trainable == "head" else max(self.hidden, self.intermediate))
        return max(matrix, self.hidden * max(self.vocabulary, self.positions)) if trainable == "all" else matrix


@dataclass(frozen=True)
class Engine:
    """Bytes of one player on one rank before it moves. Activations and buffers of communication come on top."""

    name: str
    parameters: int
    moving: int
    """Parameters with a gradient."""
    zero_stage: int | None
    """None: not a DeepSpeed engine."""
    precision: str
    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    """fp32 masters, the two moments, and what an offloaded optimizer needs to read gradients and give weights back."""
    host_bytes: int
    """Part of the above that is offloaded to host memory or files."""
    elsewhere: bool = False
    """In a process of its own, of which a machine has one: no rank holds it."""

    @property
    def total_bytes(self) -> int:
        """Weights, gradients and optimizer."""
        return self.weights_bytes + self.gradients_bytes + self.optimizer_bytes

    @property
    def rank_bytes(self) -> int:
        """What a rank has of it, on its device and on the host."""
        return 0 if self.elsewhere else self.total_bytes


def student_dimensions(recipe: Recipe, manifest: Mapping[str, Any] | None) -> tuple[Dimensions, list[str]]:
    """Sizes of the student, and a note where they are assumed."""
    student, teacher = recipe.student, recipe.teacher
    vocabulary = manifest["tokenizer"]["vocabulary_size"] if manifest else recipe.tokenizer.max_pieces
    positions = max(512, recipe.data.max_sequence_tokens)
    own = Dimensions(student.hidden_size, student.num_layers, student.intermediate_size, vocabulary, positions)
    if student.start == "random":
        return own, [] if manifest else ["the vocabulary is assumed to be tokenizer.max_pieces until there are shards"]
    sources = [student.start_from] + ([teacher.path, teacher.trimmed, teacher.original] if teacher else [])
    for source in sources:
        found = read_dimensions(source) if source else None
        if found:
            layers = len(student.teacher_layers) if student.teacher_layers else found.layers
            return Dimensions(**asdict(found) | {"layers": layers}), []
    return own, ["the student's sizes are assumed until its teacher is there (unibert teacher fetch RECIPE)"]


def read_dimensions(folder: Path) -> Dimensions | None:
    """Sizes in the config.json of a Hugging Face folder, or of a run folder's newest export; None without one."""
    paths = [folder / "config.json", *sorted((folder / "hf").glob("step_*/config.json"), key=_step_of, reverse=True)]
    for path in paths:
        if path.is_file():
            try:
                tree = json.loads(path.read_text(encoding="utf-8"))
                return Dimensions(
                    hidden=tree["hidden_size"],
                    layers=tree["num_hidden_layers"],
                    intermediate=tree["intermediate_size"],
                    vocabulary=tree["vocab_size"],
                    positions=tree["max_position_embeddings"],
                    types=tree.get("type_vocab_size", 0),
                )
            except (ValueError, KeyError) as error:
                raise DataError(f"{path}: not the configuration of an encoder: {error!r}") from None
    return None


def _step_of(path: Path) -> int:
    match = re.search(r"step_(\d+)", str(path))
    return int(match[1]) if match else -1


def engines_of(recipe: Recipe, *, world: int, student: Dimensions, tree: Mapping[str, Any]) -> tuple[Engine, ...]:
    """Student and discriminator of a recipe; `tree` is the student's DeepSpeed file."""
    engines = [_student(recipe, world, student, tree)]
    if recipe.discriminator:
        table = recipe.discriminator
        size = (student.hidden + 1) * table.hidden_size + (table.hidden_size + 1) * len(recipe.languages)
        engines.append(Engine("discriminator", size, size, None, "fp32", 4 * size, 4 * size, 8 * size, 0))
    return tuple(engines)


def _student(recipe: Recipe, world: int, dimensions: Dimensions, tree: Mapping[str, Any]) -> Engine:
    """Bytes by ZeRO stage: 1 divides the optimizer by the ranks, 2 the gradients too, 3 the weights too."""
    zero = tree.get("zero_optimization", {})
    stage = int(zero.get("stage", 0))
    half = any(tree.get(kind, {}).get("enabled") is True for kind in ("bf16", "fp16"))
    auto = tree.get("bf16", {}).get("enabled") == "auto"
    precision = ("bf16" if tree.get("bf16", {}).get("enabled") is True else "fp16") if half else "fp32"
    width = 2 if half else 4
    moving = dimensions.moving(recipe.student.trainable)
    share = moving // (world if stage >= 1 else 1)
    weights = width * dimensions.total // (world if stage >= 3 else 1)
    gradients = width * moving // (world if stage >= 2 else 1)
    # Below 16 bits or with ZeRO, DeepSpeed keeps fp32 masters beside the weights; the optimizer has two moments.
    optimizer = (8 + (4 if half or stage else 0)) * share
    on_host = 0
    if _offloads(zero, "optimizer"):
        largest = width * dimensions.largest(recipe.student.trainable) if stage < 3 else 0
        optimizer += 4 * share  # gradients in fp32 for the optimizer on the host
        # ZeRO 1 and 2 send weights back through a copy on the host, and gradients there one by one.
        optimizer += width * share + largest if stage < 3 else 0
        on_host = optimizer + (gradients if stage >= 2 else 0)
        gradients += largest  # the sending end on the device
    if _offloads(zero, "param"):
        on_host += weights
    return Engine(
        name="student",
        parameters=dimensions.total,
        moving=moving,
        zero_stage=stage,
        precision=f"{precision} or bf16" if auto else precision,
        weights_bytes=weights,
        gradients_bytes=gradients,
        optimizer_bytes=optimizer,
        host_bytes=on_host,
    )


def _offloads(zero: Mapping[str, Any], what: str) -> bool:
    return zero.get(f"offload_{what}", {}).get("device", "none") != "none"
