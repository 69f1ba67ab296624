"""Masked prediction on held-out text, per language, beside what token frequencies alone give.

Shapes: M targets of a batch, V vocabulary, L languages, D documents, R rows, S width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unibert.data.batches import Batch
from unibert.data.shards import ShardSet

TARGETS_AT_ONCE = 512
"""Rows of logits held in fp32 at a time: 512 x 40,000 pieces x 4 bytes = 82 MB."""


@dataclass(frozen=True)
class MaskedSums:
    """Sums per language over masked positions; `table` is what ranks add up in one all-reduce."""

    table: Tensor
    """float64 [3, L]: summed cross-entropy in nats, correct first guesses, targets."""

    @property
    def ce_sum(self) -> Tensor:
        """Summed cross-entropy in nats, [L]."""
        return self.table[0]

    @property
    def correct(self) -> Tensor:
        """Targets that the model ranks first, [L]."""
        return self.table[1]

    @property
    def count(self) -> Tensor:
        """Targets, [L]."""
        return self.table[2]

    def cross_entropy(self) -> Tensor:
        """Mean nats per target, [L]; NaN in a language without targets."""
        return self.ce_sum / self.count

    def accuracy(self) -> Tensor:
        """Share of targets ranked first, [L]; NaN in a language without targets."""
        return self.correct / self.count

    def macro(self) -> tuple[float, float]:
        """(cross-entropy, accuracy): the plain mean over the languages that have targets, each weighing the same."""
        return self.cross_entropy().nanmean().item(), self.accuracy().nanmean().item()


@torch.no_grad()
def heldout_masked(
    forward: Callable[[Batch], Tensor],
    batches: Iterable[Batch],
    *,
    num_languages: int,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world: int = 1,
) -> MaskedSums:
    """Cross-entropy and accuracy at the masked positions of `batches`, per language.

    Args:
        forward: gives the masked logits [M, V] of a batch, with dropout off.
        batches: the same ones, in the same order, on every rank.
        num_languages: L.
        device: where the batches go.
        rank: this process takes batch number rank, rank + world, ...
        world: processes that share the batches; the caller adds their `table`s up.

    Every rank runs the same number of forwards (a collective inside one, as in ZeRO-3, would hang otherwise):
    in an incomplete last round the ranks without a batch repeat the round's first one and leave it uncounted.
    """
    table = torch.zeros(3, num_languages, dtype=torch.float64, device=device)
    for batch, counted in _share(batches, rank=rank, world=world):
        batch = batch.to(torch.device(device))
        logits_MV = forward(batch)
        if counted:
            _add(table, logits_MV, batch)
    return MaskedSums(table)


def _share(batches: Iterable[Batch], *, rank: int, world: int) -> Iterator[tuple[Batch, bool]]:
    """(batch, does it count here) of one rank."""
    turn: list[Batch] = []
    for batch in batches:
        turn.append(batch)
        if len(turn) == world:
            yield turn[rank], True
            turn = []
    if turn:
        yield (turn[rank], True) if rank < len(turn) else (turn[0], False)


def _add(table: Tensor, logits_MV: Tensor, batch: Batch) -> None:
    language_M = target_languages(batch)
    for start in range(0, batch.target_ids.numel(), TARGETS_AT_ONCE):
        part = slice(start, start + TARGETS_AT_ONCE)
        logits = logits_MV[part].float()
        ids = batch.target_ids[part]
        # logsumexp - target logit, in fp32 whatever the model's precision.
        nats = logits.logsumexp(-1) - logits.gather(1, ids[:, None]).squeeze(1)
        right = (logits.argmax(-1) == ids).double()
        table.index_add_(1, language_M[part], torch.stack([nats.double(), right, torch.ones_like(right)]))


def target_languages(batch: Batch) -> Tensor:
    """The language index of each target, [M]."""
    return batch.language[batch.document.flatten()[batch.target_positions]]


@dataclass(frozen=True)
class UnigramBaseline:
    """What the training text's token frequencies alone give on the same targets; arrays are [L], nats."""

    per_language: np.ndarray
    """Add-one: (c_l(w) + 1) / (N_l + V), counts of the target's language."""
    overall: np.ndarray
    """Add-one over all languages together: (c(w) + 1) / (N + V)."""
    backed_off: np.ndarray
    """Witten-Bell: (c_l(w) + T_l p(w)) / (N_l + T_l), T_l the types seen in the language, p the overall add-one."""
    accuracy: np.ndarray
    """Share of targets that are the language's most frequent token."""

    def strongest(self) -> tuple[str, np.ndarray]:
        """Name and values of the one with the lowest mean over languages: the one to be compared with."""
        kinds = {name: getattr(self, name) for name in ("per_language", "overall", "backed_off")}
        return min(kinds.items(), key=lambda item: float(np.nanmean(item[1])))


def targets_by_language(batches: Iterable[Batch], *, num_languages: int) -> list[np.ndarray]:
    """The target ids of every language, in order."""
    ids: list[list[np.ndarray]] = [[] for _ in range(num_languages)]
    for batch in batches:
        language_M = target_languages(batch).numpy()
        for language in np.unique(language_M):
            ids[language].append(batch.target_ids.numpy()[language_M == language])
    return [np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64) for parts in ids]


def token_counts(shards: ShardSet) -> np.ndarray:
    """How often each token occurs in each language of the shards, int64 [L, V]; special tokens are not counted."""
    counts_LV = np.zeros((len(shards.languages), shards.vocabulary_size), dtype=np.int64)
    for language in range(len(shards.languages)):
        counts_LV[language] = np.bincount(shards.tokens(language), minlength=shards.vocabulary_size)
    special = shards.special
    counts_LV[:, [special.cls, special.sep, special.pad, special.mask]] = 0
    return counts_LV


def unigram_baseline(counts_LV: np.ndarray, targets: Sequence[np.ndarray]) -> UnigramBaseline:
    """Cross-entropy of `targets` (one array of ids per language) under the counts' smoothed frequencies."""
    vocabulary = counts_LV.shape[1]
    total_V = counts_LV.sum(0)
    overall_V = (total_V + 1) / (total_V.sum() + vocabulary)
    rows = []
    for counts_V, ids in zip(counts_LV, targets, strict=True):
        if not ids.size:
            rows.append([np.nan] * 4)
            continue
        seen, types = counts_V.sum(), np.count_nonzero(counts_V)
        add_one = (counts_V[ids] + 1) / (seen + vocabulary)
        backed_off = (counts_V[ids] + types * overall_V[ids]) / max(seen + types, 1)
        nats = [-np.log(p).mean() for p in (add_one, overall_V[ids], backed_off if types else overall_V[ids])]
        rows.append([*nats, np.mean(ids == counts_V.argmax())])
    return UnigramBaseline(*np.array(rows).T)
