from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from tests.tiny import make_teacher, make_tokenizer, sentences
from unibert.evaluate import embed
from unibert.evaluate.embed import Embedder
from unibert.models.encoder import load_encoder

TEXTS = [*sentences("en", count=7, seed=4), *sentences("ru", count=6, seed=4), "a", *sentences("ar", count=5, seed=4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("embed")
    make_teacher(path / "model", make_tokenizer(path / "tokenizer"))
    return path / "model"


@pytest.mark.parametrize("budget", [16, 64, 4096])
def test_features_are_those_of_each_text_alone(folder: Path, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "TOKENS_PER_BATCH", budget)
    encoder, _ = load_encoder(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    done = []
    features = Embedder(encoder.eval(), tokenizer, max_tokens=16, progress=done.append).features(TEXTS)
    plain = AutoModel.from_pretrained(folder).eval()
    for i, text in enumerate(TEXTS):
        with torch.no_grad():
            inputs = tokenizer(text, truncation=True, max_length=16, return_tensors="pt")
            hidden = plain(input_ids=inputs["input_ids"]).last_hidden_state[0]
        torch.testing.assert_close(features.mean[i], hidden.mean(0), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(features.first[i], hidden[0], atol=1e-5, rtol=1e-4)
    assert sum(done) == len(TEXTS)
