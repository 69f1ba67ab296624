"""Text that cannot be read, and disks that are full, through the real command: a clear word, exit code 3 or a counted
skip, and the same command goes on once the cause is mended."""

import bz2
import gzip
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tests.runs import environment
from tests.unit.small_dumps import dump, sentence
from unibert.data.lines import read_json, read_rows
from unibert.data.shards import ShardSet
from unibert.errors import DataError

pytestmark = pytest.mark.dist

STAGES = ("fetch", "parallel", "clean", "dedup", "tokenize")
KIBIBYTE, MEBIBYTE = 2**10, 2**20


def workspace(folder: Path, *, languages: tuple[str, ...] = ("en", "ru"), **sources: str) -> Path:
    """A recipe with sources by name: the lines of each one's table."""
    tables = "".join(f'[[data.sources]]\nname = "{name}"\n{table}\n' for name, table in sources.items())
    path = folder / "own.toml"
    path.write_text(f"""name = "own"
languages = {json.dumps(languages)}
[data]
folder = "{folder}/data"
heldout_lines_per_language = 5
max_sequence_tokens = 32
{tables}
[tokenizer]
kind = "bpe"
max_pieces = 700
[student]
start = "random"
[objectives.masked_lm]
""")
    return path


def table(kind: str, path: Path | str, **more: str) -> str:
    """The lines of a source's table."""
    licence = {} if kind == "wikipedia_dump" else {"licence": "CC0"}
    return "\n".join(f'{key} = "{value}"' for key, value in {"kind": kind, "path": path, **licence, **more}.items())


def news(folder: Path, *codes: str, count: int = 60) -> str:
    """Plain text, a file a language."""
    for code in codes:
        text = "\n".join(sentence(code, number) for number in range(count))
        (folder / f"news.{code}.txt").write_text(text, encoding="utf-8")
    return table("text", f"{folder}/news.{{language}}.txt")


def run(stage: str, recipe: Path, *options: str, expect: int = 0, prepare: Callable[[], None] | None = None) -> str:
    """Run a stage, demand an exit code and an end without a traceback, and return what was printed."""
    words = [sys.executable, "-m", "unibert", "data", stage, str(recipe), *options]
    process = subprocess.run(
        words, env=environment(), cwd=recipe.parent, capture_output=True, text=True, timeout=120, preexec_fn=prepare
    )
    said = process.stdout + process.stderr
    assert process.returncode == expect, said[-4000:]
    assert "Traceback" not in said, said[-4000:]
    return said


