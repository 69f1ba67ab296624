"""The way from raw text to token shards: speed of each stage, a peer on the same text, and what a larger corpus costs.

    python benchmarks/data_path.py stages FOLDER            each stage of demo_full, from its downloads, in FOLDER
    python benchmarks/data_path.py peer FOLDER [--rows N]   beside Hugging Face datasets.map + tokenizer
    python benchmarks/data_path.py scale FOLDER [--rows N]  corpora of N, 3 N and 10 N rows
    [--workers 2] [--save]

FOLDER is a data folder of demo_full: `stages` begins it (downloads that are there are used), the others take its raw
rows and its tokenizer. Seconds are of the wall; characters are those of the raw text; memory is what all processes own,
mapped files left out, sampled. Both sides of `peer` read the same JSON Lines, clean each line by the same rules, drop
exact duplicates and tokenize with the same tokenizer, on as many processes; ours also identifies languages, finds near
duplicates, holds lines out and counts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import rows

STAGES = ("fetch", "parallel", "clean", "dedup", "tokenize")
SECONDS_BETWEEN_SAMPLES = 0.25
SCALE_FILE_MIB = 1


class Cost(NamedTuple):
    """Of one command."""

    seconds: float
    cpu_seconds: float
    peak_gib: float


def measured(command: list[str], *, environment: dict[str, str] | None = None) -> Cost:
    """Run a command to its end."""
    before, started = os.times(), time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, **(environment or {})})
    peak, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(SECONDS_BETWEEN_SAMPLES):
            peak[0] = max(peak[0], _memory(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    over.set()
    watcher.join()
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Cost(time.perf_counter() - started, cpu, peak[0] / 2**30)


def _memory(pid: int) -> float:
    """Bytes that a process and its children own: mapped files, which the system may drop at any time, left out."""
    total = 0.0
    try:
        tree = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.Error:
        return total
    for process in tree:
        try:
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:  # it has ended
            continue
        total += sum(int(kib) * 2**10 for kib in re.findall(r"^Pss_(?:Anon|Shmem): +(\d+)", rollup, re.MULTILINE))
    return total


def unibert(stage: str, recipe: str, folder: Path, options: argparse.Namespace, *more: str) -> Cost:
    """One stage through the command line."""
    command = [sys.executable, "-m", "unibert", "data", stage, recipe, "--workers", str(options.workers)]
    return measured([*command, "--data.folder", str(folder), *more])


def stages(options: argparse.Namespace) -> list[list[Any]]:
    """Each stage of demo_full."""
    found, there = [], (options.folder / "downloads").is_dir()
    for stage in STAGES:
        cost = unibert(stage, "demo_full", options.folder, options)
        characters = _raw_characters(options.folder)
        speed = characters / cost.cpu_seconds / 1e6
        print(
            f"{stage}: {cost.seconds:.0f} s, {cost.cpu_seconds:.0f} CPU s, {cost.peak_gib:.2f} GiB, {speed:.2f}M ch/s"
        )
        found.append((stage, cost))
        shape = f"{characters / 1e6:.0f}M raw characters, 107 languages, {options.workers} processes"
        note(options, f"data {stage}", "", shape, "M raw characters / CPU s (higher is better)", speed, "")
    whole = sum(cost.seconds for _, cost in found)
    began = "downloads there" if there else "with its downloads"
    peak = max(cost.peak_gib for _, cost in found)
    print(f"all: {whole / 60:.1f} minutes, {peak:.2f} GiB at most")
    note(options, f"data path, {began}", "", shape, "minutes (lower is better)", whole / 60, "")
    note(options, "data path, peak memory", "", shape, "GiB (lower is better)", peak, "")
    return options.rows


def note(
    options: argparse.Namespace, what: str, against: str, shape: str, unit: str, value: float, other: float | str
) -> None:
    """Note a row."""
    device = f"CPU, {options.workers} processes{', machine shared' if options.shared else ''}"
    script = f"data_path.py {options.what}"
    shown = f"{other:.4g}" if isinstance(other, float) else other
    options.rows.append([script, what, against, shape, device, unit, f"{value:.4g}", shown, 1])


def _raw_characters(folder: Path) -> int:
    return sum(len(row["text"]) for row in _raw_rows(folder))


def _raw_rows(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((folder / "raw").glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def corpus(folder: Path, into: Path, *, count: int) -> tuple[int, list[str]]:
    """Write `count` raw rows, evenly chosen, as a file a language; returns (characters, languages)."""
    total = json.loads((folder / "raw" / "manifest.json").read_text())["rows"]
    chosen = itertools.islice(_raw_rows(folder), 0, None, max(1, total // count))
    into.mkdir(parents=True)
    characters, files = 0, {}
    for number, row in enumerate(itertools.islice(chosen, count)):
        file = files.get(row["language"]) or files.setdefault(
            row["language"], (into / f"{row['language']}.jsonl").open("w", encoding="utf-8")
        )
        file.write(json.dumps({"id": str(number), "text": row["text"]}, ensure_ascii=False) + "\n")
        characters += len(row["text"])
    for file in files.values():
        file.close()
    return characters, sorted(files)


RECIPE = """
name = "bench"
languages = {languages}
[data]
folder = "{folder}"
max_lines_per_language = 100000000
[[data.sources]]
kind = "jsonl"
name = "raw"
licence = "as the demo's"
path = "{text}/{{language}}.jsonl"
id_column = "id"
[student]
start = "random"
[objectives.masked_lm]
"""


def prepare(options: argparse.Namespace, work: Path, *, count: int) -> tuple[int, list[Cost]]:
    """(characters, cost of each stage) of a corpus of so many rows."""
    characters, codes = corpus(options.folder, work / "text", count=count)
    data = work / "data"
    shutil.copytree(options.folder / "tokenizer", data / "tokenizer")
    recipe = work / "bench.toml"
    recipe.write_text(RECIPE.format(languages=json.dumps(codes), folder=data, text=work / "text"))
    return characters, [unibert(stage, str(recipe), data, options, *options.more) for stage in STAGES]


PEER = """
import json, sys
from datasets import load_dataset
from transformers import PreTrainedTokenizerFast
from unibert.data.curation.prose import reason_to_drop
from unibert.data.curation.unicode import clean_text
from unibert.data.lines import text_key
folder, codes, tokenizer, out, workers = sys.argv[1], json.loads(sys.argv[2]), *sys.argv[3:5], int(sys.argv[5])
tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer)
texts = load_dataset("json", data_files={"train": [f"{folder}/{c}.jsonl" for c in codes]}, split="train")
languages = {}
def clean(row, code):
    text = clean_text(row["text"])
    keep = reason_to_drop(text, code) is None
    return {"text": text, "keep": keep, "key": text_key(text) if keep else ""}
