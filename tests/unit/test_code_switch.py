import csv
import os
import re
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from tests.unit.small_data import write_teacher
from unibert.data.code_switch import exchange, read_ends, sides
from unibert.data.mixture import Documents

LABELLED = Path(os.environ.get("UNIBERT_LABELLED_DATA", Path(__file__).parents[3] / "shared" / "data"))


def test_each_way_equally_often_and_always_the_same():
    examples = [f"nli:{i}" for i in range(6000)]
    chosen = [sides(example, languages=("de", "en", "ur")) for example in examples]
    counts = Counter(chosen)
    assert set(counts) == {("de", "en"), ("en", "de"), ("ur", "en"), ("en", "ur")}
    assert all(count == pytest.approx(1500, abs=150) for count in counts.values())
    assert chosen == [sides(example, languages=("de", "en", "ur")) for example in examples]
    assert chosen != [sides(example, languages=("de", "en", "ur"), seed=1) for example in examples]
    assert sides("x", languages=("en",)) == ("en", "en")


PAIRS = [  # English, German, whether they can be switched
    (
        "The file could not be opened. Save the page before you leave. An unknown error occurred.",
        "Die Datei konnte nicht geöffnet werden. Speichern Sie die Seite. Größe ändern und schließen.",
        True,
    ),
    ("Save... The page.", "Seite... Die Datei.", True),
    ("The file could not be opened. Save the page", "Die Datei Speichern Sie die Seite.", False),
    ("An unknown error occurred.", "Die Seite.", False),
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("switch"), codes=("en", "de"))


def read(tokenizer: Path) -> tuple[Documents, np.ndarray, Tokenizer]:
    own = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    texts = [np.array(own.encode(text).ids) for en, de, _ in PAIRS for text in (en, de)]
    count = len(texts)
    documents = Documents(
        texts,
        np.arange(100, 100 + count, dtype=np.uint64),
        np.arange(count) % 2,
        np.zeros(count, dtype=np.int64),
        np.arange(count).reshape(-1, 2),
    )
    return documents, read_ends(tokenizer, vocabulary_size=own.get_vocab_size()), own


def test_pairs_exchange_their_later_sentences(tokenizer):
    documents, ends, own = read(tokenizer)
    switched = exchange(documents, fraction=1.0, ends=ends, seed=3)
    for (a, b), (en, de, possible) in zip(documents.pairs.tolist(), PAIRS, strict=True):
        before = [documents.texts[d].tolist() for d in (a, b)]
        after = [switched.texts[d].tolist() for d in (a, b)]
        assert sorted(before[0] + before[1]) == sorted(after[0] + after[1]), "nothing is lost"
        assert (before != after) == possible
        if possible:
            first, second = (re.findall(r".+?[.]+(?: |$)", text) for text in (en, de))
            ways = [
                ["".join(first[:k] + second[k:]).strip(), "".join(second[:k] + first[k:]).strip()]
                for k in range(1, len(first))
            ]
            assert [own.decode(text) for text in after] in ways


def test_the_share_is_met_and_a_pure_function_of_the_pair(tokenizer):
    documents, ends, _ = read(tokenizer)
    many = 400
    texts = [documents.texts[d] for _ in range(many) for d in (0, 1)]
    one = Documents(
        texts,
        np.arange(2 * many, dtype=np.uint64),
        np.arange(2 * many) % 2,
        np.zeros(2 * many, dtype=np.int64),
        np.arange(2 * many).reshape(-1, 2),
    )
    switched = exchange(one, fraction=0.3, ends=ends, seed=1).texts
    changed = [len(new) != len(old) or (new != old).any() for new, old in zip(switched[::2], texts[::2], strict=True)]
    assert np.mean(changed) == pytest.approx(0.3, abs=0.07)
    assert all(new is old for new, old in zip(exchange(one, fraction=0.0, ends=ends, seed=1).texts, texts, strict=True))


# --- on real labelled text --------------------------------------------------------------------------------------------

DE, EN = "de", "en"
BUCKETS, SIZE = 1 << 14, 48


def similarity_pairs(part: str) -> list[tuple[dict[str, tuple[str, str]], float]]:
    """STS-B's examples, in both languages each."""
    rows = {}
    for code in (EN, DE):
        with (LABELLED / "stsb" / f"stsb-{code}-{part}.csv").open(encoding="utf-8", newline="") as file:
            rows[code] = list(csv.reader(file))
    both = zip(rows[EN], rows[DE], strict=True)
    return [({EN: (en[0], en[1]), DE: (de[0], de[1])}, float(en[2])) for en, de in both if en[2] == de[2]]


def bags(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    words = [
        [zlib.crc32(word.encode()) % BUCKETS for word in re.findall(r"\w+", text.lower())] or [0] for text in texts
    ]
    starts = np.cumsum([0, *map(len, words[:-1])])
    return torch.tensor([word for text in words for word in text]), torch.tensor(starts)


def correlation(choose, *, test) -> float:
    """Of a mean-of-word-vectors model, trained on the examples that `choose` makes of STS-B, on mixed pairs."""
    torch.manual_seed(0)
    model = torch.nn.EmbeddingBag(BUCKETS, SIZE, mode="mean")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    train = similarity_pairs("train")

    def judged(rows) -> torch.Tensor:
        first, second = (model(*bags([row[side] for row in rows])) for side in (0, 1))
        return torch.nn.functional.cosine_similarity(first, second)

    for epoch in range(4):
        rows = [choose(f"sts:{i}", texts, epoch) for i, (texts, _) in enumerate(train)]
        for at in range(0, len(rows), 128):
            loss = (
                (judged(rows[at : at + 128]) - torch.tensor([s / 5 for _, s in train[at : at + 128]])).square().mean()
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        found = judged([(texts[DE][0], texts[EN][1]) for texts, _ in test])
    return float(np.corrcoef(found.numpy(), [score for _, score in test])[0, 1])


@pytest.mark.skipif(not (LABELLED / "stsb").is_dir(), reason=f"no labelled sets in {LABELLED}")
def test_switched_examples_teach_to_compare_across_languages():
    """As many examples of either language, whole or switched: only the latter make a German premise and an English
    hypothesis comparable."""

    def whole(example, texts, epoch):
        return texts[sides(example, languages=(DE, EN), seed=epoch)[0]]

    def switched(example, texts, epoch):
        first, second = sides(example, languages=(DE, EN), seed=epoch)
        return texts[first][0], texts[second][1]

    test = similarity_pairs("dev")
    apart, across = correlation(whole, test=test), correlation(switched, test=test)
    print(f"STS-B dev, German against English: whole {apart:.3f}, switched {across:.3f}")
    assert across > apart + 0.05
