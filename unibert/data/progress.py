"""A progress bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.progress import track

from unibert.data.lines import say

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 10.0


def progress(items: Sequence[T], *, what: str) -> Iterator[T]:
    """The items, while saying how many of them are done."""
    if sys.stdout.isatty():
        yield from track(items, description=what)
        return
    said = started = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - said > SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            say(f"{what}: {done} of {len(items)} ({item})")
        yield item
    say(f"{what}: {len(items)} in {time.monotonic() - started:.0f} s")
