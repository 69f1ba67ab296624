"""A small slice of `wikimedia/wikipedia` from the Hugging Face hub, for machines with neither apt nor npm.

Articles are not aligned between languages, so nothing parallel comes from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from unibert.data.lines import say
from unibert.data.sources.base import Row
from unibert.errors import DataError
from unibert.languages import wikipedia_code

NAME = "wikipedia"
DATASET = "wikimedia/wikipedia"
SNAPSHOT = "20231101"
LICENCE = "CC-BY-SA-4.0"


def rows(languages: Sequence[str], *, per_language: int) -> Iterator[Row]:
    """The first `per_language` paragraphs of each language's edition, streamed; DataError without the hub."""
    try:
        from datasets import load_dataset  # heavy, and needed on this path alone
    except ImportError as error:
        raise DataError("neither apt nor npm is here, and the hub needs the package `datasets`: install it") from error
    for code in languages:
        if (edition := wikipedia_code(code)) is None:
            say(f"  {NAME}: no edition of its own for {code}, left out")
            continue
        edition = f"{SNAPSHOT}.{edition}"
        try:
            articles = load_dataset(DATASET, edition, split="train", streaming=True)
            yield from _paragraphs(articles, code, per_language)
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(f"{DATASET} {edition}: cannot be read from the hub ({error}); run again") from error
        say(f"  {NAME}: {code} read")


def _paragraphs(articles: object, code: str, wanted: int) -> Iterator[Row]:
    for article in articles:  # type: ignore[attr-defined]
        for number, paragraph in enumerate(article["text"].split("\n")):
            if len(paragraph) < 8:
                continue
            yield Row(f"{article['id']}.{number}", code, paragraph)
            wanted -= 1
            if not wanted:
                return
