import json
import re

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.unit.small_data import TEXT, lines, recipe, write_rows, write_teacher, write_texts
from unibert import schema
from unibert.data import encoding, inspect, tokenizing
from unibert.data.encoding import SHORTEST_REST
from unibert.data.encoding import cut as cut_all
from unibert.data.shard_format import TokenizerFacts
from unibert.data.shards import ShardSet
from unibert.errors import ConfigError, DataError
from unibert.plan import make_plan
from unibert.schema import Masking

CODES = tuple(TEXT)


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "CHECKED", 1)  # every document is decoded again
    write_texts(tmp_path, codes=CODES)
    # The teacher never saw Hindi: its letters are unknown to it.
    write_teacher(tmp_path / "teacher", codes=tuple(code for code in CODES if code != "hi"))
    return recipe(tmp_path, languages=CODES, tokenizer={"max_pieces": 40})


def load(folder):
    return json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))


def test_trimmed_tokenizer_is_smaller_and_loses_no_text(small):
    tokenizing.run(small)
    folder = small.data.folder / "tokenizer"
    before, after = load(small.teacher.original), load(folder)
    assert len(after["model"]["vocab"]) < len(before["model"]["vocab"])
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    for code in CODES:
        for text in lines(code):
            expected = tokenizer.backend_tokenizer.normalizer.normalize_str(text)
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.decode(ids, skip_special_tokens=True) == expected
            assert tokenizer.unk_token_id not in ids


def test_kept_ids_lead_to_the_same_pieces_with_the_same_scores_in_the_same_order(small):
    tokenizing.run(small)
    folder = small.data.folder / "tokenizer"
    before, after = load(small.teacher.original), load(folder)
    kept = np.load(folder / "kept_ids.npy")
    assert kept.dtype == np.int32 and len(kept) == len(after["model"]["vocab"])
    report = json.loads((folder / "report.json").read_text())
    added = list(report["characters_added"])
    old = len(kept) - len(added)
    assert (np.diff(kept[:old]) > 0).all()
    assert after["model"]["vocab"][:old] == [before["model"]["vocab"][i] for i in kept[:old]]
    # Characters new to the teacher take over the embedding of its unknown token.
    assert added and (kept[old:] == before["model"]["unk_id"]).all()
    assert [piece for piece, _ in after["model"]["vocab"][old:]] == added
    assert set(added) <= set("".join(TEXT["hi"])) and report["characters_added"]["ी"] > 0


def test_the_most_used_pieces_are_kept_and_every_single_character(small):
    tokenizing.run(small)
    before = Tokenizer.from_file(str(small.teacher.original / "tokenizer.json"))
    counts = np.zeros(before.get_vocab_size(), dtype=int)
    for code in CODES:
        for found in before.encode_batch(lines(code), add_special_tokens=False):
            np.add.at(counts, found.ids, 1)
    kept = set(np.load(small.data.folder / "tokenizer" / "kept_ids.npy").tolist())
    top = np.argsort(-counts, kind="stable")[:40]
    assert set(top[counts[top] > 0].tolist()) <= kept
    pieces = {piece for piece, _ in load(small.data.folder / "tokenizer")["model"]["vocab"]}
    text = "".join(line for code in CODES for line in lines(code)).replace(" ", "▁")
    assert set(before.normalizer.normalize_str(text)) <= pieces
    special = {before.token_to_id(name) for name in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")}
    single = {i for piece, i in before.get_vocab().items() if len(piece) == 1}
    assert kept <= set(top.tolist()) | special | single and special <= kept


def test_letters_that_do_not_occur_are_kept_of_small_alphabets(small):
    tree = load(small.teacher.original)
    spare = ["Q", "ъ", "ث", "佪", "뜁", "Ω"]
    tree["model"]["vocab"][-1:-1] = [[letter, -12.0] for letter in spare]
    tree["added_tokens"][-1]["id"] = len(tree["model"]["vocab"]) - 1
    (small.teacher.original / "tokenizer.json").write_text(json.dumps(tree), encoding="utf-8")
    tokenizing.run(small)
    pieces = {piece for piece, _ in load(small.data.folder / "tokenizer")["model"]["vocab"]}
    # No Greek occurs in the text, and Han and Hangul are too large to be kept whole.
    assert pieces & set(spare) == {"Q", "ъ", "ث"}


def test_special_tokens_stay_special(small):
    tokenizing.run(small)
    tokenizer = AutoTokenizer.from_pretrained(small.data.folder / "tokenizer")
    shards = ShardSet.open(small.data.folder / "shards")
    special = shards.special
    ours = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, tokenizer.mask_token_id)
    assert ours == (special.cls, special.sep, special.pad, special.mask)
    assert tokenizer.unk_token_id == special.unk and len(tokenizer) == shards.vocabulary_size
    ids = tokenizer("a <mask> b")["input_ids"]
    assert ids[0] == special.cls and ids[-1] == special.sep and special.mask in ids
    tokenizer.save_pretrained(small.data.folder / "copy")
    assert TokenizerFacts.read(small.data.folder / "copy").fingerprint == shards.tokenizer_fingerprint
    pair = tokenizer("a", "b")["input_ids"]
    assert pair.count(special.sep) == 3


