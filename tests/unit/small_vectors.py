"""Word vectors of a small text, for tests: the singular vectors of its words' positive mutual information."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from unibert.models.entities import Vectors


def texts_of(path: Path) -> list[str]:
    """The texts of a JSON Lines file."""
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


def words_of(texts: Iterable[str]) -> list[list[str]]:
    """The words of each text, small letters."""
    return [re.findall(r"\w+", text.lower()) for text in texts]


def vectors_of(lines: Sequence[Sequence[str]], *, words: int, width: int, window: int = 4) -> Vectors:
    """Vectors of the most frequent words."""
    frequent = Counter(word for line in lines for word in line).most_common(words)
    index = {word: number for number, (word, _) in enumerate(frequent)}
    together = np.zeros((len(index), len(index)))
    for line in lines:
        ids = np.array([index.get(word, -1) for word in line], dtype=int)
        for apart in range(1, window + 1):
            a, b = ids[apart:], ids[:-apart]
            known = (a >= 0) & (b >= 0)
            np.add.at(together, (a[known], b[known]), 1)
    share = (together + together.T) / (2 * together.sum())
    context = share.sum(0) ** 0.75
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log(share / (share.sum(1, keepdims=True) * context / context.sum()))
    information = np.where(share > 0, np.maximum(information, 0), 0)
    values, rows = np.linalg.eigh(information @ information.T)
    return Vectors(tuple(index), (rows * np.clip(values, 0, None) ** 0.25)[:, -width:])


def write_vectors(path: Path, vectors: Vectors) -> Path:
    """In word2vec's text format."""
    rows = (
        " ".join([name, *map(repr, row.tolist())]) for name, row in zip(vectors.names, vectors.rows_NK, strict=True)
    )
    path.write_text("\n".join([f"{len(vectors.names)} {vectors.rows_NK.shape[1]}", *rows]) + "\n", encoding="utf-8")
    return path
