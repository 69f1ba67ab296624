"""Retrieval and the fresh probe once more, on embeddings that have lost their language's part (language_removal.py).

Nothing is judged on text that the parts were fitted on: retrieval's are fitted on the held-out lines, of which none is
a message; the probe's on its training side, and both sides lose them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from unibert.data.lines import text_key
from unibert.errors import ConfigError
from unibert.evaluate.embed import Features
from unibert.evaluate.heldout import ENGLISH
from unibert.evaluate.language_removal import Parts, fit_parts, remove_parts
from unibert.evaluate.probe import language_probe, on_training_side
from unibert.evaluate.results import Removed
from unibert.evaluate.retrieval import Pairs, enough, retrieval


def without_language(
    features: Features,
    *,
    texts: Sequence[str],
    languages: Sequence[str],
    embed: Callable[[Sequence[str]], Tensor],
    pairs: Pairs,
    english: Sequence[str],
    rank: int,
) -> Removed:
    """What is left of retrieval and probe; retrieval in the languages that have held-out lines, if English has.

    Args:
        features: of the held-out lines.
        texts: the lines.
        languages: of the lines.
        embed: messages to [N, H].
        pairs: as retrieval is given them.
        english: likewise.
        rank: directions removed of a language.

    Raises:
        ConfigError: a rank as large as the embeddings are wide.
    """
    messages = {text_key(text) for rows in pairs.values() for pair in rows for text in pair}
    fits = torch.tensor([text_key(text) not in messages for text in texts])
    parts = _fitted(features.mean, fits, languages=languages, rank=rank)
    known = {code: rows for code, rows in enough(pairs).items() if code in parts and ENGLISH in parts}
    probes = {}
    for kind, features_NH in (("mean", features.mean), ("first", features.first)):
        left_NH = left_for_probe(features_NH, texts=texts, languages=languages, rank=rank)
        probes[kind] = language_probe(left_NH, texts=texts, languages=languages)
    return Removed(
        rank=rank,
        lines=int(fits.sum()),
        retrieval=retrieval(embed, known, english=english, parts=parts) if known else {},
        probe=probes,
    )


def refuse_high_rank(rank: int, *, lines: Mapping[str, Sequence[str]]) -> None:
    """Before any work: every language of the probe has as many lines to fit on as directions are removed.

    Raises:
        ConfigError: it has not.
    """
    if rank < 1:
        raise ConfigError(f"--remove-language {rank}: name at least one direction, or leave it out")
    for code, texts in lines.items():
        fits = sum(map(on_training_side, texts))
        if fits < rank:
            raise ConfigError(
                f"--remove-language {rank}: {code!r} has {fits} held-out lines to fit on: take a lower rank, or raise "
                "data.heldout_lines_per_language and run `unibert data dedup` with --force"
            )


def _fitted(features_NH: Tensor, fits: Tensor, *, languages: Sequence[str], rank: int) -> Parts:
    own = [code for code, fit in zip(languages, fits.tolist(), strict=True) if fit]
    return fit_parts(features_NH[fits], languages=own, rank=rank)


def left_for_probe(features_NH: Tensor, *, texts: Sequence[str], languages: Sequence[str], rank: int) -> Tensor:
    """Features without their language's part, fitted on the probe's training side."""
    parts = _fitted(features_NH, torch.tensor(list(map(on_training_side, texts))), languages=languages, rank=rank)
    return remove_parts(features_NH, languages=languages, parts=parts)
