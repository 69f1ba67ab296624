"""Parallel text to aligned shards: what is paired, dropped and written; killed and started again; read back."""

import hashlib
import itertools
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.unit.small_data import TEXT, recipe, write_rows, write_teacher, write_texts
from unibert.cli import main
from unibert.config import to_toml
from unibert.data import pair_text, pair_writing, pairing, tokenizing
from unibert.data.pairs import PairSet
from unibert.data.shards import ShardSet
from unibert.data.work import ALONE, crew
from unibert.errors import ConfigError, DataError
from unibert.schema import Recipe

ROOT = Path(__file__).parents[2]
CODES = ("ar", "de", "en", "hi", "ru")


def sentence(code: str, number: int) -> str:
    """The number-th text of a language: two of its sentences and a number, so that texts of languages correspond."""
    first, second = list(itertools.product(TEXT[code], repeat=2))[number % 9]
    return f"{first} {second} {number}"


def prepared(folder: Path, tables: list[dict], *, codes: tuple[str, ...] = CODES, longest: int = 512) -> Recipe:
    """A recipe whose folder has a tokenizer and held-out text."""
    data = {"folder": folder / "data", "parallel": tables, "max_sequence_tokens": longest}
    of = recipe(folder, languages=codes, data=data)
    if not (folder / "data/tokenizer/tokenizer.json").is_file():
        write_teacher(folder / "teacher", codes=CODES)
        write_texts(folder / "data", codes=CODES)
        held = {"key": "k", "texts": {"de": sentence("de", 0), "en": sentence("en", 0)}}
        write_rows(folder / "data/heldout/parallel.jsonl", [held])
        (folder / "data/heldout/parallel_report.json").write_text(json.dumps({"ids": ["p:x"]}))
        write_rows(folder / "data/heldout/lines/hi.jsonl", [{"id": "t", "text": sentence("hi", 1), "source": "t"}])
        tokenizing.run(of.model_copy(update={"data": of.data.model_copy(update={"parallel": ()})}))
    return of


def table(folder: Path, *, count: int, codes: tuple[str, ...] = CODES, extra: tuple[str, ...] = ()) -> dict:
    """A TSV table of a language a column."""
    rows = ["\t".join(codes), *("\t".join(sentence(code, n) for code in codes) for n in range(count)), *extra]
    (folder / "p.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return {"kind": "tsv", "name": "table", "licence": "CC0", "path": f"{folder}/p.tsv"}


def words(folder: Path) -> dict:
    """A MUSE dictionary in two files."""
    (folder / "en-de.txt").write_text("cat Katze\ncat Kater\ncat Katze\nab ab\n")
    (folder / "de-en.txt").write_text("Katze cat\nHund dog\n")
    path = f"{folder}/{{source}}-{{target}}.txt"
    return {"kind": "muse", "name": "words", "licence": "CC0", "path": path}


def decoded(of: Recipe, ids: np.ndarray) -> str:
    return Tokenizer.from_file(str(of.data.folder / "tokenizer/tokenizer.json")).decode(ids.tolist())


def hashes(folder: Path) -> dict[str, str]:
    found = [path for part in ("shards_parallel", "dictionaries") for path in (folder / part).rglob("*")]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in found if path.is_file()}


