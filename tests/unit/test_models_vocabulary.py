"""Trimming a teacher: the same answers over fewer pieces, with a head that starts at the text's frequencies."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from tests.tiny import LANGUAGES, make_shards, make_teacher, make_tokenizer, make_workspace, sentences
from unibert.config import load_recipe
from unibert.data import trimming
from unibert.data.shards import ShardSet
from unibert.errors import ConfigError, DataError
from unibert.models.vocabulary import TRIM_FILE, log_frequencies, trim, trim_embeddings

PIECES = 120


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe whose teacher has 300 pieces and no head, and whose tokenizer keeps the most used of them."""
    folder = tmp_path_factory.mktemp("vocabulary")
    file = make_workspace(folder / "workspace")
    whole = folder / "whole"
    make_teacher(whole, make_tokenizer(whole))
    AutoModelForMaskedLM.from_pretrained(whole).bert.save_pretrained(whole)
    texts = {}
    for code in LANGUAGES:
        texts[code] = [folder / f"{code}.jsonl"]
        texts[code][0].write_text("".join(json.dumps({"text": line}) + "\n" for line in sentences(code, count=80)))
    data = folder / "data"
    trimming.trim(whole, texts=texts, max_pieces=PIECES, into=data / "tokenizer")
    make_shards(data / "shards", AutoTokenizer.from_pretrained(data / "tokenizer"), count=30, seed=1)
    options = {"data.folder": data, "teacher.original": whole, "teacher.trimmed": folder / "trimmed"}
    return load_recipe(file, [word for key, value in options.items() for word in (f"--{key}", str(value))])


def test_the_trimmed_teacher_reads_as_before(recipe):
    facts = trim(recipe)
    trimmed, whole = recipe.teacher.trimmed, recipe.teacher.original
    kept = np.load(recipe.data.folder / "tokenizer" / "kept_ids.npy")
    tokenizer, before = AutoTokenizer.from_pretrained(trimmed), AutoTokenizer.from_pretrained(whole)
    assert facts["pieces"] == len(tokenizer) == len(kept) < len(before) == facts["pieces_before"]
    ids = tokenizer(sentences("ru", count=4, seed=9), padding=True, truncation=True, return_tensors="pt")
    body, old = AutoModel.from_pretrained(trimmed).eval(), AutoModel.from_pretrained(whole).eval()
    with torch.no_grad():
        states = body(**ids).last_hidden_state
        expected = old(torch.from_numpy(kept[ids["input_ids"].numpy()]).long(), ids["attention_mask"]).last_hidden_state
    torch.testing.assert_close(states, expected, rtol=0, atol=1e-6)
    assert body.config.vocab_size == len(kept)
    special = (body.config.pad_token_id, body.config.bos_token_id, body.config.eos_token_id)
    assert special == (tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id)


def test_the_new_head_starts_at_the_texts_frequencies(recipe):
    trim(recipe)
    model = AutoModelForMaskedLM.from_pretrained(recipe.teacher.trimmed)
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    shards = ShardSet.open(recipe.data.folder / "shards", languages=recipe.languages)
    bias_V = model.cls.predictions.bias.detach()
    assert torch.equal(bias_V, log_frequencies(recipe, shards=shards))
    torch.testing.assert_close(bias_V.double().exp().sum(), torch.tensor(1.0, dtype=torch.float64), atol=1e-5, rtol=0)
    assert "fitted in closed form" in json.loads((recipe.teacher.trimmed / TRIM_FILE).read_text())["head"]
    # the most frequent ordinary token of all shards is the most probable one
    counts = sum(np.bincount(shards.tokens(i), minlength=len(bias_V)) for i in range(len(LANGUAGES)))
    counts[list(shards.special.all())] = 0
    assert counts[int(bias_V.argmax())] > 0.8 * counts.max()
    assert bias_V[list(shards.special.all())].max() < bias_V[counts > 0].min()


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_that_exists_is_kept(recipe, tied):
    torch.manual_seed(0)
    trim(recipe)
    hf = AutoModelForMaskedLM.from_pretrained(recipe.teacher.trimmed)
    with torch.no_grad():
        if not tied:
            hf.config.tie_word_embeddings = False
            own = hf.cls.predictions.decoder.weight
            hf.cls.predictions.decoder.weight = torch.nn.Parameter(torch.randn_like(own))
        hf.cls.predictions.bias.normal_()
        hf.cls.predictions.transform.dense.bias.normal_()
    hf.eval()
    kept = np.array([0, 1, 2, 3, 4, 40, 9, 9])
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        before = hf(torch.from_numpy(kept)[ids]).logits
        trim_embeddings(hf, kept)
        after = hf(ids).logits
    torch.testing.assert_close(after, before[..., kept], rtol=0, atol=1e-6)
    assert hf.config.vocab_size == 8 and hf.cls.predictions.decoder.bias is hf.cls.predictions.bias


def test_what_is_done_is_not_done_again_until_something_changes(recipe, capsys):
    trim(recipe)
    weights = recipe.teacher.trimmed / "model.safetensors"
    first = weights.stat().st_mtime_ns
    trim(recipe)
    assert weights.stat().st_mtime_ns == first and "already" in capsys.readouterr().out
    other = load_recipe_like(recipe, seed=5)
    trim(other)
    assert weights.stat().st_mtime_ns > first
    trim(other, force=True)
    assert "already" not in capsys.readouterr().out
    (recipe.teacher.trimmed / TRIM_FILE).unlink()  # as after a crash
    trim(recipe)
    assert (recipe.teacher.trimmed / TRIM_FILE).is_file()


def load_recipe_like(recipe, *, seed):
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"seed": seed})})


def test_wrong_input_names_place_and_way_out(recipe, tmp_path):
    tables = {"data": recipe.data.model_copy(update={"folder": tmp_path})}
    with pytest.raises(DataError, match=r"kept_ids\.npy is missing.*unibert data tokenize"):
        trim(recipe.model_copy(update=tables))
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    np.save(tokenizer / "kept_ids.npy", np.array([0, 1, 9999]))
    with pytest.raises(DataError, match=r"9999.*not a pair"):
        trim(recipe.model_copy(update=tables))
    (tokenizer / "kept_ids.npy").write_bytes(b"cut off")
    with pytest.raises(DataError, match="damaged"):
        trim(recipe.model_copy(update=tables))
    with pytest.raises(ConfigError, match="teacher"):
        trim(recipe.model_copy(update={"teacher": None}))
    nowhere = recipe.teacher.model_copy(update={"original": Path("nowhere")})
    with pytest.raises(DataError, match="nowhere"):
        trim(recipe.model_copy(update={"teacher": nowhere}))
