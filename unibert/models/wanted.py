"""What one forward of an encoder is asked for, and the sizes of an encoder that decide what it can be asked. No torch.

Layers are counted as Hugging Face counts hidden states: 0 is what the embeddings give, i what layer i gives, the last
one L. An attention is named by the layer it is in, 1 to L.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Wanted:
    """What is wanted."""

    masked_logits: bool = False
    """[M, V] at the masked targets."""
    token_logits: bool = False
    """[N, V] at every token that is no padding."""
    hidden: frozenset[int] = frozenset()
    """Hidden states of these layers, 0 to L - 1."""
    attention: frozenset[int] = frozenset()
    """Query, key and value of these layers, 1 to L."""
    last_hidden: bool = True
    """The last hidden state at every token; false where the logits alone are read, as a cache may hold no more."""
    factored: bool = False
    """Logits may come as their factors, the decoder and its inputs; of who wants or gives logits at all."""

    def __or__(self, other: Wanted) -> Wanted:
        return Wanted(
            self.masked_logits or other.masked_logits,
            self.token_logits or other.token_logits,
            self.hidden | other.hidden,
            self.attention | other.attention,
            self.last_hidden or other.last_hidden,
            self._takes_factors and other._takes_factors and (self.factored or other.factored),
        )

    def __sub__(self, given: Wanted) -> Wanted:
        return Wanted(
            self.masked_logits and not given.masked_logits,
            self.token_logits and not given.token_logits,
            self.hidden - given.hidden,
            self.attention - given.attention,
            self.last_hidden and not given.last_hidden,
        )

    @property
    def _takes_factors(self) -> bool:
        return self.factored or not (self.masked_logits or self.token_logits)

    def __bool__(self) -> bool:
        return self != Wanted(last_hidden=False)

    def __str__(self) -> str:
        parts = ["masked-LM logits"] if self.masked_logits else []
        parts += ["masked-LM logits of every token"] if self.token_logits else []
        parts += ["the last hidden state of every token"] if self.last_hidden else []
        for name, layers in (("hidden states", self.hidden), ("queries, keys and values", self.attention)):
            if layers:
                parts.append(f"{name} of layers {', '.join(map(str, sorted(layers)))}")
        return " and ".join(parts) or "nothing"


@dataclass(frozen=True)
class Sizes:
    """The shape of an encoder."""

    layers: int
    hidden: int
    heads: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> Sizes:
        """Of a Hugging Face config."""
        return cls(config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.vocab_size)

    @property
    def everything(self) -> Wanted:
        """All that an encoder of this shape with a masked-LM head can give."""
        return Wanted(True, True, frozenset(range(self.layers)), frozenset(range(1, self.layers + 1)))