def test_every_language_is_paired_with_english_and_both_sides_correspond(tmp_path: Path) -> None:
    extra = (
        "\t".join(sentence(code, 3) for code in CODES),  # again
        "\t".join(["نص قصير", *(sentence(code, 30) for code in CODES[1:])]),  # too short in Arabic
        "\t".join(
            [sentence("ar", 31), sentence("en", 31), *(sentence(code, 31) for code in CODES[2:])]
        ),  # German is English
        "\t".join(
            [sentence("ar", 32), " ".join([sentence("de", 32)] * 7), *(sentence(code, 32) for code in CODES[2:])]
        ),
    )
    of = prepared(tmp_path, [table(tmp_path, count=20, extra=extra)])
    manifest = pairing.run(of)
    assert list(manifest["language_pairs"]) == ["ar-en", "de-en", "en-hi", "en-ru"]
    assert {name: entry["pairs"] for name, entry in manifest["language_pairs"].items()} == {
        "ar-en": 21,  # 0 is held out in English, 3 double, 30 too short
        "de-en": 20,  # also 31 untranslated, 32 seven times as long
        "en-hi": 21,  # also 1 is a held-out line
        "en-ru": 22,
    }
    (part,) = manifest["parts"].values()
    assert part["dropped"]["ar-en"] == {"heldout": 1, "length": 1}
    assert part["dropped"]["de-en"] == {"heldout": 1, "same": 1}
    assert part["dropped"]["en-hi"] == {"heldout": 2}
    assert manifest["language_pairs"]["de-en"]["dropped"] == {"duplicate": 1, "uneven": 1}
    both = ShardSet.open(of.data.folder / "shards_parallel" / "de-en", verify="checksum")
    assert both.languages == ("de", "en") and both.samples_per_language.tolist() == [20, 20]
    pairs = PairSet.open(of.data.folder / "shards_parallel", languages=CODES, verify="checksum")
    assert pairs.language_pairs == [(0, 2), (1, 2), (2, 3), (2, 4)]
    assert pairs.pairs_per_language_pair.tolist() == [21, 20, 21, 22] and pairs.max_sequence_tokens == 256
    for number, (first, second) in enumerate(pairs.language_pairs):
        for index in range(pairs.pairs_per_language_pair[number]):
            a, b = (decoded(of, ids) for ids in pairs.sample(number, index))
            which = int(a.rsplit(" ", 1)[1])
            assert (a, b) == (sentence(CODES[first], which), sentence(CODES[second], which))
        assert pairs.lengths(number)[0].tolist() == [len(ids) for ids in pairs.sample(number, 0)]


def test_without_english_each_is_paired_with_each(tmp_path: Path) -> None:
    of = prepared(tmp_path, [table(tmp_path, count=5, codes=("hi", "ar", "ru"))])
    assert list(pairing.run(of)["language_pairs"]) == ["ar-hi", "ar-ru", "hi-ru"]
    order = {code: place for place, code in enumerate(("ru", "en", "ar"))}
    assert pair_text.language_pairs(["ar", "en", "ru"], order=order) == [("ru", "en"), ("en", "ar")]


def test_pairs_that_do_not_fit_half_a_row_are_dropped(tmp_path: Path) -> None:
    of = prepared(tmp_path, [table(tmp_path, count=9, codes=("de", "en"))])
    lengths = PairSet.open(tmp_path / "data/shards_parallel", languages=CODES).lengths(0) if pairing.run(of) else None
    assert lengths is not None
    longest = int(np.median(lengths.max(axis=1)))
    shorter = prepared(tmp_path, of.model_dump()["data"]["parallel"], longest=2 * longest + 1)
    manifest = pairing.run(shorter)
    fit = int((lengths.max(axis=1) <= longest).sum())
    assert 0 < fit < len(lengths)
    assert manifest["language_pairs"]["de-en"]["pairs"] == fit and manifest["max_sequence_tokens"] == longest
    assert manifest["language_pairs"]["de-en"]["dropped"] == {"long": len(lengths) - fit}


def test_dictionaries_are_text_without_doubles(tmp_path: Path) -> None:
    manifest = pairing.run(prepared(tmp_path, [words(tmp_path)]))
    assert manifest["dictionaries"] == {"de-en": 4} and manifest["language_pairs"] == {}
    lines = (tmp_path / "data/dictionaries/de-en.tsv").read_text().splitlines()
    assert lines == ["Katze\tcat", "Hund\tdog", "Kater\tcat", "ab\tab"]


def test_what_is_done_stays_as_it_is(tmp_path: Path) -> None:
    of = prepared(tmp_path, [table(tmp_path, count=20), words(tmp_path)])
    pairing.run(of)
    whole = hashes(of.data.folder)
    made = {path: Path(path).stat().st_mtime_ns for path in whole if not path.endswith("shards_parallel/manifest.json")}
    pairing.run(of)
    assert hashes(of.data.folder) == whole
    assert {path: Path(path).stat().st_mtime_ns for path in made} == made
    (of.data.folder / "shards_parallel/de-en/en-00000.tokens").unlink()
    pairing.run(of)
    assert hashes(of.data.folder) == whole
    pairing.run(of, force=True)
    assert hashes(of.data.folder) == whole


def test_two_processes_make_the_same_bytes(tmp_path: Path) -> None:
    whole = {}
    for workers in (1, 2):
        (tmp_path / str(workers)).mkdir()
        of = prepared(tmp_path / str(workers), tables_in(tmp_path))
        with crew(workers) as those:
            pairing.run(of, crew=those or ALONE)
        whole[workers] = {
            str(Path(path).relative_to(of.data.folder)): sha for path, sha in hashes(of.data.folder).items()
        }
    assert whole[1] == whole[2] and len(whole[1]) == 1 + 4 * 4 + 2


