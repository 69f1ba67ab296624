"""E-BERT (Poerner et al. 2020, arXiv 1911.03681): vectors of entities or words, mapped to where a model's pieces are.

Vectors and pieces share some words. A linear map W is fitted on these, W = argmin sum |W v_x - e_x|^2 over the shared
words x, and takes every other vector to the space of the piece embeddings, where it enters as if it were a piece: no
pre-training. As a start, mapped vectors become the rows of new tokens (`add_tokens`); as an input, they take part in
the embeddings of a text (`with_entities`).

The paper fits W on all shared words without an intercept and without a penalty; `ridge` is ours, for vectors of little
text. Its E-BERT-concat and -replace are `concat` and `replace`; its average is of two models' answers, ours of the
embeddings.

Legend: N vectors, K their width, X shared words, V pieces, H hidden size, P pieces of a text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import AddedToken, PreTrainedModel, PreTrainedTokenizerBase

from unibert.errors import ConfigError, DataError

Mode = Literal["replace", "concat", "average"]
MARKS = ("▁", "Ġ", "")
"""What may stand before a piece that begins a word: SentencePiece's, byte-level BPE's, WordPiece's."""


@dataclass(frozen=True)
class Vectors:
    """Words or entities, and the vector of each."""

    names: tuple[str, ...]
    rows_NK: np.ndarray


@dataclass(frozen=True)
class Mention:
    """Pieces start .. stop-1 of a text speak of an entity, whose mapped vector is [H]."""

    start: int
    stop: int
    vector_H: Tensor


def read_vectors(path: Path, *, keep: Callable[[str], bool] = lambda name: True) -> Vectors:
    """Read word2vec's text format, with or without its first line, or an .npy [N, K] with names, a line each, in .txt.

    Args:
        path: the file; of a text only the rows that are kept are held in memory.
        keep: whether a name's row is wanted.

    Raises:
        DataError: no such file, uneven rows, a number that is none, a name twice, or fewer rows than it says.
    """
    try:
        if path.suffix == ".npy":
            rows_NK = np.load(path).astype(np.float64)
            names = path.with_suffix(".txt").read_text(encoding="utf-8").splitlines()
        else:
            names, rows_NK = _read_text(path, keep=keep)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as vectors: {error}") from error
    if rows_NK.ndim != 2 or len(names) != len(rows_NK) or not np.isfinite(rows_NK).all():
        raise DataError(f"{path}: {len(names)} names and numbers of shape {rows_NK.shape}: not one finite row a name")
    return Vectors(tuple(names), rows_NK)


def _read_text(path: Path, *, keep: Callable[[str], bool]) -> tuple[list[str], np.ndarray]:
    """Names and rows of word2vec's text format, those that are kept."""
    lines: dict[str, int] = {}
    rows, width, promised, found = [], None, None, 0
    with path.open(encoding="utf-8") as file:
        for line, text in enumerate(file, start=1):
            name, *numbers = text.rstrip().split(" ")
            if line == 1 and len(numbers) == 1:
                promised, width = int(name), int(numbers[0])
                continue
            found, width = found + 1, width or len(numbers)
            if len(numbers) != width:
                raise DataError(f"{path}:{line}: {name!r} has {len(numbers)} numbers, and not {width} as those above")
            if name in lines:
                raise DataError(f"{path}:{line}: {name!r} stands in line {lines[name]} too: leave one of them out")
            if keep(name):
                rows.append(_numbers(numbers, f"{path}:{line}: {name!r}"))
                lines[name] = line
    if not found:
        raise DataError(f"{path} holds no vectors")
    if promised is not None and promised != found:
        raise DataError(f"{path}: its first line says {promised} rows, and it has {found}: was it cut off?")
    return list(lines), np.array(rows, dtype=np.float64).reshape(len(rows), width or 0)


def _numbers(words: Sequence[str], where: str) -> np.ndarray:
    try:
        numbers_K = np.array(words, dtype=np.float64)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    if not np.isfinite(numbers_K).all():
        raise DataError(f"{where} has a number that is not finite")
    return numbers_K


