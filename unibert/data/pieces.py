"""The vocabularies of a run and its teacher, compared piece by piece.

What follows from each relation:
  equal      the teacher reads our ids
  padded     it has more rows than pieces: the logits of the rest are left out
  permuted   the same pieces under other ids: ids and logits are mapped
  superset   it has our pieces and others: ids are mapped, the logits of the others are left out, so that its
             distribution is the one given that the piece is one of ours
  different  it lacks pieces of ours: it cannot read our ids, and its logits are of something else. It can still read
             the English sides of translation pairs as text of its own (foreign.py); all else is refused
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from tokenizers import Tokenizer

from unibert.data.shard_format import TokenizerFacts

if TYPE_CHECKING:
    from unibert.data.batches import Batch

Relation = Literal["equal", "padded", "permuted", "superset", "different"]


@dataclass(frozen=True)
class Pieces:
    """How a teacher's pieces stand to ours."""

    relation: Relation
    of_teacher: np.ndarray
    """int64 [V]: the teacher's id of each of our pieces; -1 of what it lacks."""
    lacking: tuple[str, ...] = ()
    """Pieces of ours that it lacks."""

    def read(self, batch: Batch) -> Batch:
        """The batch in the teacher's ids; targets keep ours."""
        if self.relation in ("equal", "padded"):
            return batch
        theirs_V = batch.input_ids.new_tensor(self.of_teacher)
        return replace(batch, input_ids=theirs_V[batch.input_ids])


def compare(own: Path, teacher: Path, *, rows: int) -> Pieces | None:
    """Compare the tokenizers of two folders; special tokens by what they are for, as their names differ.

    Args:
        own: the recipe's.
        teacher: the teacher's.
        rows: of the teacher's embeddings.

    Returns:
        None when one folder has no tokenizer, so that nothing can be compared.
    """
    if not all((folder / "tokenizer.json").is_file() for folder in (own, teacher)):
        return None
    ours, theirs = (Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab() for folder in (own, teacher))
    special, other = TokenizerFacts.read(own).special, TokenizerFacts.read(teacher).special
    of_teacher = np.full(1 + max(ours.values()), -1, dtype=np.int64)
    for piece, number in ours.items():
        of_teacher[number] = theirs.get(piece, -1)
    for role in ("cls", "sep", "pad", "mask", "unk"):
        of_teacher[getattr(special, role)] = getattr(other, role)
    unused = sorted(set(range(len(of_teacher))) - set(ours.values()))
    of_teacher[unused] = other.unk  # ids that stand for nothing occur nowhere
    lacking = tuple(piece for piece, number in ours.items() if not 0 <= of_teacher[number] < rows)
    if lacking:
        return Pieces("different", of_teacher, lacking)
    if len(theirs) > len(ours):
        return Pieces("superset", of_teacher)
    if (of_teacher != np.arange(len(of_teacher))).any():
        return Pieces("permuted", of_teacher)
    return Pieces("padded" if rows > len(of_teacher) else "equal", of_teacher)
