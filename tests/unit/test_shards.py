import json
from dataclasses import replace

import numpy as np
import pytest

from tests.unit.small_data import FACTS, write_shards
from unibert.data.shard_format import VERSION, TokenizerFacts, language_entry, write_file, write_manifest
from unibert.data.shards import ShardSet
from unibert.errors import DataError

SAMPLES = {"en": 40, "ar": 9, "zh": 25}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data" / "shards"


def test_what_was_written_is_read(folder):
    written = write_shards(folder, samples=SAMPLES)
    shards = ShardSet.open(folder, verify="checksum")
    assert shards.languages == ("en", "ar", "zh")
    assert shards.samples_per_language.tolist() == list(SAMPLES.values())
    assert shards.tokens_per_language.tolist() == [sum(map(len, written[code])) for code in SAMPLES]
    assert shards.characters_per_language.tolist() == [10 * n for n in SAMPLES.values()]
    assert (shards.vocabulary_size, shards.special) == (1000, FACTS.special)
    for language, code in enumerate(shards.languages):
        for index, ids in enumerate(written[code]):
            np.testing.assert_array_equal(shards.sample(language, index), ids)
        np.testing.assert_array_equal(shards.tokens(language), np.concatenate(written[code]))
        assert shards.lengths(language).tolist() == [len(ids) for ids in written[code]]


def test_a_language_in_several_files(folder):
    written = write_shards(folder, samples=SAMPLES, samples_per_file=9)
    shards = ShardSet.open(folder)
    assert len(list(folder.glob("en-*.tokens"))) > 3
    for index, ids in enumerate(written["en"]):
        np.testing.assert_array_equal(shards.sample(0, index), ids)
    np.testing.assert_array_equal(shards.tokens(0), np.concatenate(written["en"]))
    with pytest.raises(IndexError):
        shards.sample(0, 40)


def test_large_vocabulary_takes_four_bytes(tmp_path):
    facts = TokenizerFacts("f", 250_002, FACTS.special)
    ids = np.array([0, 249_999, 2])
    write_file(tmp_path / "en-00000.tokens", language="en", chunks=[(ids, np.array([3]))], tokenizer=facts)
    body = (tmp_path / "en-00000.tokens").read_bytes()[4096:]
    np.testing.assert_array_equal(np.frombuffer(body[:12], "<u4"), ids)
    assert json.loads((tmp_path / "en-00000.tokens").read_bytes()[:4096])["dtype"] == "<u4"


def test_samples_cannot_be_overwritten(folder):
    write_shards(folder, samples=SAMPLES)
    with pytest.raises(ValueError, match="read-only"):
        ShardSet.open(folder).sample(0, 0)[0] = 1


def test_chosen_languages_in_the_chosen_order(folder):
    written = write_shards(folder, samples=SAMPLES)
    shards = ShardSet.open(folder, languages=["zh", "en"])
    np.testing.assert_array_equal(shards.sample(0, 3), written["zh"][3])
    assert shards.samples_per_language.tolist() == [25, 40]
    assert shards.fingerprint != ShardSet.open(folder, languages=["en", "zh"]).fingerprint
    assert shards.fingerprint == ShardSet.open(folder, languages=["zh", "en"]).fingerprint
    assert shards.document_id(np.array([0]), np.array([3])) == ShardSet.open(folder).document_id(
        np.array([2]), np.array([3])
    )


def refused(folder, *, match, **options):
    with pytest.raises(DataError, match=match) as caught:
        ShardSet.open(folder, **options)
    assert caught.value.exit_code == 3
    return str(caught.value)


def test_no_shards_yet(folder):
    assert "unibert data tokenize" in refused(folder, match="do not exist yet")


def test_unfinished(folder):
    write_shards(folder, samples=SAMPLES)
    (folder / "manifest.json").unlink()
    refused(folder, match="not finished")


def test_missing_file(folder):
    write_shards(folder, samples=SAMPLES)
    (folder / "ar-00000.tokens").unlink()
    assert "--force" in refused(folder, match="shard of ar is missing")


