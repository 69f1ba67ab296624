"""UniDrop on real text: a student that reads little text often learns it by heart, and less so with the dropouts.

The same small BERT is trained on the same sentences in the same order, with and without UniDrop's dropouts of all three
kinds (features, layers, data), and judged on sentences it has not seen, whole and with the same masks.
"""

import json
import os
import pydoc_data.topics
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import BertConfig, BertForMaskedLM

from unibert.data.dropout import drop_tokens
from unibert.data.masking import mask_many
from unibert.data.mixture import Documents
from unibert.data.shard_format import SpecialIds
from unibert.models.dropouts import add_dropouts
from unibert.schema import Masking, Student

# Where the demo was prepared (data/demo); this checkout when it is not said.
PREPARED = Path(os.environ.get("UNIBERT_PREPARED", Path(__file__).parents[2]))
SPECIAL = SpecialIds(cls=0, sep=1, pad=2, mask=3, unk=4)
PIECES, WIDTH, BATCH = 1000, 24, 32
NONE: dict = {}
UNIDROP = {
    "attention_dropout": 0.1,
    "activation_dropout": 0.1,
    "projection_dropout": 0.1,
    "output_dropout": 0.1,
    "layer_drop": 0.1,
}


def documents(sentences: list[str], *, count: int, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """`count` sentences to train on and 400 held out, drawn at random, of the most frequent words and unk."""
    words = [re.findall(r"\w+|[^\w\s]", text.lower())[: WIDTH - 2] for text in dict.fromkeys(sentences)]
    words = [text for text in words if len(text) > 5]
    order = np.random.default_rng(seed).permutation(len(words))
    drawn = [words[i] for i in order[: count + 400]]
    frequent = Counter(word for text in drawn[:count] for word in text).most_common(PIECES - 5)
    ids = {word: number for number, (word, _) in enumerate(frequent, start=5)}
    rows = [np.array([0, *(ids.get(word, SPECIAL.unk) for word in text), 1]) for text in drawn]
    return rows[:count], rows[count:]


def masked(texts: list[np.ndarray], *, ids: np.ndarray, epoch: int, drop: float = 0.0):
    """Padded inputs [D, S], attention mask and labels of documents at an epoch, -100 where nothing is asked."""
    count = len(texts)
    read = Documents(texts, ids.astype(np.uint64), np.zeros(count, int), np.full(count, epoch), np.zeros((0, 2), int))
    if drop:
        read = drop_tokens(read, fraction=drop, keep_whole=0.5, seed=1)
    lengths = np.array([len(text) for text in read.texts])
    flat = np.concatenate(read.texts)
    shown, places, targets = mask_many(
        flat,
        lengths=lengths,
        sample_ids=read.ids,
        epochs=read.epoch,
        seed=1,
        masking=Masking(fraction=0.15),
        special=SPECIAL,
        vocabulary_size=PIECES,
    )
    asked = np.full(len(flat), -100)
    asked[places] = targets
    inside = np.arange(lengths.max()) < lengths[:, None]
    inputs, labels = np.full(inside.shape, SPECIAL.pad), np.full(inside.shape, -100)
    inputs[inside], labels[inside] = shown, asked
    return torch.tensor(inputs), torch.tensor(inside), torch.tensor(labels)


def loss_of(hf: BertForMaskedLM, batch) -> torch.Tensor:
    inputs, inside, labels = batch
    asked = labels != -100
    hidden = hf.base_model(input_ids=inputs, attention_mask=inside.long()).last_hidden_state
    return F.cross_entropy(hf.cls(hidden[asked]), labels[asked])


def trained(train, heldout, *, dropouts: dict, drop: float, steps: int, seed: int) -> tuple[float, float]:
    """(loss on the training sentences, on the held-out ones) after so many steps, in nats a target."""
    torch.manual_seed(seed)
    table = Student(**dropouts)
    config = BertConfig(
        vocab_size=PIECES,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=WIDTH,
        hidden_dropout_prob=table.dropout,
        attention_probs_dropout_prob=table.attention_dropout,
    )
    hf = BertForMaskedLM(config).train()
    add_dropouts(hf, table)
    optimizer = torch.optim.AdamW(hf.parameters(), lr=2e-3, weight_decay=0.01)
    batches = len(train) // BATCH
    for step in range(steps):
        epoch, number = divmod(step, batches)
        chosen = np.random.default_rng([seed, epoch]).permutation(len(train))[number * BATCH : (number + 1) * BATCH]
        loss = loss_of(hf, masked([train[i] for i in chosen], ids=chosen, epoch=epoch, drop=drop))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    hf.eval()
    with torch.no_grad():
        learnt = loss_of(hf, masked(train, ids=np.arange(len(train)), epoch=10**6))
        unseen = loss_of(hf, masked(heldout, ids=np.arange(len(heldout)) + 10**6, epoch=0))
    return learnt.item(), unseen.item()


def both(sentences: list[str], *, count: int, steps: int, seed: int) -> dict[str, tuple[float, float]]:
    """Without and with UniDrop: (loss on the training sentences, on the held-out ones)."""
    train, heldout = documents(sentences, count=count, seed=seed)
    found = {
        name: trained(train, heldout, dropouts=dropouts, drop=drop, steps=steps, seed=seed)
        for name, dropouts, drop in (("without", NONE, 0.0), ("with", UNIDROP, 0.2))
    }
    epochs = steps * BATCH // count
    said = [f"{name} train {a:.3f}, held out {b:.3f}, gap {b - a:.3f}" for name, (a, b) in found.items()]
    print(f"{count} sentences, {epochs} times, seed {seed}: {'; '.join(said)}")
    return found


def gap(losses: tuple[float, float]) -> float:
    return losses[1] - losses[0]


@pytest.mark.slow
def test_on_pythons_own_documentation_less_is_learnt_by_heart():
    pages = pydoc_data.topics.topics.values()
    sentences = [sentence for page in pages for sentence in re.split(r"(?<=[.:])\s+|\n\n", page)]
    found = both(sentences, count=128, steps=240, seed=0)
    assert gap(found["with"]) < 0.5 * gap(found["without"])
    assert found["without"][0] < found["without"][1] - 0.3, "nothing was learnt by heart, so nothing was shown"


@pytest.mark.slow
@pytest.mark.skipif(not (PREPARED / "data" / "demo" / "clean").is_dir(), reason="the demo is not prepared here")
def test_on_the_demos_text_unseen_sentences_are_predicted_better():
    path = PREPARED / "data" / "demo" / "clean" / "en-00000.jsonl"
    sentences = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
    runs = [both(sentences, count=128, steps=400, seed=seed) for seed in range(3)]
    assert all(gap(found["with"]) < 0.5 * gap(found["without"]) for found in runs)
    assert np.mean([found["with"][1] - found["without"][1] for found in runs]) < 0