from datasets import concatenate_datasets
parts = []
for code in codes:
    part = load_dataset("json", data_files=f"{folder}/{code}.jsonl", split="train")
    part = part.map(clean, fn_kwargs={"code": code}, num_proc=workers if len(part) > 1000 else None)
    seen = set()
    keep = [i for i, (k, key) in enumerate(zip(part["keep"], part["key"])) if k and not (key in seen or seen.add(key))]
    parts.append(part.select(keep).remove_columns(["keep", "key"]))
whole = concatenate_datasets(parts)
def encode(rows):
    return tokenizer(rows["text"], truncation=True, max_length=128)
whole.map(encode, batched=True, num_proc=workers, remove_columns=whole.column_names).save_to_disk(out)
"""


def peer(options: argparse.Namespace) -> list[list[Any]]:
    """Ours and datasets.map on the same text."""
    with tempfile.TemporaryDirectory(dir=options.folder.parent) as name:
        work = Path(name)
        characters, costs = prepare(options, work, count=options.count)
        codes = json.dumps(sorted(path.stem for path in (work / "text").iterdir()))
        arguments = [
            str(work / "text"),
            codes,
            str(options.folder / "tokenizer"),
            str(work / "hf"),
            str(options.workers),
        ]
        caches = {"HF_HOME": str(work / "hf_home"), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "HF_HUB_OFFLINE": "1"}
        theirs = measured([sys.executable, "-c", PEER, *arguments], environment=caches)
    mine = sum(cost.seconds for cost in costs)
    shape = f"{characters / 1e6:.1f}M raw characters, {len(json.loads(codes))} languages"
    print(shape, {stage: round(cost.seconds, 1) for stage, cost in zip(STAGES, costs, strict=True)})
    print(f"unibert {mine:.1f} s, datasets.map + tokenizer {theirs.seconds:.1f} s: {theirs.seconds / mine:.2f} times")
    for who, cost in (("unibert", max(costs, key=lambda cost: cost.peak_gib)), ("datasets", theirs)):
        print(f"{who}: {cost.peak_gib:.2f} GiB at most")
    note(options, "raw text to shards", "datasets.map + tokenizer", shape, "s (lower is better)", mine, theirs.seconds)
    return options.rows


def scale(options: argparse.Namespace) -> list[list[Any]]:
    """Three sizes, in files so small that even the least corpus fills them in the larger languages."""
    options.more = ("--data.file_mib", str(SCALE_FILE_MIB))
    base: tuple[float, float, float] | None = None
    for times in (1, 3, 10):
        with tempfile.TemporaryDirectory(dir=options.folder.parent) as name:
            characters, costs = prepare(options, Path(name), count=times * options.count)
        seconds, peak = sum(cost.seconds for cost in costs), max(cost.peak_gib for cost in costs)
        print(f"{characters / 1e6:.1f}M characters: {seconds:.1f} s, {peak:.2f} GiB")
        base = base or (characters, seconds, peak)
        shape = f"{characters / 1e6:.1f}M raw characters, {characters / base[0]:.2f} times the least"
        note(options, "time by size of the corpus", "the least", shape, "s", seconds, base[1])
        note(options, "peak memory by size of the corpus", "the least", shape, "GiB", peak, base[2])
    return options.rows


def main() -> None:
    """Measure and print; --save appends the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("stages", "peer", "scale"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=200_000, dest="count")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--shared", action="store_true", help="other work runs on the machine")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    options.folder, options.rows, options.more = options.folder.resolve(), [], ()
    found = {"stages": stages, "peer": peer, "scale": scale}[options.what](options)
    if options.save:
        rows.save(found)


if __name__ == "__main__":
    main()
