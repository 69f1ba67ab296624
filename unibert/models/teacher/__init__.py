"""The teacher: a frozen encoder whose answers the student learns from, in several kinds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoConfig

from unibert.config import Recipe
from unibert.data.foreign import reads_text
from unibert.data.lines import say
from unibert.data.shard_format import TokenizerFacts
from unibert.errors import ConfigError, DataError
from unibert.models.encoder import load_encoder
from unibert.models.folders import newest_export
from unibert.models.precision import bf16_is_faster
from unibert.models.teacher.base import Lessons, Teacher
from unibert.models.teacher.pieces import Pieces, compare, with_our_pieces
from unibert.models.teacher.resident import ResidentTeacher
from unibert.models.wanted import Sizes
from unibert.teacher_tables import Teacher as TeacherTable

__all__ = [
    "Lessons",
    "ResidentTeacher",
    "Teacher",
    "load_one",
    "load_resident",
    "load_teacher",
    "our_pieces",
    "serve_teacher",
    "teacher_dtype",
    "teacher_folders",
    "teacher_sizes",
]


def teacher_sizes(recipe: Recipe) -> Sizes | None:
    """The shape of the recipe's teacher, its pieces mapped to ours; None when there is none to be read."""
    table = recipe.teacher
    if table is None:
        return None
    try:
        source = newest_export(table.path or table.trimmed)
        sizes = Sizes.of(AutoConfig.from_pretrained(source, local_files_only=True))
    except (DataError, OSError, ValueError, AttributeError):
        return None  # who needs it says so
    pieces = compare(recipe.data.folder / "tokenizer", source, rows=sizes.vocabulary)
    if pieces is None or pieces.relation == "different":
        return sizes
    return replace(sizes, vocabulary=len(pieces.of_teacher))  # as it will be when it is mapped


def teacher_folders(recipe: Recipe) -> list[Path]:
    """Where the recipe's teacher lies, and those of [[teacher.more]].

    Raises:
        DataError: there is no model in a folder.
    """
    table = recipe.teacher
    assert table is not None, "the recipe has no [teacher]"
    return [newest_export(path) for path in (table.path or table.trimmed, *(other.path for other in table.more))]


def load_teacher(recipe: Recipe, *, device: torch.device, fingerprints: Mapping[str, str] | None = None) -> Teacher:
    """The teacher named by teacher.path (else teacher.trimmed), of the kind that the recipe says.

    Args:
        recipe: with a [teacher].
        device: that it works on, or answers to.
        fingerprints: of the stream that it will read, for a cached one.

    Raises:
        ConfigError: its vocabulary is another one.
        DataError: there is no model in that folder, it is damaged, or a cache is not of it.
    """
    table = recipe.teacher
    assert table is not None, "the recipe has no [teacher]"
    if table.kind == "served":
        from unibert.models.teacher.identity import teacher_fingerprint
        from unibert.models.teacher.served import ServedTeacher

        source = newest_export(table.path or table.trimmed)
        told, ahead = teacher_fingerprint(source), table.ahead != "off"
        return _for_us(recipe, ServedTeacher(table.socket, fingerprint=told, device=device, ahead=ahead))
    if table.more:
        from unibert.models.teacher.several import load_several

        return load_several(recipe, device=device)
    if table.kind == "cached":
        from unibert.models.teacher.cached import open_cache

        if reads_text(recipe):
            raise ConfigError(
                "teacher.kind = cached keeps what the teacher says of our pieces, and this one reads text of its own "
                "(its tokenizer is another one): use resident, offloaded or served"
            )
        return _for_us(recipe, open_cache(recipe, device=device, fingerprints=fingerprints or {}))
    return _for_us(recipe, load_one(table, device=device))


def _for_us(recipe: Recipe, inner: Teacher) -> Teacher:
    """A teacher as one of our pieces, or as one that reads text of its own.

    Raises:
        ConfigError: the vocabularies differ, and no objective on pairs would read it.
    """
    assert recipe.teacher is not None
    source = newest_export(recipe.teacher.path or recipe.teacher.trimmed)
    if reads_text(recipe):
        from unibert.models.teacher.foreign import ForeignTeacher

        say(f"teacher {source}: it reads the English sides of translation pairs in pieces of its own")
        return ForeignTeacher(inner, vocabulary=TokenizerFacts.read(recipe.data.folder / "tokenizer").vocabulary_size)
    return with_our_pieces(inner, our_pieces(recipe, inner, source=source), source=source)


def serve_teacher(recipe: Recipe) -> None:
    """Serve the recipe's teacher to the ranks of this machine, until the process is ended.

    Raises:
        ConfigError: no [teacher].
        DataError: there is no model in its folder.
    """
    from unibert.models.teacher.identity import teacher_fingerprint
    from unibert.models.teacher.served import serve

    table = recipe.teacher
    if table is None:
        raise ConfigError("the recipe has no [teacher] to serve")
    count = torch.cuda.device_count()
    name = (f"cuda:{count - 1}" if count else "cpu") if table.served_on == "auto" else table.served_on
    teacher = load_one(table.model_copy(update={"ahead": "off"}), device=torch.device(name))
    say(f"teacher: served on {name} at {table.socket}")
    serve(teacher, fingerprint=teacher_fingerprint(newest_export(table.path or table.trimmed)), socket=table.socket)


def our_pieces(recipe: Recipe, teacher: Teacher, *, source: Path) -> Pieces | None:
    """How the pieces of a teacher in `source` stand to the recipe's."""
    return compare(recipe.data.folder / "tokenizer", source, rows=teacher.sizes.vocabulary)


def load_one(table: TeacherTable, *, device: torch.device) -> Teacher:
    """The encoder of a table, resident or offloaded, of its own vocabulary."""
    if table.kind == "offloaded":
        from unibert.models.teacher.offloaded import load_offloaded

        return load_offloaded(table, device=device)
    return load_resident(table, device=device)


def load_resident(table: TeacherTable, *, device: torch.device) -> ResidentTeacher:
    """The whole teacher on a device, whatever kind the table says."""
    encoder, has_head = load_encoder(newest_export(table.path or table.trimmed))
    encoder.to(device)
    if table.head_dtype == "fp32":
        encoder.head_in_fp32()  # before it is rounded
    encoder.cast(teacher_dtype(table, device=device))
    ahead = table.ahead == "on" or (table.ahead == "auto" and device.type != "cpu")
    return ResidentTeacher(encoder, has_head=has_head, ahead=ahead)


def teacher_dtype(table: TeacherTable, *, device: torch.device) -> torch.dtype:
    """Precision of the frozen forward on a device."""
    low = table.dtype == "bf16" or (table.dtype == "auto" and bf16_is_faster(device))
    return torch.bfloat16 if low else torch.float32
