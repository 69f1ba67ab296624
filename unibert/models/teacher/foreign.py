"""A teacher with another tokenizer, which reads the English sides of translation pairs as text of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from unibert.models.encoder import EncoderOutput
from unibert.models.teacher.base import Teacher
from unibert.models.wanted import Wanted

if TYPE_CHECKING:
    from unibert.data.batches import Batch


class ForeignTeacher(Teacher):
    """A teacher whose answers stand in the rows of batch.foreign, which the loader has made by its tokenizer.

    It gives the last hidden state of the text as it was, which is what objectives on pairs read of it. Masks and tokens
    are ours, and mean nothing to it.

    Args:
        inner: resident, offloaded or served.
        vocabulary: pieces of ours.
    """

    why = (
        "it has another tokenizer than the student, so it reads nothing but the English sides of translation pairs, in "
        "pieces of its own, for align_sentences (byol, mse), align_words (index) and structure; distillation of "
        "logits, states, attention or relations needs one vocabulary: trim the teacher to the recipe's tokenizer "
        "(unibert teacher trim RECIPE), or take those objectives out"
    )

    def __init__(self, inner: Teacher, *, vocabulary: int) -> None:
        nothing = Wanted(last_hidden=False)
        super().__init__(inner.config, device=inner.device, gives=nothing, ahead=inner.works_ahead)
        self.inner, self.gives_unmasked = inner, Wanted()
        self.sizes = replace(inner.sizes, vocabulary=vocabulary)  # as of one that reads our pieces: none are compared

    def forward(self, batch: Batch, wanted: Wanted) -> EncoderOutput:
        """The answer in the rows of batch.foreign; see `Teacher`."""
        assert batch.foreign is not None, "a stream of this recipe has it (data/foreign.py)"
        return self.inner.forward(batch.foreign, wanted)

    def parameters(self) -> list[Tensor]:
        """The inner one's."""
        return self.inner.parameters()

    def close(self) -> None:
        """See `Teacher`."""
        super().close()
        self.inner.close()
