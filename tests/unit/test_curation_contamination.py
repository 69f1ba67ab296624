"""Evaluation texts are read from their formats, found in training lines and shards, and nothing else is."""

import bz2
import json
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from tokenizers import Tokenizer

from tests.unit.small_data import lines, recipe, write_teacher, write_texts
from unibert.data import tokenizing
from unibert.data.curation.contamination import WINDOW, WINDOW_DENSE, Index, in_shards
from unibert.data.curation.evaluation_texts import evaluation_texts
from unibert.data.lines import json_line, text_key
from unibert.data.shards import ShardSet
from unibert.errors import DataError

LONG = "Which of the two railway companies was the first to open a line between those cities, and in what year?"
CHINESE = "哪一家铁路公司首先开通了这两座城市之间的线路，是在哪一年开通的？"
SHORT = "I like doughnuts."


def hit(index: Index, text: str) -> bool:
    return bool(index.hits([text_key(text)])[0])


@pytest.mark.parametrize("text", [LONG, CHINESE])
def test_a_line_that_has_an_evaluation_text_or_a_window_of_it_is_found(text: str) -> None:
    index = Index([text, SHORT])
    key = text_key(text)
    window = WINDOW_DENSE if text is CHINESE else WINDOW
    assert hit(index, text) and hit(index, text.upper().replace(",", " ;")) and hit(index, f"前 {text} After it")
    for start in range(len(key) - window + 1):
        assert hit(index, f"before 7{key[start : start + window]} after")
        assert not hit(index, f"before 7{key[start : start + window - 1]}# 5 after")
    assert not hit(index, key[: window - 1] + "x" + key[window : 2 * window - 2])


def test_a_short_text_matches_whole_lines_only() -> None:
    index = Index([SHORT, "", "!"])
    assert hit(index, "i like DOUGHNUTS") and not hit(index, "She said: I like doughnuts.") and not hit(index, "I like")
    assert hit(index, "") and len(index) == 2  # a text without a letter is the empty key


def test_windows_over_the_end_of_a_line_are_none() -> None:
    index = Index([LONG])
    key = text_key(LONG)
    assert not index.hits([key[:30], key[30:60], key[60:]]).any()


def test_it_agrees_with_a_search_window_by_window() -> None:
    rng = random.Random(1)
    words = ["".join(rng.choices("abcde", k=rng.randint(1, 4))) for _ in range(6)]
    evaluation = ["".join(rng.choices(words, k=rng.randint(5, 60))) for _ in range(300)]
    training = ["".join(rng.choices(words, k=rng.randint(5, 60))) for _ in range(2000)]
    for number in range(0, 2000, 4):
        piece = rng.choice(evaluation)
        training[number] += piece[rng.randrange(len(piece)) :][: rng.randint(30, 50)]
    windows = {text[at : at + WINDOW] for text in evaluation for at in range(len(text) - WINDOW + 1)}
    expected = [
        text in evaluation or any(text[at : at + WINDOW] in windows for at in range(len(text) - WINDOW + 1))
        for text in training
    ]
    assert 50 < sum(expected) < 1900
    index = Index(evaluation)
    assert index.hits(training).tolist() == expected
    assert pickle.loads(pickle.dumps(index)).hits(training).tolist() == expected


def test_an_empty_index_finds_nothing_and_fingerprints_tell_indexes_apart() -> None:
    assert not Index([]).hits(["abc", "", CHINESE]).any() and Index([LONG]).hits([]).shape == (0,)
    assert Index([LONG, SHORT]).fingerprint() == Index([SHORT, LONG, SHORT]).fingerprint()
    assert Index([LONG]).fingerprint() != Index([LONG, SHORT]).fingerprint()