@pytest.mark.parametrize("keep", [0, 100, 4096, -1])
def test_cut_off_file(folder, keep):
    write_shards(folder, samples=SAMPLES)
    path = folder / "zh-00000.tokens"
    path.write_bytes(path.read_bytes()[:keep])
    assert "--force" in refused(folder, match="shard of zh is cut off")


def test_a_flipped_bit_is_seen_by_the_checksum(folder):
    write_shards(folder, samples=SAMPLES)
    path = folder / "zh-00000.tokens"
    body = bytearray(path.read_bytes())
    body[4200] ^= 1
    path.write_bytes(body)
    ShardSet.open(folder)
    refused(folder, match="shard of zh is damaged", verify="checksum")


def test_files_that_changed_places(folder):
    write_shards(folder, samples={"en": 40, "ar": 40})
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["languages"]["en"], manifest["languages"]["ar"] = manifest["languages"]["ar"], manifest["languages"]["en"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    refused(folder, match="does not belong to its manifest")


def test_another_tokenizer(folder, tmp_path):
    write_shards(folder, samples=SAMPLES)
    tree = {
        "added_tokens": [{"id": i, "content": name} for i, name in enumerate("abcde")],
        "model": {"type": "Unigram", "vocab": [["a", 0.0]]},
    }
    tokenizer = folder.parent / "tokenizer"
    tokenizer.mkdir()
    roles = dict(zip(("cls_token", "sep_token", "pad_token", "mask_token", "unk_token"), "abcde", strict=True))
    (tokenizer / "tokenizer.json").write_text(json.dumps(tree))
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(roles))
    assert "--force" in refused(folder, match="another tokenizer")
    elsewhere = tmp_path / "elsewhere"
    refused(folder, match="no such file", tokenizer=elsewhere)


def test_tokenizer_without_a_mask(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": [], "model": {"vocab": []}}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"cls_token": "<s>"}))
    with pytest.raises(DataError, match="cls, sep, pad, mask and unk"):
        TokenizerFacts.read(tmp_path)


def test_language_of_the_recipe_not_in_the_shards(folder):
    write_shards(folder, samples=SAMPLES)
    refused(folder, match="no shard of fi, sv", languages=["en", "fi", "sv"])


def test_empty_language(folder):
    write_shards(folder, samples=SAMPLES | {"fi": 0})
    refused(folder, match="fi without a single document", languages=["en", "fi"])
    assert ShardSet.open(folder, languages=["en"]).languages == ("en",)


@pytest.mark.parametrize("version", [VERSION - 1, VERSION + 1, None])
def test_another_version(folder, version):
    write_shards(folder, samples=SAMPLES)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"version": version}))
    assert "--force" in refused(folder, match=f"version {version}")


def test_damaged_manifest(folder):
    write_shards(folder, samples=SAMPLES)
    (folder / "manifest.json").write_text('{"format": ')
    assert "--force" in refused(folder, match="damaged")


def test_a_failing_producer_leaves_no_file(tmp_path):
    def chunks():
        yield np.arange(3), np.array([3])
        raise DataError("line 7")

    with pytest.raises(DataError, match="line 7"):
        write_file(tmp_path / "en-00000.tokens", language="en", chunks=chunks(), tokenizer=FACTS)
    assert not list(tmp_path.iterdir())


OTHER = replace(FACTS, fingerprint="other", vocabulary_size=900)


def test_shard_sets_of_different_tokenizers(tmp_path):
    for name, facts in {"shards": FACTS, "shards_heldout": OTHER}.items():
        ids = np.array([0, 5, 2])
        chunks = [(ids, np.array([3]))]
        file = write_file(tmp_path / name / "en-00000.tokens", language="en", chunks=chunks, tokenizer=facts)
        entry = language_entry([file], tokenizer=facts, facts={})
        write_manifest(tmp_path / name, tokenizer=facts, max_sequence_tokens=8, languages={"en": entry})
    shards, heldout = (ShardSet.open(tmp_path / name) for name in ("shards", "shards_heldout"))
    shards.require_tokenizer_of(shards)
    with pytest.raises(DataError, match=r"different tokenizers .900 and 1000 pieces.; make the shards .* again"):
        heldout.require_tokenizer_of(shards)
