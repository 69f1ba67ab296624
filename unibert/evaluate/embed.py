"""Sentence features of texts from an encoder: the mean over tokens and the first token.

Shapes: N texts, R rows of a batch, S width, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from unibert.models.encoder import EncoderOutput

TOKENS_PER_BATCH = 4096
"""Rows x width of one forward; larger is no faster on a CPU and spills its caches."""


@dataclass(frozen=True)
class Features:
    """Frozen features of N texts, fp32, as the encoder gives them (not normalised)."""

    mean: Tensor
    """[N, H], mean of the last hidden state over all tokens of the text, special ones included (e5's pooling)."""
    first: Tensor
    """[N, H], last hidden state of the first token."""


class Embedder:
    """Texts to features, in batches of similar length.

    Nothing is put before a text if not asked for: models whose card wants a prefix ("query: ") are read without it too.
    """

    def __init__(
        self,
        encoder: Callable[[Tensor, Tensor, Tensor], EncoderOutput],
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_tokens: int,
        device: torch.device | str = "cpu",
        progress: Callable[[int], None] | None = None,
        prefix: str = "",
    ) -> None:
        """Keep what embedding needs.

        Args:
            encoder: an Encoder in eval mode on `device`, or what is called like one.
            tokenizer: its tokenizer.
            max_tokens: longer texts are cut to this many tokens, special ones included.
            device: where the encoder is.
            progress: told the number of texts done after each batch.
            prefix: what stands before every text.
        """
        self._encoder = encoder
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._device = torch.device(device)
        self._progress = progress or (lambda done: None)
        self._prefix = prefix

    @torch.no_grad()
    def features(self, texts: Sequence[str]) -> Features:
        """Features of every text, in the texts' order."""
        given = [self._prefix + text for text in texts]
        ids = self._tokenizer(
            given, truncation=True, max_length=self._max_tokens, return_attention_mask=False, padding=False
        )["input_ids"]
        places: list[int] = []
        means, firsts = [], []
        for batch in _batches([len(row) for row in ids]):
            mean_RH, first_RH = self._forward([ids[i] for i in batch])
            means.append(mean_RH)
            firsts.append(first_RH)
            places += batch
            self._progress(len(batch))
        back = torch.empty(len(places), dtype=torch.long)
        back[torch.tensor(places, dtype=torch.long)] = torch.arange(len(places))
        return Features(torch.cat(means)[back], torch.cat(firsts)[back])

    def mean(self, texts: Sequence[str]) -> Tensor:
        """The mean features alone, [N, H]."""
        return self.features(texts).mean

    def _forward(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        width = max(len(row) for row in rows)
        padding = self._tokenizer.pad_token_id
        ids_RS = torch.tensor([[*row, *[padding] * (width - len(row))] for row in rows], device=self._device)
        length_R = torch.tensor([len(row) for row in rows], device=self._device)
        position_S = torch.arange(width, device=self._device)
        real_RS = position_S < length_R[:, None]
        position_RS = torch.where(real_RS, position_S, 0)
        document_RS = torch.where(real_RS, torch.arange(len(rows), device=self._device)[:, None], -1)
        hidden_RSH = self._encoder(ids_RS, position_RS, document_RS).last_hidden.float()
        mean_RH = (hidden_RSH * real_RS[..., None]).sum(1) / length_R[:, None]
        return mean_RH.cpu(), hidden_RSH[:, 0].cpu()


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices in batches of at most TOKENS_PER_BATCH rows x width (one row at least), the longest first."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > TOKENS_PER_BATCH:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def once(embed: Callable[[Sequence[str]], Tensor]) -> Callable[[Sequence[str]], Tensor]:
    """`embed`, reading each text once however often it is asked for."""
    known: dict[str, Tensor] = {}

    def remembering(texts: Sequence[str]) -> Tensor:
        if new := [text for text in dict.fromkeys(texts) if text not in known]:
            known.update(zip(new, embed(new), strict=True))
        return torch.stack([known[text] for text in texts])

    return remembering
