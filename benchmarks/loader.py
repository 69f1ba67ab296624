"""Tokens per second of the loader: Stream.step beside torch's DataLoader with transformers' collator.

    python benchmarks/loader.py [--folder data/demo] [--save]

CPU seconds of one thread (the wall time where nothing else runs). Both sides read the same documents of the same shards
in the same order and mask them; ours packs them into rows, transformers' DataCollatorForLanguageModeling pads each
micro-batch to its longest. Tokens are the documents' own, padding not counted. Interleaved; the median is given.
Shards of 107 languages and longer documents are cut from the demo's tokens.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

from unibert.config import load_recipe
from unibert.data.batches import Stream
from unibert.data.shard_format import TokenizerFacts, language_entry, write_file, write_manifest
from unibert.data.shards import ShardSet
from unibert.languages import LANGUAGES
from unibert.schema import Recipe

RESULTS = Path(__file__).with_name("results.csv")
DOCUMENTS, REPEATS = 4096, 5


@dataclass(frozen=True)
class Case:
    """One row: whose documents, how wide, how many in a micro-batch, what is masked."""

    recipe: Recipe
    shards: ShardSet

    def stream(self) -> Stream:
        return Stream(self.recipe, self.shards, rank=0, world=1)

    def __str__(self) -> str:
        recipe = self.recipe
        mean = self.shards.tokens_per_language.sum() / self.shards.samples_per_language.sum()
        return (
            f"{len(recipe.languages)} languages, documents of {mean:.0f} tokens in the mean, S "
            f"{recipe.data.max_sequence_tokens}, micro-batch {recipe.train.micro_batch_sequences}, "
            f"{recipe.masking.unit} masking"
        )


def cut_shards(folder: Path, *, demo: ShardSet, facts: TokenizerFacts, longest: int) -> tuple[str, ...]:
    """Shards of every language in languages.py, of the demo's tokens cut into log-normal lengths up to `longest`."""
    random = np.random.default_rng(0)
    entries = {}
    for number, code in enumerate(LANGUAGES):
        flat = demo.tokens(number % len(demo.languages))
        flat = flat[~np.isin(flat, [facts.special.cls, facts.special.sep])]
        lengths = np.clip(random.lognormal(np.log(longest / 4), 0.9, size=400).astype(int), 3, longest)
        pieces = [np.resize(np.roll(flat, -137 * i), n - 2) for i, n in enumerate(lengths)]
        ids = np.concatenate([[facts.special.cls, *piece, facts.special.sep] for piece in pieces])
        chunks = [(ids, lengths)]
        file = write_file(folder / f"{code}-00000.tokens", language=code, chunks=chunks, tokenizer=facts)
        assert file is not None
        entries[code] = language_entry([file], tokenizer=facts, facts={})
    write_manifest(folder, tokenizer=facts, max_sequence_tokens=longest, languages=entries)
    return tuple(LANGUAGES)


def cases(folder: Path, scratch: Path) -> Iterator[Case]:
    """The demo, then 107 languages at two widths; each with both kinds of masking, and with a larger micro-batch."""
    plain = load_recipe("demo", ["--data.folder", str(folder), "--discriminator.turns", "1"])
    demo = ShardSet.open(folder / "shards", languages=plain.languages)
    facts = TokenizerFacts.read(folder / "tokenizer")
    for longest in (None, 128, 512):
        recipe, shards = plain, demo
        if longest:
            own = scratch / str(longest)
            own.mkdir()
            (own / "tokenizer").symlink_to((folder / "tokenizer").absolute())
            codes = cut_shards(own / "shards", demo=demo, facts=facts, longest=longest)
            shards = ShardSet.open(own / "shards")
            data = plain.data.model_copy(update={"folder": own, "max_sequence_tokens": longest})
            recipe = plain.model_copy(update={"data": data, "languages": codes})
        for micro, unit in ((32, "token"), (32, "word"), (256, "token"), (256, "word")):
            train = recipe.train.model_copy(
                update={"micro_batch_sequences": micro, "global_batch_sequences": 4 * micro}
            )
            masking = recipe.masking.model_copy(update={"unit": unit})
            yield Case(recipe.model_copy(update={"train": train, "masking": masking}), shards)


def ours(case: Case) -> Callable[[], int]:
    """A function that prepares the documents and returns their tokens."""
    stream = case.stream()
    steps = DOCUMENTS // case.recipe.train.global_batch_sequences
    return lambda: sum(batch.tokens for step in range(steps) for batch in stream.step(step))


def theirs(case: Case, *, tokenizer: PreTrainedTokenizerFast) -> Callable[[], int]:
    """The same documents through torch's DataLoader."""
    places = case.stream().mixture.draw(0, DOCUMENTS)
    documents = list(zip(places.language.tolist(), places.sample.tolist(), strict=True))
    collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=case.recipe.masking.fraction)
    loader = DataLoader(
        documents,  # type: ignore[arg-type]
        batch_size=case.recipe.train.micro_batch_sequences,
        collate_fn=lambda which: collate([{"input_ids": case.shards.sample(*one).astype(np.int64)} for one in which]),
    )
    return lambda: sum(int(batch["attention_mask"].sum()) for batch in loader)


def tokens_per_second(work: Callable[[], int]) -> float:
    began = time.process_time()
    tokens = work()
    return tokens / (time.process_time() - began)


def main() -> None:
    """Print a row per case."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path("data/demo"))
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    device = f"CPU, 1 of {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(options.folder / "tokenizer")
    with tempfile.TemporaryDirectory() as scratch:
        for case in cases(options.folder, Path(scratch)):
            sides = ours(case), theirs(case, tokenizer=tokenizer)
            for side in sides:
                side()  # warm-up
            own, other = zip(*(map(tokens_per_second, sides) for _ in range(REPEATS)), strict=True)
            figures = [f"{statistics.median(side):.0f}" for side in (own, other)]
            print(f"{case}: {figures[0]} tokens per CPU second, DataLoader {figures[1]}", flush=True)
            if options.save:
                row = [datetime.date.today().isoformat(), commit.stdout.strip(), "loader.py --save", "Stream.step"]
                row += ["DataLoader + DataCollatorForLanguageModeling", str(case), device]
                row += ["tokens / CPU second (higher is better)", *figures, str(REPEATS)]
                with RESULTS.open("a", newline="") as file:
                    csv.writer(file).writerow(row)


if __name__ == "__main__":
    main()