def tables_in(folder: Path) -> list[dict]:
    return [table(folder, count=20), words(folder)]


KILLED = """
import os, signal, sys
from pathlib import Path
from unibert.config import load_recipe
from unibert.data import pair_text, pairing

recipe, left, rename = load_recipe(Path(sys.argv[1])), int(sys.argv[2]), os.replace
pair_text.CHARACTERS_HELD = 500  # so that files of a part are begun early

def killed(old, new):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(old, new)

os.replace = killed
pairing.run(recipe)
"""


def test_a_run_that_is_killed_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    of = prepared(tmp_path, [table(tmp_path, count=20), words(tmp_path)])
    (tmp_path / "own.toml").write_text(to_toml(of))
    pairing.run(of)
    whole = hashes(of.data.folder)
    reading, writing = 2, 6  # a language pair of the first part; the last file of the first language pair
    for parts, files in ((("pairs",), reading), (("shards_parallel", "dictionaries"), writing), (("dictionaries",), 2)):
        for part in parts:
            shutil.rmtree(of.data.folder / part)
        command = [sys.executable, "-c", KILLED, str(tmp_path / "own.toml"), str(files)]
        assert subprocess.run(command, cwd=ROOT).returncode == -signal.SIGKILL
        assert list(of.data.folder.rglob(".*.tmp"))
        main(["data", "pairs", str(tmp_path / "own.toml"), "--workers", "1"])
        assert hashes(of.data.folder) == whole
        assert not list(of.data.folder.rglob(".*.tmp"))