SQUAD = {"data": [{"paragraphs": [{"context": CHINESE, "qas": [{"question": LONG, "answers": [{"text": "1901"}]}]}]}]}
FILES = {
    "xquad.json": (json.dumps(SQUAD), {CHINESE, LONG, "1901"}),
    "set.jsonl": ('{"premise": "A b c."}\n\n{"more": [{"hypothesis": "D é"}], "label": 2}\n', {"A b c.", "D é"}),
    "stsb-en-dev.csv": ('"He said, ""Go on.""",Another one.,4.2\n', {'He said, "Go on."', "Another one.", "4.2"}),
    "xnli.tsv": ('sentence1\tgold\nHe said "Go.\tneutral\n', {"sentence1", "gold", 'He said "Go.', "neutral"}),
    "dev.txt": ("Kano B-LOC\nis O\nbig O\n\nSo O\nis O\n\n" * 9, {"Kano is big", "So is"}),
    "wikiann": ("en:Kano\tB-LOC\nen:is\tO\n\nen::\tO\nen:Yes\tO\n", {"Kano is", ": Yes"}),
    "tatoeba.fra-eng.fra": ("Où est-il ?\nIl dort.\n", {"Où est-il ?", "Il dort."}),
}


@pytest.mark.parametrize("name", FILES)
def test_strings_of_a_published_format(name: str, tmp_path: Path) -> None:
    content, expected = FILES[name]
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert set(evaluation_texts(tmp_path / name)) - {""} == expected
    (tmp_path / name).unlink()
    (tmp_path / f"{name}.bz2").write_bytes(bz2.compress(content.encode()))
    assert set(evaluation_texts(tmp_path)) - {""} == expected


def test_a_folder_is_read_through_and_what_is_no_data_is_left(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "a.txt").write_text("Found it there.\n")
    parquet.write_table(pyarrow.table({"text": ["In parquet."], "label": [1]}), tmp_path / "b.parquet")
    for name in ("README.md", "LICENSE", ".hidden.txt", "load.py"):
        (tmp_path / name).write_text("Not an evaluation text.\n")
    assert list(evaluation_texts(tmp_path)) == ["In parquet.", "Found it there."]


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.json", b'{"data": [', "a.json"),
        ("a.json", b'{"data": "\xff"}', "a.json"),
        ("a.jsonl", b'{"a": "b"}\n{"a"\n', "a.jsonl:2"),
        ("a.txt", b"fine\n\xff\xfe\xff\n", "a.txt:2"),
        ("a.parquet", b"PAR1 no", "a.parquet"),
        ("b.md", b"nothing but a note", "no file of evaluation texts"),
    ],
)
def test_what_cannot_be_read_whole_is_refused_by_name(name: str, content: bytes, place: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=place):
        list(evaluation_texts(tmp_path))


def test_shards_are_looked_through(tmp_path: Path) -> None:
    codes = ("en", "ru", "zh")
    write_texts(tmp_path, codes=codes)
    write_teacher(tmp_path / "teacher", codes=codes)
    for code, text in (("en", f"It asked: {LONG}"), ("zh", CHINESE)):
        with (tmp_path / "clean" / f"{code}-00000.jsonl").open("ab") as file:
            file.write(json_line({"id": "planted", "text": text, "source": "t"}))
    tokenizing.run(recipe(tmp_path, languages=codes, data={"max_sequence_tokens": 128}))
    shards = ShardSet.open(tmp_path / "shards", languages=codes)
    decoder = Tokenizer.from_file(str(tmp_path / "tokenizer/tokenizer.json"))

    def look(code: str, *texts: str, samples: range = range(60)) -> dict[str, Any]:
        tests = {"these": Index(texts).hits}
        return in_shards(shards, codes.index(code), decoder=decoder, tests=tests, samples=samples)["these"]

    assert shards.samples_per_language.tolist() == [61, 60, 61]
    assert look("ru", LONG, CHINESE) == look("en", LONG, CHINESE) == {"hits": 0, "examples": []}
    assert look("en", LONG, CHINESE, samples=range(60, 61)) == {"hits": 1, "examples": [f"It asked: {LONG}"]}
    (found,) = look("zh", LONG, CHINESE, samples=range(61))["examples"]
    assert text_key(found) == text_key(CHINESE)
    assert look("en", SHORT, "Something that is nowhere in the training text at all.", samples=range(61))["hits"] == 0
    many = look("ru", *lines("ru"))
    assert many["hits"] == 60 and len(many["examples"]) == 3


def test_hits_do_not_depend_on_blocks() -> None:
    rng = np.random.default_rng(1)
    keys = ["".join(chr(97 + letter) for letter in rng.integers(0, 26, size=60)) for _ in range(3000)]
    flags = Index(keys[::3]).hits(keys)
    assert flags[::3].all() and not flags[1::3].any() and not flags[2::3].any()
