"""Distillation of the last hidden state (Jiao et al., arXiv 2103.06418, use the last layer only)."""

from __future__ import annotations

from torch import Tensor

from unibert.data.batches import Batch
from unibert.errors import ConfigError
from unibert.objective_tables import DistillHidden as DistillHiddenTable
from unibert.objectives.base import LAST_HIDDEN, MicroStep, Needs, Objective, Setting, Term
from unibert.schema import Table


class DistillHidden(Objective):
    """Mean squared distance of student and teacher, token by token.

    Formula: sum over tokens t of |h_s,t - h_t,t|^2 / H; divided by the number of tokens.
    Shapes: h [R, S, H], the same width on both sides; padding is left out, and with positions = "unmasked" the
    masked-LM targets too (our addition: a student that must repeat the teacher's state at a mask learns the
    masked LM badly, and no text that the encoder will read later has masks).
    Needs: both last hidden states. Tag: loss/distill_hidden.
    """

    name = "distill_hidden"
    needs = Needs(student=LAST_HIDDEN, teacher=LAST_HIDDEN)

    def __init__(self, table: Table, setting: Setting) -> None:
        super().__init__(table, setting)
        assert isinstance(table, DistillHiddenTable)
        if self.teacher_sizes.hidden != setting.student.hidden:
            raise ConfigError(
                f"distill_hidden compares widths {self.teacher_sizes.hidden} and {setting.student.hidden}: set "
                f"student.hidden_size = {self.teacher_sizes.hidden}, or turn it off"
            )
        self.skip_targets = table.positions == "unmasked"

    def count(self, batch: Batch) -> int:
        return batch.tokens - batch.targets if self.skip_targets else batch.tokens

    def term(self, at: MicroStep) -> Term:
        assert at.student is not None
        assert at.teacher is not None
        chosen_RS = self._positions(at.batch)
        apart_NH = at.student.last_hidden[chosen_RS].float() - at.teacher.last_hidden[chosen_RS].float()
        return Term(total=apart_NH.square().mean(dim=-1).sum())

    def _positions(self, batch: Batch) -> Tensor:
        """Bool [R, S]: the tokens that are compared."""
        chosen_RS = batch.document >= 0
        if self.skip_targets:
            chosen_RS.view(-1)[batch.target_positions] = False
        return chosen_RS
