"""The look that a running training takes at held-out text: its losses, masked prediction and a little retrieval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from unibert.config import Recipe
from unibert.data.batches import Batch
from unibert.data.shards import ShardSet
from unibert.evaluate.embed import Embedder
from unibert.evaluate.heldout import read_heldout
from unibert.evaluate.heldout_batches import heldout_batches
from unibert.evaluate.losses import HeldoutLosses
from unibert.evaluate.masked import heldout_masked, targets_by_language, token_counts, unigram_baseline
from unibert.evaluate.retrieval import quick_pairs, quick_retrieval, to_pairs
from unibert.models.encoder import EncoderOutput
from unibert.models.teacher import Lessons, Teacher
from unibert.objectives import Objective

LINES_PER_LANGUAGE = 12
LINES_IN_PROJECTOR = 5


class HeldoutWatch:
    """Prepares the held-out sample once; `look` measures an encoder on it. The unigram baseline is a constant.

    Args:
        recipe: whose text.
        shards: the training shards.
        device: of the encoder.
        objectives: whose losses are measured.
        teacher: who answers them.
        ranks: (this one, all).
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        shards: ShardSet,
        device: torch.device,
        objectives: Sequence[Objective],
        teacher: Teacher | None,
        ranks: tuple[int, int],
    ) -> None:
        heldout = ShardSet.open(recipe.data.folder / "shards_heldout", languages=recipe.languages)
        heldout.require_tokenizer_of(shards)
        self.batches = list(heldout_batches(recipe, heldout, lines_per_language=LINES_PER_LANGUAGE))
        self.languages = len(recipe.languages)
        self.device, (self.rank, self.world) = device, ranks
        self.tokenizer = AutoTokenizer.from_pretrained(recipe.data.folder / "tokenizer", local_files_only=True)
        self.width = recipe.data.max_sequence_tokens
        targets = targets_by_language(self.batches, num_languages=self.languages)
        _, values = unigram_baseline(token_counts(shards), targets).strongest()
        self.unigram = float(torch.as_tensor(values).nanmean())
        heldout_text = read_heldout(recipe.data.folder, languages=recipe.languages)
        self.lines = {code: lines[:LINES_IN_PROJECTOR] for code, lines in heldout_text.lines.items()}
        others = [code for code in recipe.languages if code != "en"]
        self.pairs = {}
        if others and "en" in recipe.languages:
            self.pairs = quick_pairs(to_pairs(heldout_text.messages, languages=others), languages=8, messages=48)
        self.losses = HeldoutLosses(
            recipe,
            heldout,
            heldout_text.messages,
            objectives=objectives,
            teacher=teacher,
            rank=self.rank,
            world=self.world,
        )

    @torch.no_grad()
    def look(self, encode: Any, *, lessons: Lessons | None, discriminate: Any) -> dict[str, float]:
        """Tag -> value, equal on every rank. Every rank calls it, with dropout off; see `HeldoutLosses.look`."""

        def logits(batch: Batch) -> Tensor:
            out = encode(batch.input_ids, batch.position_ids, batch.document, batch.target_positions)
            assert out.masked_logits is not None
            return out.masked_logits

        share = {"rank": self.rank, "world": self.world}
        sums = heldout_masked(logits, self.batches, num_languages=self.languages, device=self.device, **share)
        if self.world > 1:
            torch.distributed.all_reduce(sums.table)
        cross_entropy, accuracy = sums.macro()
        found = {
            "eval/masked_cross_entropy": cross_entropy,
            "eval/masked_accuracy": accuracy,
            "eval/unigram_cross_entropy": self.unigram,
        }
        if self.pairs:
            embedder = Embedder(encode, self.tokenizer, max_tokens=self.width, device=self.device)
            found["eval/retrieval_top1"] = quick_retrieval(embedder.mean, self.pairs)
        return found | self.losses.look(encode, lessons=lessons, discriminate=discriminate, device=self.device)

    def embeddings(self, encode: Callable[..., EncoderOutput]) -> tuple[Tensor, list[str], list[str]]:
        """([N, H] embeddings, language, text) of a few held-out lines of each language, for the projector."""
        languages = [code for code, lines in self.lines.items() for _ in lines]
        texts = [text for lines in self.lines.values() for text in lines]
        embedder = Embedder(encode, self.tokenizer, max_tokens=self.width, device=self.device)
        return embedder.mean(texts), languages, texts
