"""Momentum contrast over translation pairs (PPA: Pan et al., arXiv 2010.12547; MoCo: He et al., arXiv 1911.05722)."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unibert.data.batches import Batch
from unibert.models.discriminator import features
from unibert.models.encoder import Encoder, encode
from unibert.models.projections import Projection
from unibert.objective_tables import MomentumContrast
from unibert.objectives.align_sentences import OnPairs, unit
from unibert.objectives.base import LAST_HIDDEN, MicroStep, Moved, Setting, Term
from unibert.schema import Table

QUEUE = "queue"
MESSAGES = "messages"
"""Of the queue's entries: the hashes of both texts of their pair."""
FACTOR = 6364136223846793005
"""Knuth's of a linear congruential generator modulo 2 ** 64 (MMIX)."""


class Momentum(OnPairs):
    """One side finds its translation among the sentences of a queue.

    Formula: sum over pairs of -log(exp(q.k/T) / (exp(q.k/T) + sum over queue entries n of exp(q.n/T))); nats; divided
    by the number of pairs. Entries whose pair has a text of this pair are no n (ours): where English is a side of most
    pairs, they are the same message in this language or another. q is the unit projected feature of one side by the
    student, k that of the other side by a copy of the student without gradient, which after each move becomes
    momentum x itself + (1 - momentum) x student; then the step's k enter the queue, in the order of the stream over all
    ranks, and the oldest leave. Which side is q is an even coin of the pair (batch.flipped), the same by which
    translation_lm orders the sides.
    Shapes: q, k [P, projection_size], queue [at most queue_size, projection_size]. Within a step the queue does not
    change, so micro-batch and ranks change nothing. It begins empty (MoCo: random vectors): the first step's loss is 0.
    The copy is in eval mode and fp32, whole on every rank, also beside a student that ZeRO-3 has cut.
    Needs: the student's last hidden state. Cost: a forward of the copy; its weights and the queue in memory and in the
    checkpoint. Tag: loss/align_sentences. Ours: momentum 0.999, queue 32768, temperature 0.05, projection to 300.
    """

    name = "align_sentences"

    def __init__(self, table: Table, setting: Setting) -> None:
        super().__init__(table, setting)
        assert isinstance(table, MomentumContrast)
        self.momentum, self.queue_size = table.momentum, table.queue_size
        self.temperature, self.projected = table.temperature, table.projection_size
        self.fresh: list[
            tuple[Tensor, ...]
        ] = []  # samples [P], keys [P, projection_size], messages [P, 2] of this step

    def module(self) -> nn.Module:
        return Projection(self.setting.student.hidden, self.projected)

    def begin(self, student: Encoder) -> None:
        self.encoder = Encoder(copy.deepcopy(student.hf)).eval().requires_grad_(False)
        self.head = copy.deepcopy(student.beside[self.name]).eval().requires_grad_(False)
        self.queue = torch.empty(0, self.projected, device=next(self.head.parameters()).device)
        self.messages = torch.empty(0, 2, dtype=torch.int64, device=self.queue.device)

    def term(self, at: MicroStep) -> Term:
        pairs_P2, turned_P = at.batch.pairs, at.batch.flipped.long()
        own_P = torch.arange(len(pairs_P2), device=pairs_P2.device)
        queries_PF = unit(at.beside[self.name](self.student_DH(at)[pairs_P2[own_P, turned_P]]))
        keys_PF = self._keys(at)[pairs_P2[own_P, 1 - turned_P]]
        messages_P2 = text_hashes(at.batch)[pairs_P2]
        if torch.is_grad_enabled():  # held-out sentences stay out of the queue
            self.fresh.append((at.batch.sample_ids[pairs_P2[:, 0]], keys_PF, messages_P2))
        same_PQ = (messages_P2[:, None, :, None] == self.messages[None, :, None, :]).flatten(2).any(dim=2)
        others_PQ = (queries_PF @ self.queue.T).masked_fill(same_PQ, -torch.inf)
        cosines = torch.cat([(queries_PF * keys_PF).sum(dim=1, keepdim=True), others_PQ], dim=1)
        first_P = torch.zeros_like(own_P)
        return Term(total=F.cross_entropy(cosines / self.temperature, first_P, reduction="sum"))

    @torch.no_grad()
    def _keys(self, at: MicroStep) -> Tensor:
        """The copy's unit projected feature of every document, [D, projection_size]."""
        batch = at.batch if self.masked else at.batch.unmasked
        output = at.student if self.masked else at.student_unmasked
        assert output is not None
        low = output.last_hidden.dtype
        with torch.autocast(self.queue.device.type, dtype=low, enabled=low != torch.float32):
            hidden = encode(self.encoder, batch, LAST_HIDDEN).last_hidden
        return unit(self.head(features(hidden, batch, kind=self.kind).float()))

    @torch.no_grad()
    def after_move(self, moved: Moved) -> None:
        own = dict(self._weights())
        for name, weight in moved.weights(own.keys()):
            own[name].lerp_(weight.to(own[name].dtype), 1 - self.momentum)
        fresh = [tuple(part.cpu() for part in parts) for parts in self.fresh]
        said = [parts for rank in moved.everyone(fresh) for parts in rank]
        samples, keys, messages = (torch.cat(parts) for parts in zip(*said, strict=True))
        order, self.fresh = samples.argsort(), []
        self.queue = torch.cat([self.queue, keys[order].to(self.queue)])[-self.queue_size :]
        self.messages = torch.cat([self.messages, messages[order].to(self.messages)])[-self.queue_size :]

    def state(self) -> dict[str, Tensor]:
        return dict(self._weights()) | {QUEUE: self.queue, MESSAGES: self.messages}

    def load_state(self, state: dict[str, Tensor]) -> None:
        for name, weight in self._weights():
            weight.copy_(state[name])
        self.queue = state[QUEUE]
        self.messages = state.get(
            MESSAGES, self.messages.new_zeros(len(self.queue), 2)
        )  # of an earlier version: unknown

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        """The copy's weights by the names that they have in the student; those of the masked-LM head are not used."""
        body, head = f"hf.{self.encoder.hf.base_model_prefix}.", f"beside.{self.name}."
        for prefix, module in ((body, self.encoder.hf.base_model), (head, self.head)):
            yield from ((prefix + name, parameter) for name, parameter in module.named_parameters())


def text_hashes(batch: Batch) -> Tensor:
    """int64 [D]: equal for equal texts; sum over a document's tokens of (id + 1) FACTOR ** place, modulo 2 ** 64."""
    real, ids = batch.document.flatten() >= 0, batch.unmasked.input_ids.flatten() + 1
    document, place = batch.document.flatten()[real], batch.position_ids.flatten()[real]
    longest = int(place.max()) + 1 if len(place) else 0
    powers = torch.full((longest,), FACTOR, device=ids.device).cumprod(0)
    return ids.new_zeros(batch.documents).index_add_(0, document, ids[real] * powers[place])
