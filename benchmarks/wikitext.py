"""Wiki markup to text: characters of markup per second of one core, beside mwparserfromhell's strip_code.

    pip install mwparserfromhell
    python benchmarks/wikitext.py DUMP [--pages 100] [--save]

DUMP is a Wikipedia pages-articles dump. Each side gets the same articles in turn, in CPU seconds of one thread; ours
also drops tables, references, link sections and lists, which strip_code leaves in. The whole way from the compressed
dump to documents (bzip2, XML, markup) is timed besides.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import mwparserfromhell
import rows

from unibert.data.sources import files, wiki_words, wikipedia_dump, wikitext
from unibert.data.sources.base import Part, Skips
from unibert.source_tables import WikipediaDump


def articles(path: Path, code: str) -> list[str]:
    """The markup of every article."""
    reader = wikipedia_dump._Reader()
    with files.opened(path) as stream:
        pages = list(wikipedia_dump._pages(path, stream, reader, Skips()))
    return [page.fields["text"] for page in pages if wikipedia_dump._reason_to_skip(page, code) is None]


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process."""
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    """Measure and print; --save appends the row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dump", type=Path)
    parser.add_argument("--pages", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    code = wikipedia_dump.language_tag(options.dump) or "en"
    sections, hidden = wiki_words.dropped_sections(code), wiki_words.NAMESPACES
    texts = articles(options.dump, code)[: options.pages]
    size = sum(map(len, texts))
    part = Part("dump", (options.dump,), code, (code,))

    def ours() -> None:
        for text in texts:
            wikitext.plain(text, hidden=hidden, dropped_sections=sections)

    def theirs() -> None:
        for text in texts:
            mwparserfromhell.parse(text).strip_code()

    pairs = [(seconds(ours), seconds(theirs)) for _ in range(options.repeats)]
    mine, other = (size / statistics.median(side) / 1e6 for side in zip(*pairs, strict=True))
    whole = seconds(lambda: list(wikipedia_dump.documents(WikipediaDump(path="dump"), part, Skips())))
    everything = sum(map(len, articles(options.dump, code)))
    print(f"{len(texts)} articles, {size / 1e6:.2f}M characters of markup")
    print(f"unibert {mine:.2f}M characters/s, mwparserfromhell.strip_code {other:.2f}M")
    print(f"from the compressed dump to documents: {everything / whole / 1e6:.2f}M characters of article markup/s")
    if options.save:
        shape = f"{len(texts)} articles of {options.dump.name}; {size} characters"
        unit, device = "M characters / CPU s (higher is better)", "CPU, 1 thread, machine shared"
        row = ["wikitext.py --save", "wiki markup to text", "mwparserfromhell strip_code", shape, device, unit]
        rows.save([[*row, f"{mine:.2f}", f"{other:.2f}", options.repeats]])


if __name__ == "__main__":
    main()
