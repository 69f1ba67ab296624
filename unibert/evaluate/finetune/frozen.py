"""What an encoder answers as it is, nothing trained: by embeddings (mean over tokens), or by its masked-LM head.

A task's answers are one prediction an example, of places (set, split, language, examples). Embeddings can lose their
language's part before (LIR, language_removal.py); its directions are fitted on other text of the language where the
data folder has some, and else on the very texts, as the paper does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer

from unibert.data.batches import Batch, make_batch
from unibert.data.lines import text_key
from unibert.data.mixture import Documents
from unibert.data.shard_format import SpecialIds
from unibert.errors import DataError, NumericsError
from unibert.evaluate.embed import Embedder, Features, once
from unibert.evaluate.finetune.rows import Place
from unibert.evaluate.finetune.settings import Settings
from unibert.evaluate.finetune.subject import Model, sizes_of
from unibert.evaluate.heldout_batches import HELDOUT_SEED
from unibert.evaluate.language_removal import Parts, fit_parts, remove_parts
from unibert.evaluate.masked import heldout_masked
from unibert.evaluate.probe import judged
from unibert.evaluate.scorers.ranking import ranks
from unibert.evaluate.tasks.base import ENGLISH
from unibert.evaluate.tasks.texts import LEAST
from unibert.evaluate.without_language import left_for_probe
from unibert.models.encoder import encode, load_encoder
from unibert.models.wanted import Wanted
from unibert.schema import Masking

TEXTS_AT_ONCE = 64
"""Of one forward of masked prediction."""


@dataclass(frozen=True)
class Vocabulary:
    """What masking needs to know of a tokenizer, as shards say it."""

    special: SpecialIds
    vocabulary_size: int


class Frozen:
    """An encoder with nothing trained."""

    def __init__(self, model: Model, *, settings: Settings, device: torch.device) -> None:
        """Load it.

        Raises:
            DataError: the folder holds no encoder.
        """
        self.name, self.folder, self.device = model.name, model.folder, device
        self.encoder, self.has_head = load_encoder(model.folder)
        self.sizes = sizes_of(self.encoder.hf.base_model)
        dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
        self.encoder.to(device, dtype).eval().requires_grad_(False)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(model.folder, local_files_only=True)
        room = self.encoder.hf.config.max_position_embeddings - self.encoder.first_position
        self.width = min(settings.max_tokens, room)
        self._embedder = Embedder(
            self.encoder, self.tokenizer, max_tokens=self.width, device=device, prefix=settings.prefix
        )
        self._embed = once(lambda texts: self._features(texts).mean)

    def answers(self, task: str, places: Sequence[Place], *, parts: Parts | None = None, rank: int = 0) -> list[Any]:
        """Predictions of each place.

        Args:
            task: of TASKS, one that nothing is trained for.
            places: where it is asked.
            parts: what similarity, retrieval and words lose of each language.
            rank: likewise the probe, which fits them on its own training side; 0 takes nothing away.

        Raises:
            DataError: masked prediction of a model without the head.
        """
        if task == "language_probe":
            return self._probe(places, rank=rank)
        if task == "masked":
            return [self._masked([example.text for example in place[3]]) for place in places]
        if task == "word_translation":
            return [self._words(place, parts) for place in places]
        return [self._pairs(task, place, parts) for place in places]

    def parts(self, texts: dict[str, list[str]], *, rank: int) -> Parts:
        """Each language's directions, of these texts of it."""
        flat = [text for rows in texts.values() for text in rows]
        codes = [code for code, rows in texts.items() for _ in rows]
        return fit_parts(self._embed(flat), languages=codes, rank=rank)

    def _features(self, texts: Sequence[str]) -> Features:
        """Features of texts.

        Raises:
            NumericsError: they are not finite; as ranks or classes they would look like any other.
        """
        found = self._embedder.features(texts)
        if wrong := int((~found.mean.isfinite().all(1)).sum()):
            raise NumericsError(
                f"{self.name}: the embeddings of {wrong} of {len(texts)} texts are not finite: look whether the "
                f"weights in {self.folder} are finite"
            )
        return found

    def _vectors(self, texts: Sequence[str], language: str, parts: Parts | None) -> Tensor:
        own_NH = self._embed(texts).float()
        if parts is not None:
            own_NH = remove_parts(own_NH, languages=[language] * len(texts), parts=parts)
        return torch.nn.functional.normalize(own_NH.double(), dim=-1)

    def _pairs(self, task: str, place: Place, parts: Parts | None) -> list[Any]:
        """sts: the cosine of each pair; retrieval: the ranks of both directions, by cosine and by margin."""
        (first, second), examples = side_languages(task, place[2]), place[3]
        first_NH = self._vectors([example.first for example in examples], first, parts)
        second_NH = self._vectors([example.second for example in examples], second, parts)
        if task == "sts":
            return (first_NH * second_NH).sum(1).tolist()
        plain, wide = ranks(first_NH, second_NH), ranks(first_NH, second_NH, margin=True)
        return torch.stack([plain.forward, plain.backward, wide.forward, wide.backward], dim=1).tolist()

    def _words(self, place: Place, parts: Parts | None) -> list[tuple[float, float]]:
        words = [example.word for example in place[3]]
        english = list(dict.fromkeys(text for example in place[3] for text in example.translations))
        number = {text: i for i, text in enumerate(english)}
        score_NE = self._vectors(words, place[2], parts) @ self._vectors(english, ENGLISH, parts).T
        nearest_english, nearest_own = score_NE.argmax(1).tolist(), score_NE.argmax(0).tolist()
        known = [set(example.translations) for example in place[3]]
        return [
            (
                float(english[nearest_english[i]] in known[i]),
                float(np.mean([text in known[nearest_own[number[text]]] for text in known[i]])),
            )
            for i in range(len(words))
        ]

    def _probe(self, places: Sequence[Place], *, rank: int) -> list[list[dict[str, float] | None]]:
        """Of all places together: languages are told apart from each other."""
        texts = [example.text for place in places for example in place[3]]
        codes = [place[2] for place in places for _ in place[3]]
        features = self._features(texts)
        found: list[dict[str, float] | None] = [None] * len(texts)
        for name, features_NH in (("accuracy", features.mean), ("first_token", features.first)):
            if rank:
                features_NH = left_for_probe(features_NH, texts=texts, languages=codes, rank=rank)
            probe = judged(features_NH, texts=texts, languages=codes)
            beside = {"chance": 1 / len(probe.names), "majority": probe.majority}
            for i, right in zip(probe.test_N.nonzero().flatten().tolist(), probe.right_T.tolist(), strict=True):
                found[i] = {**(found[i] or {}), name: float(right), **beside}
        ends = np.cumsum([len(place[3]) for place in places]).tolist()
        return [found[end - len(place[3]) : end] for place, end in zip(places, ends, strict=True)]

    def _masked(self, texts: Sequence[str]) -> list[list[float]]:
        """(nats, right, targets) of each text."""
        assert self.has_head, "refused before"

        def forward(batch: Batch) -> Tensor:
            logits = encode(self.encoder, batch, Wanted(masked_logits=True)).masked_logits
            assert logits is not None
            return logits

        sums = heldout_masked(forward, self._batches(texts), num_languages=len(texts), device=self.device)
        return sums.table.T.tolist()

    def _batches(self, texts: Sequence[str]) -> list[Batch]:
        """Masked by place and a constant seed; a text stands for a language, so that sums are of each text."""
        tokenizer = self.tokenizer
        ids = [getattr(tokenizer, f"{name}_token_id") for name in ("cls", "sep", "pad", "mask")]
        if None in ids:
            raise DataError(
                f"{self.name}: its tokenizer lacks one of cls, sep, pad and mask: leave masked out of --tasks"
            )
        cls, sep, pad, mask = ids
        unknown = pad if tokenizer.unk_token_id is None else tokenizer.unk_token_id
        special = SpecialIds(cls, sep, pad, mask, unknown)
        vocabulary: Any = Vocabulary(special, len(tokenizer))
        rows = tokenizer(list(texts), truncation=True, max_length=self.width)["input_ids"]
        batches = []
        for start in range(0, len(rows), TEXTS_AT_ONCE):
            chosen = [np.array(row, dtype=np.int64) for row in rows[start : start + TEXTS_AT_ONCE]]
            number = np.arange(start, start + len(chosen), dtype=np.int64)
            documents = Documents(chosen, number, number, np.zeros_like(number), np.empty((0, 2), dtype=np.int64))
            batches.append(
                make_batch(
                    documents,
                    shards=vocabulary,
                    positions=number,
                    width=self.width,
                    masking=Masking(),
                    seed=HELDOUT_SEED,
                )
            )
        return batches


def side_languages(task: str, language: str) -> tuple[str, str]:
    """The languages of a pair's sides: "de" is German both times in sts, and German and English elsewhere."""
    first, _, second = language.partition("+")
    return first, second or (first if task == "sts" else ENGLISH)


def texts_to_fit(task: str, place: Place, heldout: dict[str, list[str]]) -> dict[str, list[str]]:
    """language -> texts to fit its directions on: held-out text without the judged, else the judged ones."""
    examples, (first, second) = place[3], side_languages(task, place[2])
    own: dict[str, list[str]] = {}
    for example in examples:
        if task == "word_translation":
            own.setdefault(first, []).append(example.word)
            own.setdefault(second, []).extend(example.translations)
        else:
            own.setdefault(first, []).append(example.first)
            own.setdefault(second, []).append(example.second)
    known = {text_key(text) for rows in own.values() for text in rows}
    chosen = {}
    for code, rows in own.items():
        others = [text for text in heldout.get(code, ()) if text_key(text) not in known]
        chosen[code] = others if len(others) >= LEAST else list(dict.fromkeys(rows))
    return chosen
