"""A whole workspace in miniature: made-up text in four scripts, a tokenizer trained on it, shards, a random teacher.

It stands where the demo's data and teacher stand, so tests run the real trainer, launchers and exports on it
within seconds. Everything is a function of the seed.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from unibert.data.lines import write_json
from unibert.data.pairs import FORMAT, VERSION
from unibert.data.shard_format import TokenizerFacts, language_entry, write_file, write_manifest

ALPHABETS = {
    "en": "abcdefghijklmnoprstuvwy",
    "de": "abcdefghiklmnorstuzäöü",
    "ru": "абвгдежзиклмнопрстуя",
    "ar": "ابتجحدرسعفقكلمنهوي",
}
LANGUAGES = tuple(ALPHABETS)
SPECIAL = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
WIDTH = 32


def sentences(code: str, *, count: int, seed: int = 0) -> list[str]:
    """Made-up sentences over a small vocabulary, so that there is something to learn."""
    chance = random.Random(f"{code}:{seed}")
    return [" ".join(chance.choices(words(code), k=chance.randint(3, 14))) for _ in range(count)]


def make_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """A Unigram tokenizer of XLM-R's kind over all languages."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    text = [line for code in LANGUAGES for line in sentences(code, count=120)]
    names = list(SPECIAL.values())
    tokenizer.train_from_iterator(
        text, trainers.UnigramTrainer(vocab_size=300, special_tokens=names, unk_token="<unk>", show_progress=False)
    )
    tokenizer.model = _rounded(tokenizer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=WIDTH, **SPECIAL)
    fast.save_pretrained(folder)
    return fast


def _rounded(tokenizer: Tokenizer) -> models.Unigram:
    """The model with scores of 6 digits: the trainer's last ones differ from process to process, and can decide."""
    model = json.loads(tokenizer.to_str())["model"]
    return models.Unigram([(piece, round(score, 6)) for piece, score in model["vocab"]], model["unk_id"])


def make_shards(folder: Path, tokenizer: PreTrainedTokenizerFast, *, count: int, seed: int) -> None:
    """Shards of `count` sentences a language."""
    facts = TokenizerFacts.read(folder.parent / "tokenizer")
    entries = {}
    for code in LANGUAGES:
        rows = tokenizer(sentences(code, count=count, seed=seed), truncation=True, max_length=WIDTH)["input_ids"]
        flat, lengths = np.concatenate([np.array(row) for row in rows]), np.array([len(row) for row in rows])
        path = folder / f"{code}-00000.tokens"
        file = write_file(path, language=code, chunks=[(flat, lengths)], tokenizer=facts)
        assert file is not None
        entries[code] = language_entry([file], tokenizer=facts, facts={"characters": 1})
    write_manifest(folder, languages=entries, tokenizer=facts, max_sequence_tokens=WIDTH)


def words(code: str) -> list[str]:
    """The vocabulary of a language: words in the same place of two vocabularies are each other's translation."""
    chance = random.Random(code)
    return ["".join(chance.choices(ALPHABETS[code], k=chance.randint(2, 7))) for _ in range(60)]


def make_pairs(data: Path, tokenizer: PreTrainedTokenizerFast, *, count: int = 80) -> None:
    """Aligned shards and dictionaries: word by word translations, en-de, en-ru and de-ru (no English in it)."""
    facts = TokenizerFacts.read(data / "tokenizer")
    (data / "dictionaries").mkdir(parents=True)
    named = {}
    for a, b in (("en", "de"), ("en", "ru"), ("de", "ru")):
        chance, folder, entries = random.Random(f"{a}-{b}"), data / "shards_parallel" / f"{a}-{b}", {}
        texts = [chance.choices(range(60), k=chance.randint(2, 4)) for _ in range(count)]
        sides = [tokenizer([" ".join(words(code)[i] for i in text) for text in texts])["input_ids"] for code in (a, b)]
        kept = [rows for rows in zip(*sides, strict=True) if max(map(len, rows)) <= WIDTH // 2]
        for side, code in enumerate((a, b)):
            ids = [np.array(rows[side]) for rows in kept]
            chunk = (np.concatenate(ids), np.array(list(map(len, ids))))
            file = write_file(folder / f"{code}-00000.tokens", language=code, chunks=[chunk], tokenizer=facts)
            assert file is not None
            entries[code] = language_entry([file], tokenizer=facts, facts={"characters": 1})
        write_manifest(folder, languages=entries, tokenizer=facts, max_sequence_tokens=WIDTH // 2)
        named[folder.name] = {"languages": [a, b], "pairs": len(kept)}
        lines = [f"{one}\t{other}\n" for one, other in zip(words(a), words(b), strict=True)]
        (data / "dictionaries" / f"{a}-{b}.tsv").write_text("".join(lines), encoding="utf-8")
    manifest = {"format": FORMAT, "version": VERSION, "tokenizer": facts.fingerprint, "language_pairs": named}
    write_json(data / "shards_parallel" / "manifest.json", manifest)


def make_teacher(folder: Path, tokenizer: PreTrainedTokenizerFast, *, layers: int = 2) -> None:
    """A random BertForMaskedLM with the workspace's tokenizer."""
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_workspace(folder: Path) -> Path:
    """Everything, and a recipe of it; returns the recipe's path. The recipe's paths are absolute."""
    data = folder / "data"
    tokenizer = make_tokenizer(data / "tokenizer")
    make_shards(data / "shards", tokenizer, count=200, seed=1)
    make_shards(data / "shards_heldout", tokenizer, count=20, seed=2)
    (data / "heldout" / "lines").mkdir(parents=True)
    messages = [
        {"key": f"m{i}", "texts": {code: sentences(code, count=60, seed=3)[i] for code in LANGUAGES}} for i in range(60)
    ]
    (data / "heldout" / "parallel.jsonl").write_text("".join(json.dumps(row) + "\n" for row in messages))
    for code in LANGUAGES:
        rows = [{"id": f"x:{i}", "text": text} for i, text in enumerate(sentences(code, count=20, seed=2))]
        (data / "heldout" / "lines" / f"{code}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    make_teacher(folder / "teacher", tokenizer)
    recipe = folder / "tiny.toml"
    recipe.write_text(RECIPE.format(folder=folder, languages=list(LANGUAGES)))
    return recipe


RECIPE = """
name = "tiny"
runs_folder = "{folder}/runs"
languages = {languages}

[data]
folder = "{folder}/data"
max_sequence_tokens = 32

[teacher]
path = "{folder}/teacher"
dtype = "fp32"

[student]
teacher_layers = [1]
trainable = "all"

[discriminator]
feature = "mean"
hidden_size = 16

[optimizer]
learning_rate = 1e-3

[train]
steps = 6
global_batch_sequences = 32
micro_batch_sequences = 8
threads_per_rank = 1

[save]
every_steps = 3
export = true

[log]
every_steps = 2
evaluate_every_steps = 3

[engines]
student = "zero1_fp32"

[objectives.masked_lm]

[objectives.distill_hidden]

[objectives.distill_logits]
weight = 0.5

[objectives.language_guess]

[objectives.language_confusion]
weight = {{ max = 0.2 }}
"""
