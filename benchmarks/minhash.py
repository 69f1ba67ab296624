"""Near duplicates: speed, recall and false positives on real lines with planted copies, beside datasketch.

    pip install datasketch==2.0.0
    python benchmarks/minhash.py FOLDER [--lines 300] [--save]

FOLDER is a prepared data folder (its cleaned/ is read). Copies of lines are planted with one edit for ten words
(in scripts without spaces: characters): replaced, deleted, inserted or swapped with the next. datasketch gets the same
shingles, number of hashes, bands (32 of 4; ours has 16 more), a fast hash (xxhash) and the same least similarity for
candidates. Times are CPU seconds of one thread from keys to flags; the sides take turns. False positives are pairs of
unrelated lines: the text is full of real near duplicates, which have a long piece in common.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import time
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rows
import xxhash
from datasketch import MinHash, MinHashLSH

from unibert.data.curation import near
from unibert.data.lines import read_json, text_key
from unibert.data.units import Unit
from unibert.languages import script_of

UNSPACED = {"Hans", "Hant", "Jpan", "Thai", "Khmr", "Mymr"}
LENGTHS = ((30, 50), (50, 100), (100, 1000))
SPEED_LANGUAGES = ("en", "ru", "ar", "hi", "zh", "th")
FEWEST = 50
RELATED = 20
"""Characters that two lines have in common in one piece: one is made of the other, or both of a third."""
DEVICE = "CPU, 1 thread, machine shared"

Finder = Callable[[Sequence[str], int], np.ndarray]


class Found(NamedTuple):
    """What was found in one language, as shares."""

    recall: float
    false: float
    language: str


@cache
def units_in(folder: Path) -> tuple[Unit, ...]:
    """The units of cleaned/."""
    entries = read_json(folder / "cleaned" / "report.json")["units"]
    return tuple(
        Unit.from_result(n, folder / "cleaned" / name, entry) for n, (name, entry) in enumerate(entries.items())
    )


def sample(folder: Path, code: str, lengths: tuple[int, int], count: int) -> list[str]:
    """Cleaned lines of a language, no two with equal keys, in a seeded order."""
    rows_of = (unit.rows(code) for unit in units_in(folder) if code in unit.slices)
    texts = {text_key(row["text"]): row["text"] for row in itertools.chain.from_iterable(rows_of)}
    fit = [text for text in texts.values() if lengths[0] <= len(text) < lengths[1]]
    random.Random(1).shuffle(fit)
    return fit[:count]


def edited(units: list[str], pool: Sequence[str], rng: random.Random) -> list[str]:
    """A copy of the words or characters with one edit for ten of them, at least one."""
    units = list(units)
    for _ in range(max(1, round(len(units) / 10))):
        at, kind = rng.randrange(len(units)), rng.randrange(4)
        if kind == 0:
            units[at] = rng.choice(pool)
        elif kind == 1 and len(units) > 1:
            del units[at]
        elif kind == 2:
            units.insert(at, rng.choice(pool))
        elif at + 1 < len(units):
            units[at : at + 2] = units[at + 1], units[at]
    return units


def copies(texts: Sequence[str], code: str, *, seed: int) -> list[str]:
    """An edited copy of each text."""
    spaced = script_of(code) not in UNSPACED
    units = [text.split() if spaced else list(text) for text in texts]
    pool, rng = list(itertools.chain.from_iterable(units)), random.Random(seed)
    return [(" " if spaced else "").join(edited(text, pool, rng)) for text in units]


def ours(keys: Sequence[str], shingle: int) -> np.ndarray:
    """Flags of near duplicates by this project."""
    return near.near_duplicates(keys, shingle=shingle)


def theirs(keys: Sequence[str], shingle: int) -> np.ndarray:
    """The same by datasketch: banding, then the estimate of every candidate."""
    index = MinHashLSH(num_perm=near.HASHES, params=(32, 4))
    drop = np.zeros(len(keys), dtype=bool)
    signed = signed_by_datasketch(keys, shingle)
    for place, mine in enumerate(signed):
        drop[place] = any(mine.jaccard(signed[other]) >= near.LENIENT for other in index.query(mine))
        index.insert(place, mine)
    return drop


def signed_by_datasketch(keys: Sequence[str], shingle: int) -> list[MinHash]:
    """A MinHash of each key."""
    sets = ([key[at : at + shingle].encode() for at in range(max(1, len(key) - shingle + 1))] for key in keys)
    return list(MinHash.bulk(sets, num_perm=near.HASHES, hashfunc=xxhash.xxh32_intdigest))


def false_pairs(keys: Sequence[str], shingle: int) -> float:
    """Share of all pairs of different lines that are called near although no RELATED characters of theirs agree."""
    signed = near.signatures(keys, shingle=shingle)
    first, second = np.triu_indices(len(keys), 1)
    parts = np.array_split(np.arange(len(first)), len(first) // 20000 + 1)
    called = [part[near.are_near(signed[first[part]], signed[second[part]])] for part in parts]
    pairs = ((keys[first[pair]], keys[second[pair]]) for pair in np.concatenate(called).tolist())
    return sum(longest_common_run(*pair) < RELATED for pair in pairs) / len(first)


def longest_common_run(a: str, b: str) -> int:
    """Characters of the longest piece that two texts share."""
    return SequenceMatcher(None, a, b, autojunk=False).find_longest_match().size


def found(
    folder: Path, lengths: tuple[int, int], count: int, finder: Finder, codes: Sequence[str], seeds: int
) -> list[Found]:
    """Recall and false positives by language, the worst recall first."""
    results = []
    for code in codes:
        texts = sample(folder, code, lengths, count)
        if len(texts) < FEWEST:
            continue
        keys, shingle = [text_key(text) for text in texts], near.shingle_of(code)
        hits = [
            finder([*keys, *map(text_key, copies(texts, code, seed=seed))], shingle)[len(keys) :].mean()
            for seed in range(seeds)
        ]
        results.append(Found(statistics.mean(map(float, hits)), false_pairs(keys, shingle), code))
    return sorted(results)


def signed_by_us(keys: Sequence[str], shingle: int) -> None:
    """Signatures and bands, what is done for every line however large the corpus is."""
    near.bands(near.signatures(keys, shingle=shingle))


def speeds(folder: Path, lengths: tuple[int, int], count: int, repeats: int) -> list[float]:
    """Millions of characters of keys per CPU second: all of ours and theirs, signatures of ours and theirs."""
    keys = {code: [text_key(text) for text in sample(folder, code, lengths, count)] for code in SPEED_LANGUAGES}
    size = sum(len(key) for part in keys.values() for key in part)
    sides = (ours, theirs, signed_by_us, signed_by_datasketch)
    taken: list[list[float]] = [[] for _ in sides]
    for _ in range(repeats):
        for times, side in zip(taken, sides, strict=True):
            started = time.process_time()
            for code, part in keys.items():
                side(part, near.shingle_of(code))
            times.append(time.process_time() - started)
    return [size / statistics.median(times) / 1e6 for times in taken]


def measure(folder: Path, lengths: tuple[int, int], count: int, repeats: int) -> list[list[object]]:
    """Print and return the rows of one range of lengths."""
    name, codes = (
        f"lines of {lengths[0]} to {lengths[1]} characters",
        sorted({code for unit in units_in(folder) for code in unit.slices}),
    )
    both = [found(folder, lengths, count, finder, SPEED_LANGUAGES, 1) for finder in (ours, theirs)]
    everywhere = found(folder, lengths, count, ours, codes, repeats)
    recalls = [statistics.mean(result.recall for result in side) for side in both]
    false = max(everywhere, key=lambda result: result.false)
    mine, other, signed, signed_other = speeds(folder, lengths, 2 * count, repeats)
    print(f"{name}: {mine:.2f}M characters/s, datasketch {other:.3f}M; recall {recalls[0]:.3f}, {recalls[1]:.3f}")
    print(f"  signatures and bands {signed:.2f}M characters/s, datasketch's signatures {signed_other:.3f}M")
    worst = ", ".join(f"{result.language} {result.recall:.3f}" for result in everywhere[:5])
    median = everywhere[len(everywhere) // 2].recall
    print(f"  {len(everywhere)} languages: recall median {median:.3f}, worst {worst}")
    mean = statistics.mean(result.false for result in everywhere)
    print(f"  pairs of unrelated lines called near: mean {mean:.2e}, most {false.false:.2e} ({false.language})")
    shape, script = f"{name}, {', '.join(SPEED_LANGUAGES)}", "minhash.py --save"
    every = f"{name}, {len(everywhere)} languages"
    return [
        [script, "near duplicates, keys to flags", "datasketch 2.0.0", shape, DEVICE,
         "M characters / CPU s (higher is better)", f"{mine:.2f}", f"{other:.3f}", repeats],
        [script, "near duplicates, signatures and bands", "datasketch 2.0.0, signatures", shape, DEVICE,
         "M characters / CPU s (higher is better)", f"{signed:.2f}", f"{signed_other:.3f}", repeats],
        [script, "near duplicates, copies with 10 % edits found", "datasketch 2.0.0", shape, DEVICE,
         "share (higher is better)", f"{recalls[0]:.3f}", f"{recalls[1]:.3f}", 1],
        [script, "near duplicates, copies with 10 % edits found, worst language", "", every, DEVICE,
         "share (higher is better)", f"{everywhere[0].recall:.3f}", "", 1],
        [script, "near duplicates, pairs of unrelated lines called near, worst language", "", every, DEVICE,
         "share (lower is better)", f"{false.false:.1e}", "", 1],
    ]  # fmt: skip


def main() -> None:
    """Measure and print; --save appends the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lines", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    results = [row for lengths in LENGTHS for row in measure(options.folder, lengths, options.lines, options.repeats)]
    if options.save:
        rows.save(results)


if __name__ == "__main__":
    main()
