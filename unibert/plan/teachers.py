"""Bytes of what teaches beside the student on one rank: teachers of every kind, and a momentum copy. No torch here.

What each kind holds is what models/teacher says that it holds: resident, the whole encoder; offloaded, two buffers of a
layer and what never leaves the device, while layers and word embeddings rest on the host; cached, the encoder without
its layers, which is the head and the vocabulary (nothing of a top-k cache); served, nothing on a rank, and the whole
encoder once in a process of its own. Several teachers are all there, whichever of them speaks.
"""

from __future__ import annotations

from collections.abc import Iterator

from unibert.objective_tables import MomentumContrast
from unibert.pair_rules import reads_teacher
from unibert.plan.memory import Dimensions, Engine, read_dimensions
from unibert.schema import Recipe
from unibert.teacher_tables import Teacher


def engines_beside(recipe: Recipe, student: Dimensions) -> Iterator[Engine]:
    """A line for each teacher that an objective reads, as far as its sizes are known, and for a momentum copy."""
    table, on = recipe.teacher, recipe.objectives.on()
    if table is not None and any(name.startswith("distill_") or reads_teacher(name, on[name]) for name in on):
        first = next(
            filter(None, map(read_dimensions, filter(None, [table.path, table.trimmed, table.original]))), None
        )
        found = [first, *(read_dimensions(other.path) for other in table.more)]
        for number, sizes in enumerate(found, start=1):
            if sizes is not None:
                yield _teacher(table, sizes, name="teacher" if number == 1 else f"teacher {number}")
    if isinstance(aligned := recipe.objectives.align_sentences, MomentumContrast):
        yield _momentum(aligned, student)


def _teacher(table: Teacher, sizes: Dimensions, *, name: str) -> Engine:
    """One teacher, of the table's kind."""
    width = 2 if table.dtype == "bf16" else 4
    exact_head = table.head_dtype == "fp32"
    copied = 4 * (sizes.head + sizes.words) if exact_head else 0  # the head in fp32 is a copy of its own
    weights, on_host, parameters = width * sizes.total + copied, 0, sizes.total
    if table.kind == "offloaded":
        layers = sizes.layers * sizes.layer
        staying = sizes.total - layers - sizes.words
        on_host = width * (layers + sizes.words)
        weights, name = on_host + width * (2 * sizes.layer + staying), f"{name}, offloaded"
    elif table.kind == "cached":
        parameters = 0 if table.cache == "topk" else sizes.total - sizes.layers * sizes.layer
        weights, name = (4 if exact_head else width) * parameters, f"{name}, cached"
    elif table.kind == "served":
        name = f"{name}'s server"
    precision = {"auto": "fp32 or bf16"}.get(table.dtype, table.dtype)
    return Engine(name, parameters, 0, None, precision, weights, 0, 0, on_host, elsewhere=table.kind == "served")


def _momentum(table: MomentumContrast, student: Dimensions) -> Engine:
    """PPA's slowly following copy: the student whole in fp32 on every rank, its projection, and the full queue."""
    hidden, projected = student.hidden, table.projection_size
    parameters = student.total + hidden * (hidden + 1) + (hidden + 1) * projected
    held = 4 * (parameters + table.queue_size * projected)
    return Engine("momentum copy", parameters, 0, None, "fp32", held, 0, 0, 0)