def test_a_part_that_could_not_be_written_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = prepared(tmp_path, [table(tmp_path, count=20)])
    with monkeypatch.context() as patch:
        patch.setattr(pair_text, "CHARACTERS_HELD", 500)
        patch.setattr(pair_text.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(DataError, match=r"pairs/table/p\.tsv-.*: cannot be written .*No space left"):
            pairing.run(of)
    assert not [path for path in (of.data.folder / "pairs").rglob("*") if path.is_file()]
    assert pairing.run(of)["language_pairs"]["en-ru"]["pairs"] == 19
    table(tmp_path, count=21)
    assert pairing.run(of)["language_pairs"]["en-ru"]["pairs"] == 20
    table(tmp_path, count=21, codes=("de", "en"))
    assert list(pairing.run(of)["language_pairs"]) == ["de-en"]
    assert len(list((of.data.folder / "pairs").rglob("*.tsv"))) == 1
    only = of.model_copy(update={"data": of.data.model_copy(update={"parallel": ()})})
    with pytest.raises(ConfigError, match=r"no \[\[data.parallel\]\] table"):
        pairing.run(only)


def test_texts_of_evaluation_sets_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets/README.md").write_bytes(b"\xff no data")
    question = {"question": sentence("ar", 3), "context": f"{sentence('ru', 5)} und {sentence('de', 7)}"}
    (tmp_path / "sets/test.json").write_text(json.dumps([question, {"label": "katze"}]))
    of = prepared(tmp_path, [table(tmp_path, count=9), words(tmp_path)])
    plain = pairing.run(of)
    tested = of.model_copy(update={"data": of.data.model_copy(update={"evaluation_sets": (tmp_path / "sets",)})})
    manifest = pairing.run(tested)
    dropped = manifest["parts"][next(iter(manifest["parts"]))]["dropped"]
    assert dropped == {
        "ar-en": {"evaluation": 1, "heldout": 1},
        "de-en": {"evaluation": 1, "heldout": 1},
        "en-hi": {"heldout": 2},
        "en-ru": {"evaluation": 1, "heldout": 1},
    }
    assert manifest["dictionaries"] == plain["dictionaries"]
    pairs = PairSet.open(of.data.folder / "shards_parallel", languages=CODES)
    found = {decoded(of, pairs.sample(0, index)[0]) for index in range(pairs.pairs_per_language_pair[0])}
    assert found == {sentence("ar", number) for number in range(9)} - {sentence("ar", 0), sentence("ar", 3)}
    assert pairing.run(of) == plain


def test_much_text_is_divided_before_doubles_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = prepared(tmp_path, [table(tmp_path, count=30, extra=("\t".join(sentence(code, 3) for code in CODES),))])
    plain = pairing.run(of)
    monkeypatch.setattr(pair_writing, "BYTES_AT_ONCE", 1000)
    divided = pairing.run(of, force=True)
    for name, entry in plain["language_pairs"].items():
        other = divided["language_pairs"][name]
        assert (entry["pairs"], entry["tokens"], entry["dropped"]) == (
            other["pairs"],
            other["tokens"],
            other["dropped"],
        )
    pairs = PairSet.open(of.data.folder / "shards_parallel", languages=CODES)
    found = {decoded(of, ids).rsplit(" ", 1)[1] for ids in pairs.sample(3, 5)}
    assert len(found) == 1
    assert not [path for path in (of.data.folder / "pairs").rglob("*") if path.is_dir() and path.name.startswith("tmp")]


def test_languages_that_are_no_longer_asked_for_leave_nothing_behind(tmp_path: Path) -> None:
    pairing.run(prepared(tmp_path, [table(tmp_path, count=5), words(tmp_path)]))
    fewer = prepared(tmp_path, [table(tmp_path, count=5)], codes=("en", "ru"))
    assert list(pairing.run(fewer)["language_pairs"]) == ["en-ru"]
    left = {path.name for path in (tmp_path / "data/shards_parallel").iterdir()}
    assert left == {"manifest.json", "en-ru", "en-ru.done.json"}
    assert not list((tmp_path / "data/dictionaries").iterdir())


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    of = prepared(tmp_path, [table(tmp_path, count=1, codes=("de", "en"))])  # held out
    with pytest.raises(DataError, match=r"not one pair of texts is left.*heldout"):
        pairing.run(of)


def test_the_reader_orders_languages_as_asked_and_ids_stay(tmp_path: Path) -> None:
    of = prepared(tmp_path, [table(tmp_path, count=10)])
    pairing.run(of)
    folder = of.data.folder / "shards_parallel"
    plain, turned = PairSet.open(folder, languages=CODES), PairSet.open(folder, languages=CODES[::-1])
    assert turned.language_pairs == [(0, 2), (1, 2), (2, 3), (2, 4)]  # ru-en, hi-en, en-de, en-ar
    assert plain.fingerprint != turned.fingerprint
    assert plain.fingerprint == PairSet.open(folder, languages=CODES).fingerprint
    a, b = plain.sample(0, 4), turned.sample(3, 4)
    assert np.array_equal(a[0], b[1]) and np.array_equal(a[1], b[0])
    index = np.arange(8)
    ids = [
        pairs.document_id(np.full(8, number), index, side=side)
        for pairs, number, side in ((plain, 0, 0), (plain, 0, 1), (turned, 3, 1), (turned, 3, 0), (plain, 1, 0))
    ]
    assert ids[0].dtype == np.uint64
    assert np.array_equal(ids[0], ids[2]) and np.array_equal(ids[1], ids[3])
    single = ShardSet.open(of.data.folder / "shards", languages=CODES)
    alone = [single.document_id(np.full(8, language), index) for language in range(5)]
    assert len(set(np.concatenate([ids[0], ids[1], ids[4], *alone]).tolist())) == 8 * 8
    few = PairSet.open(folder, languages=("de", "hi", "en"))
    assert few.language_pairs == [(0, 2), (1, 2)] and few.pairs_per_language_pair.tolist() == [9, 8]


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    of = prepared(tmp_path, [table(tmp_path, count=10)])
    folder = of.data.folder / "shards_parallel"
    with pytest.raises(DataError, match=r"do not exist yet; make them \(again\): unibert data pairs"):
        PairSet.open(folder, languages=CODES)
    pairing.run(of)
    with pytest.raises(DataError, match="no pair of two of the languages ar, hi; it has ar-en"):
        PairSet.open(folder, languages=("ar", "hi"))
    other = write_teacher(tmp_path / "other", codes=("ru", "zh"))
    (other / "tokenizer_config.json").write_text((of.data.folder / "tokenizer/tokenizer_config.json").read_text())
    with pytest.raises(DataError, match="another tokenizer"):
        PairSet.open(folder, languages=CODES, tokenizer=other)
    tree = json.loads((folder / "manifest.json").read_text())
    tree["language_pairs"]["en-ru"]["pairs"] += 1
    (folder / "manifest.json").write_text(json.dumps(tree))
    with pytest.raises(DataError, match=r"en-ru: \[9, 9\] samples, not 10 in both"):
        PairSet.open(folder, languages=CODES)
    (folder / "manifest.json").write_text(json.dumps(tree | {"version": 0}))
    with pytest.raises(DataError, match="version 0"):
        PairSet.open(folder, languages=CODES)
    (folder / "manifest.json").unlink()
    with pytest.raises(DataError, match="begun but not finished"):
        PairSet.open(folder, languages=CODES)