def manifest(recipe: Path) -> dict:
    return read_json(recipe.parent / "data" / "raw" / "manifest.json")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe of a data folder in which every stage is done."""
    folder = tmp_path_factory.mktemp("prepared")
    recipe = workspace(folder, news=news(folder, "en", "ru", count=400))
    for stage in STAGES:
        run(stage, recipe, "--workers", "1")
    return recipe


@pytest.fixture
def again(prepared: Path, tmp_path: Path) -> Path:
    """A copy of the data folder, to be damaged."""
    shutil.copytree(prepared.parent / "data", tmp_path / "data")
    return tmp_path / "data"


# --- files that are cut off -------------------------------------------------------------------------------------------


def packed(folder: Path, kind: str) -> tuple[str, Path]:
    """(the table of a compressed source in English, its file)."""
    if kind == "bz2":
        path = folder / "enwiki-20240101-pages-articles.xml.bz2"
        path.write_bytes(bz2.compress(dump("en", articles=40).encode()))
        return table("wikipedia_dump", path), path
    texts = [sentence("en", 1000 + number) for number in range(300)]
    if kind == "gz":
        path = folder / "rows.jsonl.gz"
        path.write_bytes(gzip.compress("".join(json.dumps({"text": text}) + "\n" for text in texts).encode()))
        return table("jsonl", path, language="en"), path
    path = folder / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path)
    return table("parquet", path, language="en"), path


@pytest.mark.parametrize(("kind", "workers"), [("bz2", "1"), ("gz", "1"), ("parquet", "2")])
def test_a_file_that_is_cut_off_is_named_and_the_rest_is_kept(tmp_path: Path, kind: str, workers: str) -> None:
    source, path = packed(tmp_path, kind)
    recipe = workspace(tmp_path, news=news(tmp_path, "en", "ru"), rows=source)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    said = run("fetch", recipe, "--workers", workers, expect=3)
    assert f"{path}: damaged or cut off" in said and "get it again" in said
    raw = tmp_path / "data" / "raw"
    assert not (raw / "manifest.json").exists() and not list((raw / "rows").glob("*.jsonl"))
    before = {file: file.stat().st_mtime_ns for file in raw.glob("news/*.jsonl")}
    assert len(before) == 2
    path.write_bytes(whole)
    run("fetch", recipe, "--workers", workers)
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert sum(stamp["rows"] for name, stamp in manifest(recipe)["sources"].items() if name.startswith("rows")) >= 120
    assert not list(raw.rglob(".*.tmp"))


# --- bytes that are no text -------------------------------------------------------------------------------------------


def test_bytes_that_are_no_text_are_counted_skips(tmp_path: Path) -> None:
    recipe = workspace(tmp_path, news=news(tmp_path, "en", "ru"))
    path = tmp_path / "news.ru.txt"
    bad = [b"invalid \xff\xfe bytes", "половина".encode()[:5], b"NUL \0 byte", b"\0" * 100, b"\xed\xa0\x80 surrogate"]
    path.write_bytes(b"\n".join([*bad, path.read_bytes(), "я".encode()[:1]]))
    run("fetch", recipe, "--workers", "1")
    (skipped,) = (stamp["skipped"] for name, stamp in manifest(recipe)["sources"].items() if "ru.txt" in name)
    assert skipped == {
        "line that is not UTF-8": {"count": 4, "first": f"{path}:1"},
        "line with NUL bytes": {"count": 2, "first": f"{path}:3"},
    }
    (raw,) = tmp_path.glob("data/raw/news/news.ru*.jsonl")
    assert [row["text"] for row in read_rows(raw)] == [sentence("ru", number) for number in range(60)]


# ru_maxrss would not do: it begins with the size of the process that started the command.
WITH_PEAK = "from unibert.cli import main; main(); print(open('/proc/self/status').read())"


@pytest.mark.parametrize("kind", ["text", "jsonl", "jsonl.gz"])
def test_a_line_of_200_megabytes_is_skipped_in_little_memory(tmp_path: Path, kind: str) -> None:
    row = json.dumps({"text": sentence("en", 500)}) if kind != "text" else sentence("en", 500)
    path = tmp_path / f"long.{kind}"
    begin, end = f"{row}\n".encode(), b"\n" + row.replace(".", " last.").encode() + b"\n"
    if kind == "jsonl.gz":
        with gzip.open(path, "wb", compresslevel=1) as packed:
            packed.write(begin)
            for _ in range(200):
                packed.write(b" " * MEBIBYTE)
            packed.write(end)
    else:
        with path.open("wb") as sparse:  # the hole reads as zeros
            sparse.write(begin)
            sparse.seek(200 * MEBIBYTE)
            sparse.write(end)
    recipe = workspace(tmp_path, long=table(kind.partition(".")[0], path, language="en"), languages=("en",))
    words = [sys.executable, "-c", WITH_PEAK, "data", "fetch", str(recipe), "--workers", "1"]
    process = subprocess.run(words, env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    (stamp,) = manifest(recipe)["sources"].values()
    assert stamp["rows"] == 2 and stamp["skipped"] == {"line too long": {"count": 1, "first": f"{path}:2"}}
    peak = int(process.stdout.rpartition("VmHWM:")[2].split()[0]) * KIBIBYTE
    assert peak < 120 * MEBIBYTE  # half of it is Python and its libraries


# --- languages --------------------------------------------------------------------------------------------------------


def test_a_language_without_text_is_named_by_the_stage_that_sees_it(tmp_path: Path) -> None:
    recipe = workspace(tmp_path, news=news(tmp_path, "en"))
    (tmp_path / "news.ru.txt").write_bytes(b"")
    assert "no text was fetched for ru; take them out" in run("fetch", recipe, "--workers", "1", expect=3)
    (tmp_path / "news.ru.txt").write_text("\n".join(sentence("en", number) for number in range(500, 520)))
    for stage in STAGES[:3]:
        run(stage, recipe, "--workers", "1")
    assert "ru: no text is left after cleaning" in run("dedup", recipe, "--workers", "1", expect=3)


def test_a_language_with_too_little_to_hold_out_is_named(again: Path, prepared: Path) -> None:
    (again / "heldout" / "lines" / "ru.jsonl").write_bytes(b"")
    said = run("tokenize", prepared, "--workers", "1", "--data.folder", str(again), expect=3)
    assert "heldout/lines: no text of ru" in said and "take these out of the recipe's languages" in said


def test_an_unknown_language_is_a_mistake_in_the_recipe(tmp_path: Path) -> None:
    recipe = workspace(tmp_path, news=news(tmp_path, "en"), languages=("en", "tlh"))
    for stage in ("fetch", "clean"):
        assert "'tlh' is not a known language" in run(stage, recipe, "--workers", "1", expect=2)
    assert not (tmp_path / "data").exists()


# --- what was prepared and then lost or cut ---------------------------------------------------------------------------


def test_a_prepared_file_that_is_cut_or_lost_is_made_again_by_its_stage(prepared: Path, again: Path) -> None:
    def do(stage: str, *, expect: int = 0) -> str:
        return run(stage, prepared, "--workers", "1", "--data.folder", str(again), expect=expect)

    whole = contents(again)
    (raw,) = again.glob("raw/news/news.ru*.jsonl")
    raw.write_bytes(raw.read_bytes().partition(b"\n")[2])  # a line is gone, and what is left is whole
    assert f"{raw}: missing, or not as it was fetched; run: unibert data fetch" in do("clean", expect=3)
    do("fetch")
    (unit,) = again.glob("cleaned/news/news.ru*/keys.npy")
    unit.write_bytes(unit.read_bytes()[:-8])
    do("clean")
    (again / "clean" / "ru-00000.jsonl").unlink()
    assert "no text of ru; run the stages before" in do("tokenize", expect=3)
    do("dedup")
    for path in (again / "shards" / "en-00000.tokens", again / "shards_heldout" / "ru-00000.tokens"):
        path.write_bytes(path.read_bytes()[:-1])
    do("tokenize")
    assert contents(again) == whole


def test_shards_of_two_tokenizers_are_told_apart_and_made_again(prepared: Path, again: Path) -> None:
    """As when the second half of tokenizing was never run."""
    options = ["--workers", "1", "--data.folder", str(again)]
    (again / "shards_heldout").rename(again / "of another")
    run("tokenize", prepared, *options, "--tokenizer.max_pieces", "650")
    shutil.rmtree(again / "shards_heldout")
    (again / "of another").rename(again / "shards_heldout")
    with pytest.raises(DataError, match="made with another tokenizer"):
        ShardSet.open(again / "shards_heldout")
    run("tokenize", prepared, *options, "--tokenizer.max_pieces", "650")
    both = [ShardSet.open(again / part, verify="checksum") for part in ("shards", "shards_heldout")]
    both[0].require_tokenizer_of(both[1])


# --- no room ----------------------------------------------------------------------------------------------------------


MADE = {"fetch": "raw", "clean": "cleaned", "dedup": "clean", "tokenize": "shards"}
"""What a stage writes."""


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """A tmpfs in the folder's place, as large as what is in it."""
    aside = folder.rename(folder.with_name("aside"))
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(words, check=False).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        size = shutil.disk_usage(folder).used // KIBIBYTE
        subprocess.run(["mount", "-o", f"remount,size={size}k", str(folder)], check=True)
        yield
        subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
        shutil.copytree(folder, aside, dirs_exist_ok=True)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)
        folder.rmdir()
        aside.rename(folder)


