"""A teacher's answers on disk: the format, writing a shard and reading documents of it. Memory-mapped, little-endian.

A folder holds
  manifest.json    format, version, the fingerprints of teacher and stream, what is kept, the shards with their first
                   position, documents and checksum, and the report; written last
  head/            the frozen masked-LM head, as a Hugging Face folder of the teacher without its layers, in fp32
  00000.cache ...  HEADER bytes of JSON, then one array after the other, each from a multiple of 64 bytes

A document is found by its position in the stream, which the stream makes of its sample id and epoch. `masks` of each is
a hash of its masked places and ids: an answer to other masks, so of another sample or epoch, is never taken for one.
`check` is a CRC of all that is kept of the document, so that damage is found when, and where, it is read.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unibert.data.lines import atomic
from unibert.data.shard_format import checksum
from unibert.errors import DataError

if TYPE_CHECKING:
    from unibert.data.batches import Batch

FORMAT, VERSION, HEADER = "unibert teacher cache", 1, 4096
EDGE = 64


@dataclass(frozen=True)
class Spans:
    """Where the documents of a batch are in what is written of it, as numpy arrays of the host."""

    targets_D: np.ndarray
    """Targets of each document."""
    tokens_D: np.ndarray
    """Tokens of each."""
    masks_D: np.ndarray
    """uint32: hash of each document's masked places and ids."""
    places_N: np.ndarray
    """Index of each token into the flattened rows, by document, ascending in each."""

    @classmethod
    def of(cls, batch: Batch) -> Spans:
        """Of a batch on the host. Its targets are by document, ascending in each, as the stream makes them."""
        document = batch.document.numpy().ravel()
        targets, count = batch.target_positions.numpy(), batch.documents
        owner_M = document[targets]
        targets_D = np.bincount(owner_M, minlength=count)
        real = np.flatnonzero(document >= 0)
        places = real[np.argsort(document[real], kind="stable")]
        place_M = batch.position_ids.numpy().ravel()[targets].astype("<i8")
        told = np.stack([place_M, batch.target_ids.numpy().astype("<i8")], axis=1)
        ends = np.cumsum(targets_D)
        masks = [zlib.crc32(told[end - n : end].tobytes()) for n, end in zip(targets_D, ends, strict=True)]
        return cls(targets_D, np.bincount(document[real], minlength=count), np.array(masks, dtype="<u4"), places)


def write_shard(path: Path, *, first: int, arrays: Mapping[str, np.ndarray], by_token: tuple[str, ...]) -> dict:
    """Write a shard atomically; `arrays` has targets, tokens and masks [D] and rows of targets or of tokens.

    Returns:
        Its entry in the manifest.
    """
    spans = {"target": np.cumsum(arrays["targets"]), "token": np.cumsum(arrays["tokens"])}
    rows = {name: array for name, array in arrays.items() if name not in ("targets", "tokens", "masks")}
    check = np.zeros(len(arrays["targets"]), dtype="<u4")
    for number in range(len(check)):
        for name, array in sorted(rows.items()):
            ends = spans["token" if name in by_token else "target"]
            check[number] = zlib.crc32(array[ends[number - 1] if number else 0 : ends[number]].tobytes(), check[number])
    whole = {
        "target_ends": spans["target"].astype("<u4"),
        "token_ends": spans["token"].astype("<u4"),
        "masks": arrays["masks"],
        "check": check,
        **rows,
    }
    place, layout = HEADER, {}
    for name, array in whole.items():
        place += -place % EDGE
        layout[name] = {"at": place, "shape": list(array.shape), "dtype": array.dtype.str}
        place += array.nbytes
    header = {"format": FORMAT, "version": VERSION, "first": first, "arrays": layout, "by_token": list(by_token)}
    with atomic(path, binary=True, durable=True) as file:
        file.write(json.dumps(header).encode().ljust(HEADER))
        for name, array in whole.items():
            file.write(b"\0" * (layout[name]["at"] - file.tell()))
            file.write(np.ascontiguousarray(array).tobytes())
    return {
        "name": path.name,
        "first": first,
        "documents": len(check),
        "targets": int(arrays["targets"].sum()),
        "tokens": int(arrays["tokens"].sum()),
        "bytes": path.stat().st_size,
        "checksum": checksum(path),
    }


class Shard:
    """One file, memory-mapped."""

    def __init__(self, path: Path, entry: Mapping[str, Any]) -> None:
        self.path, self.first, self.documents = path, int(entry["first"]), int(entry["documents"])
        self._entry = entry

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        with self.path.open("rb") as file:
            try:
                header = json.loads(file.read(HEADER))
                layout, self._by_token = header["arrays"], frozenset(header["by_token"])
            except (ValueError, KeyError, TypeError):
                raise self._damaged() from None
        return {
            name: np.asarray(
                np.memmap(self.path, dtype=one["dtype"], mode="r", offset=one["at"], shape=tuple(one["shape"]))
            )
            if 0 not in one["shape"]
            else np.zeros(one["shape"], dtype=one["dtype"])
            for name, one in layout.items()
        }

    def document(self, number: int, *, masks: int) -> dict[str, np.ndarray]:
        """Rows of a document, its targets' and its tokens'.

        Raises:
            DataError: the shard is damaged, or its answer is to other masks.
        """
        arrays = self._arrays
        check, found, out = 0, int(arrays["masks"][number]), {}
        for name in sorted(set(arrays) - {"target_ends", "token_ends", "masks", "check"}):
            ends = arrays["token_ends" if name in self._by_token else "target_ends"]
            out[name] = arrays[name][ends[number - 1] if number else 0 : ends[number]]
            check = zlib.crc32(np.ascontiguousarray(out[name]).tobytes(), check)
        if check != arrays["check"][number]:
            raise self._damaged()
        if found != masks:
            raise DataError(
                f"{self.path}: what is kept at position {self.first + number} is of other masks than the batch has: "
                "the cache is of another stream; write it again (unibert cache-teacher RECIPE --force)"
            )
        return out

    def _damaged(self) -> DataError:
        return DataError(f"{self.path}: damaged; remove it and write it again: unibert cache-teacher RECIPE")


__all__ = ["FORMAT", "VERSION", "Shard", "Spans", "write_shard"]
