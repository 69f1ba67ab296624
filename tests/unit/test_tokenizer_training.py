import json
import os
import random
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

from tests.runs import ROOT, train
from tests.tiny import LANGUAGES, make_workspace, sentences
from tests.unit.small_data import write_rows
from unibert import schema
from unibert.config import load_recipe
from unibert.data import tokenizer_training, tokenizing
from unibert.data.shard_format import TokenizerFacts
from unibert.data.shards import ShardSet
from unibert.data.tokenizer_models import settled
from unibert.data.tokenizer_training import Sample, budgets, characters
from unibert.errors import ConfigError, DataError

KINDS = ("bpe", "unigram", "wordpiece")
HARD = [
    "an emoji 👩🏽‍🚀 and 🏳️‍🌈 beside text🙂.",
    "rare Han 𠮷野家 𪚥 龘, and a Hangul syllable 뷁",
    "Z̸͓̈́a̷̤̽l̶̰̈́g̶̣̀o̴̝͌ t̷͕͝e̴̞̐x̶̱̎t̵̬̀",
    "a\0NUL, a\x07bell, a \t tab\nand  spaces ",
    "literal <0x41> and ▁ marks ▁▁, ½ ﬁ Ａ",
    "کتاب‌ها می‌خواهم",
    "(quotes “so”), 3.14% — dash!",
]


def texts_of(folder, *, count=150):
    """Made-up text of four scripts, and a little Chinese with very rare characters."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(1)
    rows = {code: sentences(code, count=count) for code in LANGUAGES}
    common = [chr(0x4E00 + i) for i in range(40)]
    rows["zh"] = ["".join(chance.choices(common, k=20)) + "。" for _ in range(count)]
    rows["zh"][3] += "龘"
    for code, lines in rows.items():
        write_rows(folder / f"{code}-00000.jsonl", [{"id": f"{i}", "text": line} for i, line in enumerate(lines)])
    return {code: [folder / f"{code}-00000.jsonl"] for code in rows}


def trained(folder, texts, *, kind, size=600, **more):
    table = schema.Tokenizer(kind=kind, max_pieces=size, character_coverage=0.99, **more)
    return tokenizer_training.train(table, texts=texts, smoothing_exponent=0.5, into=folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    texts = texts_of(folder / "texts")
    return {kind: trained(folder / kind, texts, kind=kind) for kind in KINDS} | {"texts": texts}


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_decoding_gives_the_normalised_text_back_whatever_it_is(made, kind):
    tokenizer = AutoTokenizer.from_pretrained(made[kind])
    texts = HARD + [line for code in LANGUAGES for line in sentences(code, count=20, seed=9)]
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        visible = "".join(c for c in text.replace("▁", "_") if unicodedata.category(c) != "Cc" or c.isspace())
        expected = " ".join(unicodedata.normalize("NFKC", visible).split(" "))
        assert tokenizer.decode(ids, skip_special_tokens=True) == " ".join(expected.split())


@pytest.mark.parametrize("kind", KINDS)
def test_it_has_the_form_that_everything_else_expects(made, kind):
    tokenizer, facts = AutoTokenizer.from_pretrained(made[kind]), TokenizerFacts.read(made[kind])
    assert len(tokenizer) == facts.vocabulary_size <= 600
    roles = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, tokenizer.mask_token_id)
    assert roles == (facts.special.cls, facts.special.sep, facts.special.pad, facts.special.mask)
    ids = tokenizer(f"abc {tokenizer.mask_token} def.")["input_ids"]
    assert ids[0] == tokenizer.cls_token_id and ids[-1] == tokenizer.sep_token_id and tokenizer.mask_token_id in ids
    pair = tokenizer("a", "b", return_token_type_ids=True)
    assert pair["input_ids"].count(tokenizer.sep_token_id) == (2 if kind == "wordpiece" else 3)
    assert set(pair["token_type_ids"]) == {0}  # no other was trained


def test_the_alphabet_holds_every_language_and_common_han_only(made):
    report = json.loads((made["bpe"] / "report.json").read_text())
    vocabulary = Tokenizer.from_file(str(made["bpe"] / "tokenizer.json")).get_vocab()
    for code, paths in made["texts"].items():
        text = {c for line in paths[0].read_text().splitlines() for c in json.loads(line)["text"] if c != " "}
        assert text - vocabulary.keys() == ({"龘"} if code == "zh" else set())
    assert 0.99 <= report["languages"]["zh"]["coverage"] < 1 == report["languages"]["ru"]["coverage"]
    row = report["languages"]["de"]
    assert row["round_trip"] == 1 and row["unknown"] == 0 and 1 <= row["tokens_per_word"] < 7


def test_wordpiece_has_an_unknown_and_says_so(made):
    tokenizer = AutoTokenizer.from_pretrained(made["wordpiece"])
    ids = tokenizer("龘 abc🙂", add_special_tokens=False)["input_ids"]
    assert ids[0] == ids[-1] == tokenizer.unk_token_id and ids.count(tokenizer.unk_token_id) == 2
    assert tokenizer.tokenize("一丁")[0] == "一"  # every Han character is a word
    assert any(piece.startswith("##") and len(piece) > 3 for piece in tokenizer.get_vocab())


SCRIPT = """
import sys; from pathlib import Path; from tests.unit.test_tokenizer_training import KINDS, texts_of, trained
folder = Path(sys.argv[1])
for kind in KINDS:
    trained(folder / kind, texts_of(folder / "texts"), kind=kind)