def test_shards_hold_the_text(small):
    report = tokenizing.run(small)
    tokenizer = AutoTokenizer.from_pretrained(small.data.folder / "tokenizer")
    shards = ShardSet.open(small.data.folder / "shards", languages=CODES, verify="checksum")
    for language, code in enumerate(CODES):
        expected = []
        for text in lines(code):
            pieces = cut(tokenizer(text, add_special_tokens=False)["input_ids"])
            expected += [[tokenizer.cls_token_id, *piece, tokenizer.sep_token_id] for piece in pieces]
        found = [shards.sample(language, i).tolist() for i in range(int(shards.samples_per_language[language]))]
        assert found == expected
        row = report["languages"][code]
        assert row["documents"] == 60 and row["samples"] == len(expected)
        assert row["characters"] == sum(map(len, lines(code))) == shards.characters_per_language[language]
        assert row["tokens"] == sum(map(len, expected))
        assert row["round_trip"] == 1.0 and row["unknown"] == 0.0
        assert row["heldout_documents"] == 10
    assert max(len(shards.sample(0, i)) for i in range(60)) <= 32
    assert report["languages"]["hi"]["new_to_teacher"] > 0.3 and report["languages"]["en"]["new_to_teacher"] == 0
    assert ShardSet.open(small.data.folder / "shards_heldout", languages=CODES).samples_per_language.min() >= 10


def test_report_agrees_with_the_plan_and_is_readable(small):
    report = tokenizing.run(small)
    for item in make_plan(small, world=1).languages:
        assert report["languages"][item.code]["epochs"] == pytest.approx(item.epochs)
        assert report["languages"][item.code]["share"] == pytest.approx(item.share)
    written = json.loads((small.data.folder / "report.json").read_text(encoding="utf-8"))
    assert written["totals"]["documents"] == 360
    page = (small.data.folder / "report.md").read_text(encoding="utf-8")
    assert page.count("\n| ") == 1 + len(CODES) and "| ar | Arabic |" in page