@pytest.mark.parametrize(("stage", "workers"), [("fetch", "1"), ("clean", "2"), ("tokenize", "1")])
def test_a_full_disk_is_said_and_nothing_is_lost(prepared: Path, again: Path, stage: str, workers: str) -> None:
    whole = contents(again)
    shutil.rmtree(again / MADE[stage])
    with full_disk(again):
        said = run(stage, prepared, "--workers", workers, "--data.folder", str(again), expect=3)
        assert "cannot be written" in said and "No space left on device" in said and "then run again" in said
    run(stage, prepared, "--workers", workers, "--data.folder", str(again))
    assert contents(again) == whole


@pytest.mark.parametrize(("stage", "workers"), [("fetch", "1"), ("dedup", "1")])
def test_a_file_that_may_not_grow_is_said(prepared: Path, again: Path, stage: str, workers: str) -> None:
    """As over a quota; also where nobody may mount."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 * KIBIBYTE, 4 * KIBIBYTE))

    whole = contents(again)
    shutil.rmtree(again / MADE[stage])
    words = ["--workers", workers, "--data.folder", str(again)]
    said = run(stage, prepared, *words, expect=3, prepare=limited)
    assert "cannot be written" in said and "File too large" in said
    assert not list(again.rglob(".*.tmp"))
    run(stage, prepared, *words)
    assert contents(again) == whole
