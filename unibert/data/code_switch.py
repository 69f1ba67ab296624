"""Sentence-level code-switching: texts that go from one language to another between sentences. No torch.

Source: PPA (Pan et al., arXiv 2010.12547) fine-tunes on premises in one language and hypotheses in English or the
reverse, and on questions and contexts alike, with whole sentences and no dictionaries: `sides` says which. Pre-training
has no labelled parts, so there the two sides of a translation pair exchange their later sentences (our choice).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from unibert.data.lines import stable_hash
from unibert.data.mixture import Documents
from unibert.data.sampler import hash64
from unibert.errors import DataError

_SWITCH, _CUT = 7, 8  # what a pair's random bits are for
ENDS = tuple(".!?…。！？।॥؟۔።")
"""What ends a sentence, in most scripts that mark it."""


def sides(example: str, *, languages: Sequence[str], pivot: str = "en", seed: int = 0) -> tuple[str, str]:
    """Languages of the first and of the second part of a labelled example that is there in several languages.

    One part is in the pivot, the other in one of the other languages, either way round: a pure function of (seed,
    example), with all choices equally often. Between no languages but the pivot there is nothing to switch.

    Args:
        example: an id of the example, the same in all languages.
        languages: those the example is there in.
        pivot: English in PPA.
        seed: another one gives another choice, as for each epoch.
    """
    others = [code for code in languages if code != pivot]
    if pivot not in languages or not others:
        return languages[0], languages[0]
    which, turned = divmod(stable_hash(example, seed=seed) % (2 * len(others)), 2)
    return (others[which], pivot) if turned else (pivot, others[which])


def read_ends(folder: Path, *, vocabulary_size: int) -> np.ndarray:
    """Which pieces of the tokenizer in `folder` end a sentence, bool [V].

    Raises:
        DataError: there is no tokenizer.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise DataError(
            f"{path}: no such file, and data.code_switch_fraction needs it; run: unibert data tokenize RECIPE"
        )
    tokenizer = Tokenizer.from_file(str(path))
    texts = tokenizer.decode_batch([[piece] for piece in range(vocabulary_size)])
    return np.array([text.strip().endswith(ENDS) for text in texts])


def exchange(documents: Documents, *, fraction: float, ends: np.ndarray, seed: int) -> Documents:
    """Documents in which some pairs have exchanged their later sentences.

    Of the pairs with equally many sentences on both sides, two or more, a `fraction` is cut between the same sentences
    of both, and what comes after the cut changes places: each side then begins in its own language, in which it is
    counted, and goes on in the other, and the two still say the same. A pure function of (seed, pair, epoch).

    Args:
        documents: with their pairs.
        fraction: of the pairs.
        ends: of `read_ends`.
        seed: of the run.
    """
    heads = documents.pairs[:, 0]
    key = hash64(seed, documents.ids[heads], documents.epoch[heads])
    chosen = (hash64(_SWITCH, key) >> np.uint64(11)) * 2.0**-53 < fraction
    texts = list(documents.texts)
    for (a, b), luck in zip(documents.pairs[chosen].tolist(), hash64(_CUT, key)[chosen].tolist(), strict=True):
        cuts_a, cuts_b = _cuts(texts[a], ends), _cuts(texts[b], ends)
        if len(cuts_a) == len(cuts_b) > 0:
            at_a, at_b = (cuts[luck % len(cuts)] for cuts in (cuts_a, cuts_b))
            one, other = texts[a], texts[b]
            texts[a] = np.concatenate([one[:at_a], other[at_b:]])
            texts[b] = np.concatenate([other[:at_b], one[at_a:]])
    return replace(documents, texts=texts)


def _cuts(text: np.ndarray, ends: np.ndarray) -> list[int]:
    """Places in a text, with its cls and sep, at which another sentence begins."""
    ended = ends[text[:-1]]
    last = np.flatnonzero(ended & ~np.append(ended[1:], False)) + 1  # of several marks the last one
    return last[last < len(text) - 1].tolist()
