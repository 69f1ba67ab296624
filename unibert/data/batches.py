"""Packed micro-batches: whole documents laid first-fit into rows, masked, prepared ahead in a background thread.

Legend: R rows, S width of a row, D documents, T tokens of the documents, M masked targets.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unibert.data.code_switch import exchange, read_ends
from unibert.data.dropout import drop_tokens
from unibert.data.foreign import TeacherText
from unibert.data.masking import mask_many
from unibert.data.mixture import Documents, Mixture, open_pairs
from unibert.data.packing import lay
from unibert.data.pair_views import PairViews, flipped, join
from unibert.data.shards import ShardSet
from unibert.data.texts import Texts
from unibert.data.words import WordPieces, word_spans
from unibert.errors import ConfigError, DataError
from unibert.plan import accumulation_steps, check_batches, first_sample
from unibert.schema import Masking, Recipe

STEPS_AHEAD = 2
"""Optimizer steps prepared in advance."""


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one rank. The documents are in the order of the stream, wherever their rows are."""

    input_ids: Tensor
    """int64 [R, S]: ids as shown to the model; the pad token where there is no document."""
    position_ids: Tensor
    """int64 [R, S]: place of the token in its document, from 0."""
    document: Tensor
    """int64 [R, S]: 0..D-1, and -1 where there is none. Attention may only look at its own document."""
    target_positions: Tensor
    """int64 [M]: masked places, as indices into the flattened R*S; by document, ascending in each."""
    target_ids: Tensor
    """int64 [M]: the ids that were there."""
    cls_positions: Tensor
    """int64 [D]: index into the flattened R*S of each document's first token."""
    language: Tensor
    """int64 [D]: index into recipe.languages."""
    sample_ids: Tensor
    """int64 [D]: position in the stream."""
    tokens: int
    """Tokens that are not padding."""
    pairs: Tensor = field(default_factory=lambda: torch.empty((0, 2), dtype=torch.int64))
    """int64 [P, 2]: documents that are each other's translation."""
    flipped: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.bool))
    """bool [P]: an even coin of each pair; where the order of its sides is random, the second goes first."""
    word_positions: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    """int64 [W]: places of the first pieces of words, by document, ascending in each; empty when nobody asks."""
    word_pairs: Tensor = field(default_factory=lambda: torch.empty((0, 2), dtype=torch.int64))
    """int64 [N, 2]: words (of the W) of a pair's two sides that a dictionary knows as translations."""
    joined: Batch | None = None
    """Both sides of pair p as document p, in rows of their own; None when nobody reads it. See pair_views.join."""
    side_starts: Tensor = field(default_factory=lambda: torch.empty((0, 2), dtype=torch.int64))
    """int64 [P, 2], of `joined`: its place of a token is this, of the token's side, plus the place in that side."""
    foreign: Batch | None = None
    """The pairs' English sides, in their order, in the teacher's pieces and rows; its word_positions are the matched
    words'. None when the teacher reads our pieces. See foreign.py."""
    foreign_words: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    """int64 [F]: our places of the words that foreign.word_positions has the teacher's of; ascending as those."""

    @cached_property
    def token_positions(self) -> Tensor:
        """int64 [N]: places that are no padding, as indices into the flattened R*S."""
        return (self.document.flatten() >= 0).nonzero().squeeze(1)

    @cached_property
    def unmasked(self) -> Batch:
        """The same text as it was before masking; the targets are still named."""
        input_ids = self.input_ids.clone()
        input_ids.view(-1)[self.target_positions] = self.target_ids
        return replace(self, input_ids=input_ids)

    def to(self, device: torch.device | str) -> Batch:
        """The same on a device."""
        tensors = {item.name: getattr(self, item.name) for item in fields(self) if item.type == "Tensor"}
        moved: dict[str, Any] = {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
        beside = {name: one.to(device) for name in ("joined", "foreign") if (one := getattr(self, name)) is not None}
        return replace(self, **moved, **beside)

    @property
    def targets(self) -> int:
        """M."""
        return self.target_ids.numel()

    @property
    def documents(self) -> int:
        """D."""
        return self.language.numel()

    @property
    def padding_fraction(self) -> float:
        """Share of R*S without a document."""
        return 1 - self.tokens / self.input_ids.numel()


def make_batch(
    documents: Documents,
    *,
    shards: ShardSet,
    positions: np.ndarray,
    width: int,
    masking: Masking,
    seed: int,
    words: WordPieces | None = None,
    views: PairViews | None = None,
) -> Batch:
    """Mask and pack D documents.

    Args:
        documents: read from `shards`, or from pairs of the same tokenizer.
        shards: for the vocabulary.
        positions: of the documents in the stream, [D].
        width: tokens of a row.
        masking: fractions.
        seed: of the masks.
        words: see `mask_many`.
        views: what is wanted of the pairs among them besides their sides.
    """
    lengths = np.array([len(text) for text in documents.texts])
    ids_T = np.concatenate(documents.texts)
    facts = {"masking": masking, "special": shards.special, "vocabulary_size": shards.vocabulary_size}

    def mask(ids: np.ndarray, lengths: np.ndarray, sample_ids: np.ndarray, epochs: np.ndarray) -> Any:
        return mask_many(ids, lengths=lengths, sample_ids=sample_ids, epochs=epochs, seed=seed, words=words, **facts)

    place_T = np.arange(len(ids_T)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    shown_T, targets_M, target_ids_M = mask(ids_T, lengths, documents.ids, documents.epoch)
    laid, where_T = lay(Texts(shown_T, place_T, lengths, targets_M, target_ids_M), width=width, pad=shards.special.pad)
    batch = Batch(
        **laid,
        language=torch.from_numpy(documents.language),
        sample_ids=torch.from_numpy(positions.astype(np.int64)),
        pairs=torch.from_numpy(documents.pairs),
    )
    if views is None:
        return batch
    flips = flipped(documents, seed=seed)
    spans_W2, said = _words(documents, ids_T, where_T, lengths, views, shards)
    if views.foreign is not None:
        said |= _foreign(views.foreign, documents, where_T, spans_W2=spans_W2, positions=batch.sample_ids)
    batch = replace(batch, flipped=torch.from_numpy(flips), **said)
    if views.joined is None:
        return batch
    texts, shifts_P2 = join(documents, form=views.joined, flips=flips, mask=mask)
    both, _ = lay(texts, width=width, pad=shards.special.pad)
    joined = Batch(
        **both,
        language=batch.language[batch.pairs[:, 0]],
        sample_ids=batch.sample_ids[batch.pairs[:, 0]],
        side_starts=both["cls_positions"][:, None] + torch.from_numpy(shifts_P2),
    )
    return replace(batch, joined=joined)


def _words(
    documents: Documents,
    ids_T: np.ndarray,
    where_T: np.ndarray,
    lengths: np.ndarray,
    views: PairViews,
    shards: ShardSet,
) -> tuple[np.ndarray, dict[str, Any]]:
    """(where words begin and end in T [W, 2], what a Batch says of them), when that is asked for."""
    if views.pieces is None:
        return np.empty((0, 2), dtype=np.int64), {}
    starts, ends = word_spans(ids_T, lengths, pieces=views.pieces, special=shards.special)
    words = {"word_positions": torch.from_numpy(where_T[starts])}
    if views.dictionaries is not None:
        words["word_pairs"] = torch.from_numpy(views.dictionaries.matches(documents, ids_T, starts=starts, ends=ends))
    return np.stack([starts, ends], axis=1), words


def _foreign(
    text: TeacherText, documents: Documents, where_T: np.ndarray, *, spans_W2: np.ndarray, positions: Tensor
) -> dict[str, Any]:
    """What a Batch says of the English sides as the teacher reads them."""
    sides = text.read(documents, own_spans=spans_W2)
    laid, places_T = lay(sides.texts, width=text.width, pad=text.special.pad)
    positions_E = positions[torch.from_numpy(sides.documents_E)]
    language_E, words_W = torch.full_like(positions_E, text.english), torch.from_numpy(places_T[sides.words_W])
    theirs = Batch(**laid, language=language_E, sample_ids=positions_E, word_positions=words_W)
    return {"foreign": theirs, "foreign_words": torch.from_numpy(where_T[sides.own_words_W])}


def read_words(recipe: Recipe, shards: ShardSet) -> WordPieces | None:
    """Where words begin, for masking.unit = "word"; see `WordPieces.read`."""
    if recipe.masking.unit == "token":
        return None
    return WordPieces.read(shards.folder.parent / "tokenizer", vocabulary_size=shards.vocabulary_size)


class Maker:
    """Makes the micro-batch that begins at a position of a stream: reads, changes, masks and packs its documents.

    Args:
        recipe: size of a micro-batch, seed, masking, and what happens to documents before.
        shards: open, with the recipe's languages.
        mixture: what stands where.
    """

    def __init__(self, recipe: Recipe, shards: ShardSet, mixture: Mixture) -> None:
        self.recipe, self.shards, self.mixture = recipe, shards, mixture
        self.words = read_words(recipe, shards)
        self.views = PairViews.of(recipe, shards)
        self.ends = None  # of sentences, where pairs exchange them
        if recipe.data.code_switch_fraction:
            self.ends = read_ends(recipe.data.folder / "tokenizer", vocabulary_size=shards.vocabulary_size)

    def make(self, start: int) -> Batch:
        """The micro-batch whose first document stands at `start`."""
        recipe = self.recipe
        stop = start + recipe.train.micro_batch_sequences
        documents = self.mixture.read(start, stop)
        if self.ends is not None:
            fraction = recipe.data.code_switch_fraction
            documents = exchange(documents, fraction=fraction, ends=self.ends, seed=recipe.train.seed)
        if fraction := recipe.data.drop_tokens:
            documents = drop_tokens(
                documents, fraction=fraction, keep_whole=recipe.data.keep_whole, seed=recipe.train.seed
            )
        return make_batch(
            documents,
            shards=self.shards,
            positions=np.arange(start, stop),
            width=recipe.data.max_sequence_tokens,
            masking=recipe.masking,
            seed=recipe.train.seed,
            words=self.words,
            views=self.views,
        )


class Stream:
    """The micro-batches of one rank, in order, from any step.

    Step k (from 0) covers positions s .. s + G - 1 of the stream, s the sum of all batches before and G its own
    (`plan.first_sample` and `plan.global_batch`); micro-batch m of rank r begins at s + (m * world + r) * micro.
    So a step holds the same documents for every world size.

    Args:
        recipe: batch sizes, seed, masking and smoothing.
        shards: open, with exactly the recipe's languages.
        rank: of this process.
        world: ranks.

    Raises:
        ConfigError: a batch or discriminator.turns does not divide, or limits leave a part of the stream to nobody.
        DataError: the shards are not the recipe's, or hold fewer documents than one global batch; or there are no
            translation pairs and the recipe mixes them in.
    """

    def __init__(self, recipe: Recipe, shards: ShardSet, *, rank: int, world: int) -> None:
        check_batches(recipe, world=world)
        _check(recipe, shards)
        self.recipe, self.shards, self.rank, self.world = recipe, shards, rank, world
        self.mixture = Mixture(recipe, shards, open_pairs(recipe, shards))
        self.maker = Maker(recipe, shards, self.mixture)

    def step(self, step: int) -> list[Batch]:
        """The micro-batches of this rank in one step (from 0), prepared here and now."""
        first, size = first_sample(self.recipe, step + 1), self.recipe.train.micro_batch_sequences
        accumulation = accumulation_steps(self.recipe, world=self.world, step=step + 1)
        return [self.maker.make(first + (micro * self.world + self.rank) * size) for micro in range(accumulation)]

    def steps(self, first_step: int) -> Generator[list[Batch]]:
        """Step first_step and all that follow, without end; prepared in a thread that ends when the iterator does.

        What goes wrong in the thread is raised here.
        """
        ready: queue.Queue[list[Batch] | BaseException] = queue.Queue(maxsize=STEPS_AHEAD)
        stop = threading.Event()
        worker = threading.Thread(target=self._prepare, args=(first_step, ready, stop), name="batches", daemon=True)
        worker.start()
        try:
            while True:
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            while worker.is_alive():
                # The worker may wait for room in the queue.
                while not ready.empty():
                    ready.get_nowait()
                worker.join(timeout=0.05)

    def _prepare(self, step: int, ready: queue.Queue[list[Batch] | BaseException], stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                item: list[Batch] | BaseException = self.step(step)
            except BaseException as error:  # raised again in the consumer
                item = error
            ready.put(item)
            if isinstance(item, BaseException):
                return
            step += 1


def _check(recipe: Recipe, shards: ShardSet) -> None:
    if shards.languages != recipe.languages:
        raise DataError(f"{shards.folder}: opened for {shards.languages}, the recipe has {recipe.languages}")
    width = recipe.data.max_sequence_tokens
    if shards.max_sequence_tokens > width:
        raise ConfigError(
            f"data.max_sequence_tokens = {width}, but {shards.folder} has pieces of {shards.max_sequence_tokens}: "
            f"set it to {shards.max_sequence_tokens}, or run: unibert data tokenize {recipe.name} --force"
        )
    total, batch = int(shards.samples_per_language.sum()), recipe.train.global_batch_sequences
    if total < batch:
        raise DataError(
            f"{shards.folder}: {total} documents in all, fewer than train.global_batch_sequences = {batch}: "
            f"take a smaller batch (and fewer ranks), or get more text"
        )
