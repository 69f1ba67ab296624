"""Packed rows as one sequence of documents, and documents of about one length at a time.

What is pairwise within documents costs the sum of their squared lengths this way, not rows times the squared width.

Legend: R rows, N heads, S width of a row, D head width, T tokens of all documents, G documents of a group, L their
largest length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# A document joins others of at most this many times its length: the rest of its part of a group is padding.
MOST_PADDING = 4 / 3


class Documents(NamedTuple):
    """Where the documents of packed rows are."""

    places_T: Tensor
    """int64: index into the flattened R*S of each token, document by document."""
    starts: Tensor
    """int32 [documents + 1]: the first token of each, and T."""
    longest: int
    """Tokens of the longest; 0 when there is none."""
    in_place: bool
    """Whether every place of every row is a token, in this order."""

    @classmethod
    def of(cls, document_RS: Tensor) -> Documents:
        """Of the document of each place, -1 where there is none. On a GPU it waits for the device."""
        flat = document_RS.flatten()
        order = torch.argsort(flat, stable=True)
        lengths = torch.bincount(flat + 1)
        nowhere, lengths = int(lengths[:1].sum()), lengths[1:]
        in_place = nowhere == 0 and torch.equal(order, torch.arange(len(order), device=order.device))
        starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).to(torch.int32)
        return cls(order[nowhere:], starts, int(lengths.max()) if len(lengths) else 0, in_place)

    def pack(self, x_RNSD: Tensor) -> Tensor:
        """[T, N, D]: the tokens one after another."""
        every = x_RNSD.transpose(1, 2).flatten(0, 1)
        return every if self.in_place else every.index_select(0, self.places_T)


class Group(NamedTuple):
    """Documents of about one length."""

    tokens_GL: Tensor
    """int64 into T; a token of another document where the document has ended."""
    valid_GL: Tensor | None
    """bool: whether it is its own; None when all are."""
    lengths_G: Tensor
    """int64"""
    span: slice | None
    """Of T, where the tokens are one run."""

    def take(self, x_TND: Tensor) -> Tensor:
        """[G, N, L, D], with zeros where a document has ended; a view where that is possible."""
        if self.span is not None:
            return x_TND[self.span].unflatten(0, self.tokens_GL.shape).transpose(1, 2)
        x_GNLD = x_TND.index_select(0, self.tokens_GL.flatten()).unflatten(0, self.tokens_GL.shape).transpose(1, 2)
        return x_GNLD if self.valid_GL is None else x_GNLD * self.valid_GL[:, None, :, None]

    def put(self, x_GNLD: Tensor, *, into: Tensor) -> None:
        """Write what belongs to the documents' tokens."""
        x_GLND = x_GNLD.transpose(1, 2)
        if self.span is not None:
            into[self.span].unflatten(0, self.tokens_GL.shape).copy_(x_GLND)
            return
        x_XND = x_GLND.flatten(0, 1).to(into.dtype)
        if self.valid_GL is None:
            into.index_copy_(0, self.tokens_GL.flatten(), x_XND)
        else:
            own = self.valid_GL.flatten().nonzero().squeeze(1)
            into.index_copy_(0, self.tokens_GL.flatten()[own], x_XND[own])


def by_length(
    starts: Tensor, *, elements: int, each: Callable[[int], int] = lambda length: length**2
) -> Iterator[Group]:
    """The documents in groups, each of so many as bring `elements` to it, or of one document.

    Args:
        starts: see `Documents`.
        elements: that are alive at a time.
        each: how many of them a document of this length has.
    """
    lengths_D = starts.diff()
    order_D = torch.argsort(lengths_D, descending=True, stable=True)
    lengths, begins = lengths_D[order_D].tolist(), starts[:-1][order_D].tolist()
    first, end, end_of_all = 0, sum(length > 0 for length in lengths), int(starts[-1])
    while first < end:
        longest = lengths[first]
        room, last = max(1, elements // each(longest)), first + 1
        while last < end and last - first < room and lengths[last] * MOST_PADDING >= longest:
            last += 1
        chosen = order_D[first:last]
        place_L = torch.arange(longest, device=starts.device)
        tokens_GL = starts[chosen].long()[:, None] + place_L
        lengths_G = lengths_D[chosen].long()
        even = lengths[last - 1] == longest
        valid_GL = None if even else place_L < lengths_G[:, None]
        run = range(begins[first], begins[first] + (last - first) * longest, longest)
        span = slice(run.start, run.stop) if even and begins[first:last] == list(run) else None
        yield Group(tokens_GL.clamp_(max=end_of_all - 1), valid_GL, lengths_G, span)
        first = last