def shared_pieces(names: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> dict[int, int]:
    """For each name that is one whole piece at the beginning of a word: its index -> the piece's id."""
    pieces = whole_words(tokenizer)
    return {index: pieces[name] for index, name in enumerate(names) if name in pieces}


def whole_words(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Every piece that begins a word, without what marks it so: its id."""
    pieces = tokenizer.get_vocab()
    mark = next(mark for mark in MARKS if any(piece.startswith(mark) for piece in pieces))
    return {piece.removeprefix(mark): number for piece, number in pieces.items() if piece.startswith(mark)}


def fit_map(vectors_XK: np.ndarray, pieces_XH: np.ndarray, *, ridge: float = 0.0) -> np.ndarray:
    """W^T [K, H]: v @ W^T is nearest to the pieces in least squares.

    Args:
        vectors_XK: of the shared words.
        pieces_XH: the pieces' embeddings of the same words.
        ridge: penalty on W, as a multiple of the mean square of the vectors' entries times X.

    Raises:
        DataError: fewer shared words than the vectors are wide, so that the map is anything.
    """
    shared, width = vectors_XK.shape
    if shared < width:
        raise DataError(
            f"{shared} words are shared by the vectors and the pieces, fewer than the vectors' width {width}: the map "
            "has no single solution; take vectors of more words, or narrower ones"
        )
    penalty = np.sqrt(ridge * shared * np.square(vectors_XK).mean()) * np.eye(width)
    above = np.concatenate([vectors_XK, penalty])
    beside = np.concatenate([pieces_XH, np.zeros((width, pieces_XH.shape[1]))])
    return np.linalg.lstsq(above, beside, rcond=None)[0]


def map_vectors(
    vectors: Vectors, hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, ridge: float = 0.0
) -> Tensor:
    """Every vector where the model's pieces are, fp32 [N, H]; the map is fitted on the words that both have.

    Raises:
        DataError: too few words are shared.
    """
    shared = shared_pieces(vectors.names, tokenizer)
    table_VH = _table(hf).detach().double().cpu().numpy()
    map_KH = fit_map(vectors.rows_NK[list(shared)], table_VH[list(shared.values())], ridge=ridge)
    return torch.from_numpy(vectors.rows_NK @ map_KH).float()


def add_tokens(
    hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, names: Sequence[str], rows_NH: Tensor
) -> list[int]:
    """Give model and tokenizer new tokens that begin at these rows, in place; returns their ids.

    The output bias of a new token is the smallest there is, so that the head does not say it at once.

    Raises:
        ConfigError: a name is a token already, or named twice.
    """
    known = tokenizer.get_vocab()
    if wrong := sorted({name for name in names if name in known or list(names).count(name) > 1}):
        raise ConfigError(
            f"{', '.join(wrong[:3])}: a token already, or named twice; give each entity a name of its own, or begin "
            "with a model that has not been given entities"
        )
    tokenizer.add_tokens([AddedToken(name, lstrip=True, normalized=True) for name in names])
    known = tokenizer.get_vocab()
    ids = [known[name] for name in names]
    before = hf.config.vocab_size  # a table can have more rows than there are tokens
    hf.resize_token_embeddings(max(before, *(number + 1 for number in ids)), mean_resizing=False)
    with torch.no_grad():
        _table(hf)[ids] = rows_NH.to(_table(hf).dtype)
        output: Any = hf.get_output_embeddings()
        if output is not None and output.bias is not None:
            output.bias[ids] = output.bias[:before].min()
    hf.tie_weights()
    return ids


def with_entities(
    embeddings_PH: Tensor, mentions: Sequence[Mention], *, mode: Mode, slash_H: Tensor | None = None
) -> Tensor:
    """The word embeddings of a text in which entities take part, for an encoder's `inputs_embeds`.

    `replace`: the entity's vector instead of the mention's pieces. `concat`: the vector, the embedding of a slash, and
    the pieces. `average`: instead of the pieces one vector, the mean of the entity's and of the pieces' mean.

    Args:
        embeddings_PH: of the text's pieces.
        mentions: in the order of the text, not overlapping.
        mode: how entities take part.
        slash_H: embedding of the slash, for `concat`.
    """
    assert mode != "concat" or slash_H is not None
    parts, done = [], 0
    for mention in mentions:
        assert done <= mention.start < mention.stop <= len(embeddings_PH), "mentions overlap, or are not in the text"
        parts.append(embeddings_PH[done : mention.start])
        pieces_PH, entity_1H = embeddings_PH[mention.start : mention.stop], mention.vector_H[None]
        if mode == "concat":
            parts += [entity_1H, slash_H[None], pieces_PH]  # type: ignore[index]
        else:
            parts.append(entity_1H if mode == "replace" else (entity_1H + pieces_PH.mean(0, keepdim=True)) / 2)
        done = mention.stop
    return torch.cat([*parts, embeddings_PH[done:]])


def _table(hf: PreTrainedModel) -> Tensor:
    return hf.get_input_embeddings().weight  # type: ignore[return-value, union-attr]