"""


def test_another_process_with_other_threads_writes_the_same_bytes(made, tmp_path):
    env = os.environ | {"PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": "3"}
    subprocess.run([sys.executable, "-c", SCRIPT, tmp_path], env=env, check=True, stdout=subprocess.DEVNULL)
    for kind in KINDS:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            assert (tmp_path / kind / name).read_bytes() == (made[kind] / name).read_bytes(), kind


def test_noise_in_the_last_digits_and_in_the_order_of_added_characters_is_settled():
    one = [("ab", -1.0000000001), ("b", -3.00005), ("a", -3.0001), ("ba", -1.0), ("bb", -3.0002)]
    other = [("ba", -0.9999999999), ("a", -3.00005), ("b", -3.0001), ("ab", -1.0), ("bb", -3.0002)]
    assert settled(one) == settled(other) == [("ab", -1.0), ("ba", -1.0), ("a", -3.0), ("b", -3.0), ("bb", -3.0)]


def test_shares_are_smoothed_and_nothing_is_read_twice():
    available = {"en": 90_000, "de": 10_000, "yo": 100}
    given = budgets(available, total=20_000, exponent=0.5)
    assert given["yo"] == 100 and sum(given.values()) == pytest.approx(20_000, abs=2)
    assert given["en"] / given["de"] == pytest.approx(3.0, rel=1e-3)
    assert budgets(available, total=10**9, exponent=0.5) == available
    assert budgets({"a": 50, "b": 50}, total=10, exponent=0.0) == {"a": 5, "b": 5}


def test_a_sample_is_spread_over_the_whole_text(tmp_path):
    paths = [tmp_path / "1.jsonl", tmp_path / "2.jsonl"]
    for number, path in enumerate(paths):
        write_rows(path, [{"id": f"{i}", "text": f"{number}{i:03}"} for i in range(100)])
    sample = Sample({"en": paths}, total=160, exponent=1.0)
    read = list(sample.documents("en"))
    assert len(read) == pytest.approx(40, abs=1) and len(set(read)) == len(read)
    assert sum(text.startswith("1") for text in read) == pytest.approx(20, abs=1)
    assert list(sample.documents("en")) == read


def test_letters_of_a_small_alphabet_all_count_and_rare_han_does_not():
    counts = {"е": 600, "ж": 390, "ъ": 1, "中": 8, "龘": 1, " ": 500, "Q": 1}
    assert characters(counts, coverage=0.995) == {"е", "ж", "ъ", "中"}


def test_a_size_that_the_alphabet_fills_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"max_pieces = 300.*raise it"):
        trained(tmp_path / "out", texts_of(tmp_path, count=20), kind="bpe", size=300)


def test_finished_work_is_kept_until_a_setting_or_a_text_changes(tmp_path, capsys):
    texts = texts_of(tmp_path, count=60)
    folder = trained(tmp_path / "out", texts, kind="bpe")
    np.save(folder / "kept_ids.npy", np.arange(3))
    trained(folder, texts, kind="bpe")
    trained(folder, {"en": texts["en"]}, kind="bpe")
    assert capsys.readouterr().out.count("trained already") == 2 and (folder / "kept_ids.npy").exists()
    trained(folder, texts, kind="bpe", byte_fallback=False)
    assert "trained already" not in capsys.readouterr().out
    assert not (folder / "kept_ids.npy").exists()  # of a trimmed tokenizer that stood here
    assert "<0x41>" not in AutoTokenizer.from_pretrained(folder).get_vocab()


WITHOUT_TEACHER = ["--student.start", "random", "--student.hidden_size", "32", "--student.num_layers", "2"]
WITHOUT_TEACHER += ["--student.num_heads", "2", "--student.intermediate_size", "64", "--tokenizer.kind", "bpe"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], 'set student.start = "random"'),
        (["--student.start", "random"], r"so its states stand at other tokens: take \[objectives.distill_hidden\]"),
        (["--student.start", "random"], "so its logits are of other pieces"),
    ],
)
def test_what_needs_the_teachers_vocabulary_is_refused(tmp_path, options, said):
    recipe = make_workspace(tmp_path)
    with pytest.raises(ConfigError, match=said):
        load_recipe(recipe, ["--tokenizer.kind", "bpe", *options])


def test_a_student_is_trained_and_exported_with_it(tmp_path):
    path = make_workspace(tmp_path)
    text = path.read_text().replace("[objectives.distill_hidden]\n", "")
    text = text.replace("[objectives.distill_logits]\nweight = 0.5\n", "").replace("teacher_layers = [1]\n", "")
    begin, end = text.index("[teacher]"), text.index("[student]")
    path.write_text(text[:begin] + text[end:])
    options = [*WITHOUT_TEACHER, "--tokenizer.max_pieces", "500"]
    recipe = load_recipe(path, options)
    texts_of(recipe.data.folder / "clean")
    report = tokenizing.run(recipe)
    shards = ShardSet.open(recipe.data.folder / "shards")
    assert shards.vocabulary_size == 500
    assert report["languages"]["ru"]["bytes"] == 0 == report["languages"]["ru"]["unknown"]
    train(path, *options)
    export = recipe.run_folder / "hf" / "step_00000006"
    tokenizer, model = AutoTokenizer.from_pretrained(export), AutoModelForMaskedLM.from_pretrained(export)
    assert TokenizerFacts.read(export).fingerprint == shards.tokenizer_fingerprint
    assert len(tokenizer) == model.config.vocab_size == 500
    fill = pipeline("fill-mask", model=model, tokenizer=tokenizer)
    assert len(fill(f"{sentences('en', count=1)[0]} {tokenizer.mask_token}")) == 5