def test_report_knows_lengths_and_bytes(small):
    trained = {"kind": "bpe", "max_pieces": 800, "character_coverage": 0.8}
    report = tokenizing.run(small.model_copy(update={"tokenizer": schema.Tokenizer.model_validate(trained)}))
    shards = ShardSet.open(small.data.folder / "shards", languages=CODES)
    tokenizer = Tokenizer.from_file(str(small.data.folder / "tokenizer" / "tokenizer.json"))
    for language, code in enumerate(CODES):
        row, lengths = report["languages"][code], shards.lengths(language)
        assert row["lengths"]["0.5"] == sorted(lengths)[(len(lengths) + 1) // 2 - 1]
        assert row["lengths"]["1"] == max(lengths)
        pieces = [tokenizer.id_to_token(i) for i in shards.tokens(language).tolist()]
        ordinary = [piece for piece in pieces if piece not in ("<s>", "</s>")]
        count = sum(piece.startswith("<0x") for piece in ordinary)
        assert row["bytes"] == pytest.approx(count / len(ordinary))
    assert report["languages"]["zh"]["bytes"] > 0.1 > report["languages"]["ru"]["bytes"]


def test_unknown_characters_of_heldout_text_are_counted(small):
    path = small.data.folder / "heldout" / "lines" / "en.jsonl"
    write_rows(path, [{"id": "t:0", "text": "page 佪佪", "source": "t"}, {"id": "t:1", "text": "page", "source": "t"}])
    tokenizing.run(small)
    manifest = json.loads((small.data.folder / "shards_heldout" / "manifest.json").read_text(encoding="utf-8"))
    facts = manifest["languages"]["en"]["facts"]
    assert facts["unknown_characters"] == {"佪": 2} and facts["round_trips"] == 1


def test_some_documents_are_decoded_again_and_at_least_one(small, monkeypatch):
    monkeypatch.undo()
    tokenizing.run(small)
    manifest = json.loads((small.data.folder / "shards" / "manifest.json").read_text(encoding="utf-8"))
    for entry in manifest["languages"].values():
        assert 1 <= entry["facts"]["checked"] < 20 and entry["facts"]["round_trips"] == entry["facts"]["checked"]


def test_special_strings_in_the_text_do_not_become_special_tokens(small):
    path = small.data.folder / "clean" / "en-00000.jsonl"
    rows = [
        {"id": "t:0", "text": "Use <mask> or <s> here", "source": "t"},
        {"id": "t:1", "text": "<pad>", "source": "t"},
    ]
    write_rows(path, rows + [{"id": "t:2", "text": lines("en")[0], "source": "t"}])
    report = tokenizing.run(small)
    shards = ShardSet.open(small.data.folder / "shards", languages=CODES)
    assert shards.samples_per_language[0] == 2
    for i in range(2):
        inner = shards.sample(0, i)[1:-1]
        assert not set(inner.tolist()) & {shards.special.cls, shards.special.mask, shards.special.pad}
    row = report["languages"]["en"]
    assert (row["special_strings"], row["dropped_documents"]) == (3, 1)


def test_lines_of_a_document_are_one_text(small):
    texts = lines("en", count=20)
    parts = {"long": texts[:12], "short": texts[12:14], "again": texts[14:16]}
    rows = [{"id": id, "line": at, "text": text} for id, part in parts.items() for at, text in enumerate(part)]
    rows += [{"id": "alone", "text": text} for text in texts[16:18]]  # of one id, but without number: two texts
    write_rows(small.data.folder / "clean" / "en-00000.jsonl", rows)
    write_rows(small.data.folder / "clean" / "en-00001.jsonl", [{"id": "file", "line": 7, "text": texts[18]}])
    report = tokenizing.run(small)
    tokenizer = AutoTokenizer.from_pretrained(small.data.folder / "tokenizer")
    documents = [*(" ".join(part) for part in parts.values()), *texts[16:19]]
    expected = [piece for text in documents for piece in cut(tokenizer(text, add_special_tokens=False)["input_ids"])]
    shards = ShardSet.open(small.data.folder / "shards", languages=CODES)
    assert [shards.sample(0, at)[1:-1].tolist() for at in range(shards.samples_per_language[0])] == expected
    assert report["languages"]["en"]["documents"] == 6 < len(expected)
    assert len(list((small.data.folder / "shards").glob("en-*.tokens"))) == 2


def cut(ids):
    pieces = [ids[start : start + 30] for start in range(0, len(ids), 30)]
    return pieces[:-1] if len(pieces) > 1 and len(pieces[-1]) < SHORTEST_REST else pieces


def test_long_documents_are_cut():
    lengths = np.array([100, 67, 2, 0, 30, 31, 38])
    ids = np.arange(lengths.sum())
    starts, sizes, dropped = cut_all(lengths, room=30)
    documents = np.split(ids, np.cumsum(lengths)[:-1])
    expected = [piece for document in documents for piece in cut(document.tolist())]
    assert [ids[start : start + size].tolist() for start, size in zip(starts, sizes, strict=True)] == expected
    assert sizes.tolist() == [30, 30, 30, 10, 30, 30, 2, 30, 30, 30, 8] and dropped == 7 + 1


def stamps(folder):
    return {
        path.name: path.stat().st_mtime_ns for part in ("tokenizer", "shards") for path in (folder / part).iterdir()
    }


def test_finished_work_is_kept_and_force_does_it_again(small, capsys):
    tokenizing.run(small)
    before = stamps(small.data.folder)
    capsys.readouterr()
    tokenizing.run(small)
    assert stamps(small.data.folder) == before
    assert capsys.readouterr().out.count("already") == 3
    tokenizing.run(small, force=True)
    after = stamps(small.data.folder)
    assert all(after[name] > before[name] for name in before)


def test_a_recipe_of_fewer_languages_leaves_the_shards_alone(small):
    tokenizing.run(small)
    before = stamps(small.data.folder)
    report = tokenizing.run(small.model_copy(update={"languages": ("en", "zh")}))
    assert stamps(small.data.folder) == before and set(report["languages"]) == {"en", "zh"}
    assert ShardSet.open(small.data.folder / "shards", languages=CODES)


def test_an_interrupted_run_goes_on(small, monkeypatch):
    original = tokenizing.write_file
    done = []

    def interrupted(path, *, language, **more):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(language)
        return original(path, language=language, **more)

    monkeypatch.setattr(tokenizing, "write_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tokenizing.run(small)
    with pytest.raises(DataError, match="not finished"):
        ShardSet.open(small.data.folder / "shards")
    monkeypatch.setattr(tokenizing, "write_file", original)
    before = stamps(small.data.folder)
    tokenizing.run(small)
    after = stamps(small.data.folder)
    assert all(after[f"{code}-00000.tokens"] == before[f"{code}-00000.tokens"] for code in done)
    assert ShardSet.open(small.data.folder / "shards", languages=CODES, verify="checksum")


def test_shards_that_are_being_made_again_are_not_for_use(small, monkeypatch):
    tokenizing.run(small)
    path = small.data.folder / "clean" / "en-00000.jsonl"
    path.write_bytes(path.read_bytes().replace(b"page", b"file"))  # as many tokens as before

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(tokenizing, "write_manifest", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tokenizing.run(small)
    with pytest.raises(DataError, match="not finished"):
        ShardSet.open(small.data.folder / "shards")


def test_changed_text_length_or_size_is_done_again(small):
    tokenizing.run(small)
    before = ShardSet.open(small.data.folder / "shards").fingerprint
    shorter = small.model_copy(update={"data": small.data.model_copy(update={"max_sequence_tokens": 16})})
    tokenizing.run(shorter)
    assert ShardSet.open(small.data.folder / "shards").max_sequence_tokens == 16
    tokenizing.run(small)
    assert ShardSet.open(small.data.folder / "shards").fingerprint == before
    path = small.data.folder / "clean" / "en-00000.jsonl"
    path.write_text(path.read_text(encoding="utf-8") * 2, encoding="utf-8")
    report = tokenizing.run(small)
    assert report["languages"]["en"]["documents"] == 120


def test_a_shard_that_was_cut_off_is_made_again(small):
    tokenizing.run(small)
    path = small.data.folder / "shards" / "ru-00000.tokens"
    path.write_bytes(path.read_bytes()[:-9])
    tokenizing.run(small)
    assert ShardSet.open(small.data.folder / "shards", languages=CODES, verify="checksum")


def test_pieces_too_short_to_hold_anything(small):
    tiny = small.model_copy(update={"data": small.data.model_copy(update={"max_sequence_tokens": 2})})
    with pytest.raises(ConfigError, match="at least 10"):
        tokenizing.run(tiny)


def test_missing_teacher(small):
    (small.teacher.original / "tokenizer.json").unlink()
    with pytest.raises(DataError, match="unibert teacher fetch"):
        tokenizing.run(small)


def test_no_teacher_and_no_tokenizer(small):
    with pytest.raises(ConfigError, match="tokenizer"):
        tokenizing.run(small.model_copy(update={"teacher": None}))


def test_missing_and_empty_text(small):
    (small.data.folder / "clean" / "de-00000.jsonl").unlink()
    (small.data.folder / "clean" / "zh-00000.jsonl").write_text("")
    with pytest.raises(DataError, match=r"no text of de, zh; run .*clean"):
        tokenizing.run(small)


def test_damaged_line_is_named(small):
    path = small.data.folder / "clean" / "de-00000.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + "{broken\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"de-00000\.jsonl:61"):
        tokenizing.run(small)


def test_a_language_without_an_ordinary_token(small):
    write_rows(small.data.folder / "heldout" / "lines" / "zh.jsonl", [{"id": "t:0", "text": "<pad>", "source": "t"}])
    with pytest.raises(DataError, match="zh has no document with an ordinary token"):
        tokenizing.run(small)


def test_another_kind_of_tokenizer(small):
    tree = load(small.teacher.original)
    tree["model"] = {"type": "WordPiece", "vocab": {}, "unk_token": "<unk>"}
    (small.teacher.original / "tokenizer.json").write_text(json.dumps(tree))
    with pytest.raises(DataError, match="WordPiece tokenizer; only Unigram"):
        tokenizing.run(small)


def test_inspect_shows_every_language_with_its_targets(small, capsys):
    tokenizing.run(small)
    capsys.readouterr()
    inspect.show(small, samples=2)
    shown = capsys.readouterr().out
    for code in CODES:
        assert f"\n{code}  " in shown
    assert "[_]" in shown and "Arabic, Arab" in shown
    assert shown.count("\u2068") == shown.count("\u2069") >= 2 * 2 * len(CODES)
    assert "4 documents in" in shown


def test_inspect_shows_whole_words(small, capsys):
    tokenizing.run(small)
    whole = {"unit": "word", "fraction": 0.5, "mask_fraction": 1.0, "random_fraction": 0.0}
    capsys.readouterr()
    inspect.show(small.model_copy(update={"masking": Masking.model_validate(whole)}), samples=1)
    shown = capsys.readouterr().out
    english = shown[shown.index("\nen ") :].splitlines()[2]
    # Where a mask is, the word is masked to its end.
    assert "[_]" in english and not re.search(r"\[_\]\w|\w\[_\]", english)
