"""`unibert entities`: plain text is read with entities, the folder loads without unibert, and on real text it helps."""

import json
import os
import pydoc_data.topics
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    PreTrainedTokenizerFast,
)

from tests.tiny import make_workspace
from tests.unit.small_vectors import texts_of, vectors_of, words_of, write_vectors
from unibert.cli import main
from unibert.models.entities import Vectors
from unibert.models.entity_model import PREFIX
from unibert.models.folders import newest_export

# Where the demo was prepared (data/demo and models/demo-teacher); this checkout when it is not said.
PREPARED = Path(os.environ.get("UNIBERT_PREPARED", Path(__file__).parents[2]))
ENTITIES = ("ENTITY/Jean_Marais", "ENTITY/Paris", "ENTITY/東京")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("entity_model")).parent / "teacher"


@pytest.fixture(scope="module")
def vectors(teacher, tmp_path_factory) -> Path:
    """Of the teacher's own words, and of three entities."""
    pieces = AutoTokenizer.from_pretrained(teacher).get_vocab()
    words = [piece[1:] for piece in pieces if piece.startswith("▁") and len(piece) > 2]
    rows = np.random.default_rng(0).normal(size=(len(words) + 3, 8))
    return write_vectors(tmp_path_factory.mktemp("vectors") / "v.txt", Vectors((*words, *ENTITIES), rows))


def command(*words: object) -> None:
    main(["entities", *map(str, words)])


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("replace", ["ENTITY/Jean_Marais", "ENTITY/Paris", "ENTITY/東京"]),
        ("concat", ["ENTITY/Jean_Marais", "/ jean marais", "ENTITY/Paris", "/ paris", "ENTITY/東京", "/ 東京"]),
        ("average", ["ENTITY/Jean_Marais", "ENTITY/Paris", "ENTITY/東京"]),
    ],
)
def test_names_in_plain_text_are_read_as_entities(tmp_path, teacher, vectors, mode, expected):
    command(teacher, vectors, tmp_path / "out", "--mode", mode)
    words = AutoTokenizer.from_pretrained(tmp_path / "out")
    normalized = words.backend_tokenizer.normalizer.normalize_str("Jean Marais, Paris: Parisian 東京は")
    written = re.findall(r"ENTITY/[^\s,:は/]+|/ (?:Jean Marais|Paris|東京)", normalized)
    assert [part if part.startswith("E") else part.lower() for part in written] == expected
    assert "Parisian" in normalized
    tokens = [token.strip() for token in words.tokenize("I saw Jean Marais in Paris.")]
    assert [token for token in tokens if token.startswith(PREFIX)] == ["ENTITY/Jean_Marais", "ENTITY/Paris"]
    once = words.tokenize("ENTITY/Paris / Paris")  # as a linker, or concat itself, writes it
    assert sum("ENTITY/Paris" in token for token in once) == 1
    assert json.loads((tmp_path / "out" / "entities.json").read_text())["entities"] == 3
    assert "1911.03681" in (tmp_path / "out" / "README.md").read_text()


def test_the_folder_loads_and_reads_other_text_as_before(tmp_path, teacher, vectors):
    command(teacher, vectors, tmp_path / "out")
    command(teacher, vectors, tmp_path / "mean", "--mode", "average")
    old, new, mean = (AutoModelForMaskedLM.from_pretrained(p) for p in (teacher, tmp_path / "out", tmp_path / "mean"))
    before, words = AutoTokenizer.from_pretrained(teacher), AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "".join(piece.replace("▁", " ") for piece in list(before.get_vocab())[40:60])
    ids = words(text, return_tensors="pt")["input_ids"]
    assert torch.equal(ids, before(text, return_tensors="pt")["input_ids"])
    size = old.config.vocab_size
    assert new.config.vocab_size == len(words) == size + 3
    torch.testing.assert_close(new(ids).logits[..., :size], old(ids).logits, atol=1e-5, rtol=1e-5)
    assert AutoModel.from_pretrained(tmp_path / "out").get_input_embeddings().weight.shape[0] == size + 3
    rows = [model.get_input_embeddings().weight.detach() for model in (old, new, mean)]
    token = words.convert_tokens_to_ids("ENTITY/Jean_Marais")
    pieces = rows[0][before("Jean Marais", add_special_tokens=False)["input_ids"]].mean(0)
    torch.testing.assert_close(rows[2][token], (rows[1][token] + pieces) / 2)


def test_a_table_longer_than_its_tokenizer_and_no_head(tmp_path, teacher, vectors):
    """As multilingual-e5's: the new tokens take the spare rows."""
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    config = BertConfig.from_pretrained(teacher, vocab_size=len(tokenizer) + 2)
    BertModel(config).save_pretrained(tmp_path / "bare")
    tokenizer.save_pretrained(tmp_path / "bare")
    command(tmp_path / "bare", vectors, tmp_path / "out")
    old, new = (AutoModel.from_pretrained(tmp_path / name) for name in ("bare", "out"))
    assert new.config.architectures == ["BertModel"] and new.config.vocab_size == len(tokenizer) + 3
    own = len(tokenizer)
    assert torch.equal(new.get_input_embeddings().weight[:own], old.get_input_embeddings().weight[:own])
    ids = AutoTokenizer.from_pretrained(tmp_path / "out")("Paris")["input_ids"]
    assert own + 1 in ids and max(ids) < len(tokenizer) + 3


def test_only_some_entities(tmp_path, teacher, vectors):
    (tmp_path / "some.txt").write_text("Jean Marais\nENTITY/東京\n", encoding="utf-8")
    command(teacher, vectors, tmp_path / "out", "--only", tmp_path / "some.txt")
    known = AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()
    assert [name in known for name in ENTITIES] == [True, False, True]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ENTITY/A 1 2\nENTITY/B 1 2\n", "0 words are shared"),
        ("the 1 2\nof 1 2\n", "no row begins with ENTITY/"),
        ("ENTITY/A 1 2\nENTITY/A 3 4\n", "v.txt:2: 'ENTITY/A' stands in line 1 too"),
        ("ENTITY/A 1 2\nENTITY/_ 3 4\n", "'ENTITY/_' has no name"),
        ("ENTITY/A 1 2\nENTITY/B 1\n", "v.txt:2: 'ENTITY/B' has 1 numbers, and not 2"),
        ("ENTITY/A 1 2\nENTITY/B 1 one\n", "v.txt:2: 'ENTITY/B': could not convert"),
    ],
)
def test_bad_input_is_an_error_without_a_folder(tmp_path, teacher, capsys, text, says):
    (tmp_path / "v.txt").write_text(text)
    with pytest.raises(SystemExit) as left:
        command(teacher, tmp_path / "v.txt", tmp_path / "out")
    assert left.value.code == 3 and says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_not_overwritten_and_the_missing_is_named(tmp_path, teacher, vectors, capsys):
    def fails(*words) -> str:
        with pytest.raises(SystemExit):
            command(*words)
        return capsys.readouterr().err

    assert "is there already" in fails(teacher, vectors, teacher)
    assert "no model here" in fails(tmp_path / "nothing", vectors, tmp_path / "out")
    assert "cannot be read as vectors" in fails(teacher, tmp_path / "nothing.txt", tmp_path / "out")
    (tmp_path / "some.txt").write_text("Roma\n")
    missing = fails(teacher, vectors, tmp_path / "out", "--only", tmp_path / "some.txt")
    assert "1 of its entities are not in" in missing and "ENTITY/Roma" in missing
    command(teacher, vectors, tmp_path / "out")
    assert "a token already" in fails(tmp_path / "out", vectors, tmp_path / "twice")


# --- on real text -----------------------------------------------------------------------------------------------------


def exchanged(rows: torch.Tensor) -> torch.Tensor:
    """Each entity with the row of another: as long, as typical, and wrong."""
    return rows.roll(len(rows) // 2, 0)


def found_in_ten(rows: torch.Tensor, words: torch.Tensor, right: list[int]) -> float:
    """Share of rows whose own word is among the ten that are nearest by cosine, all seen from their mean."""
    middle = words.mean(0)
    near = torch.nn.functional.normalize(rows - middle, dim=1) @ torch.nn.functional.normalize(words - middle, dim=1).T
    own = near[torch.arange(len(rows)), torch.tensor(right)]
    return ((near > own[:, None]).sum(1) < 10).double().mean().item()


def test_on_pythons_own_documentation_entities_come_to_lie_by_their_words(tmp_path):
    """A model whose embeddings are made of one half of the text, vectors of the other half: the text is all they share.

    Every fourth word is an entity in the vectors' half, so that the map is not fitted on it.
    """
    sentences = [s for topic in pydoc_data.topics.topics.values() for s in re.split(r"(?<=[.:])\s+|\n\n", topic)]
    lines = words_of(sentences)
    embeddings = vectors_of(lines[::2], words=800, width=48)
    secret = {name for i, name in enumerate(embeddings.names) if i % 4 == 3 and name.isalpha()}
    other = [[f"{PREFIX}{word}" if word in secret else word for word in line] for line in lines[1::2]]
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    ids = {word: i for i, word in enumerate([*specials, *embeddings.names])}
    own = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    names = dict(zip(["pad_token", "unk_token", "cls_token", "sep_token", "mask_token"], specials, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=own, **names).save_pretrained(tmp_path / "model")
    config = BertConfig(
        vocab_size=len(ids), hidden_size=48, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48
    )
    hf = BertForMaskedLM(config)
    with torch.no_grad():
        hf.get_input_embeddings().weight[5:] = torch.from_numpy(embeddings.rows_NK.copy()).float()
    hf.save_pretrained(tmp_path / "model")
    vectors = write_vectors(tmp_path / "v.txt", vectors_of(other, words=800, width=32))
    command(tmp_path / "model", vectors, tmp_path / "out", "--ridge", 0.1)
    table = AutoModel.from_pretrained(tmp_path / "out").get_input_embeddings().weight.detach()
    known = {
        name: i for name, i in AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab().items() if i >= len(ids)
    }
    rows, right = table[list(known.values())], [ids[name.removeprefix(PREFIX)] - 5 for name in known]
    assert len(rows) > 80
    found, wrong = (found_in_ten(r, table[5 : len(ids)], right) for r in (rows, exchanged(rows)))
    print(f"own word among the ten nearest of {len(ids) - 5}: {found:.3f}, with rows exchanged {wrong:.3f}")
    assert found > 5 * max(wrong, 10 / 800), "the map carries no meaning over"


def masked_reading(folder: Path, *, sentences: list[str], entities: list[str]) -> dict[str, float]:
    """How a model reads the sentences: `asked` is the mean reciprocal rank of a masked entity among all of them, and
    `beside` the cross-entropy, in nats, of the masked token before or after an entity that it sees; each with the
    entities' own rows, and with rows exchanged."""
    hf, tokenizer = AutoModelForMaskedLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor(tokenizer.convert_tokens_to_ids(entities))
    table = hf.get_input_embeddings().weight
    own, out = table.detach()[ids].clone(), {}
    for kind, rows in (("own", own), ("exchanged", exchanged(own))):
        with torch.no_grad():
            table[ids] = rows
        ranks, nats = [], []
        for text in sentences:
            whole = tokenizer(text, return_tensors="pt", truncation=True, max_length=64)["input_ids"][0]
            for place in torch.isin(whole, ids).nonzero().squeeze(1).tolist():
                beside = [p for p in (place - 1, place + 1) if 0 < p < len(whole) - 1 and whole[p] not in ids]
                asked = [place, *beside]
                shown = whole.repeat(len(asked), 1)
                shown[torch.arange(len(asked)), torch.tensor(asked)] = tokenizer.mask_token_id
                with torch.no_grad():
                    hidden = hf.base_model(shown).last_hidden_state[torch.arange(len(asked)), torch.tensor(asked)]
                    logits = hf.cls(hidden)
                said = logits[0, ids]
                ranks.append(1 / (1 + (said > logits[0, whole[place]]).sum().item()))
                if beside:
                    nats.append(torch.nn.functional.cross_entropy(logits[1:], whole[beside], reduction="mean").item())
        out |= {f"asked, {kind}": float(np.mean(ranks)), f"beside, {kind}": float(np.mean(nats)), "count": len(ranks)}
    return out


@pytest.mark.slow
@pytest.mark.skipif(not (PREPARED / "models" / "demo-teacher").is_dir(), reason="the demo is not prepared here")
def test_on_real_text_a_model_knows_entities_it_was_never_trained_on(tmp_path):
    """Frequent words of the demo's English are entities, and so strangers to the model: their vectors come from its
    training text, and the model is asked about held-out text."""
    run = PREPARED / "runs" / "demo_teacher"  # the teacher with a masked-LM head that was fitted longer
    model = newest_export(run if run.is_dir() else PREPARED / "models" / "demo-teacher")
    data = PREPARED / "data" / "demo"
    lines = words_of(texts_of(data / "clean" / "en-00000.jsonl"))
    messages = (json.loads(line)["texts"] for line in (data / "heldout" / "parallel.jsonl").read_text().splitlines())
    heldout = [texts["en"].lower() for texts in messages if "en" in texts]
    heldout += [text.lower() for text in texts_of(data / "heldout" / "lines" / "en.jsonl")]
    often = [
        word for word, _ in Counter(word for line in lines for word in line).most_common(900)[60:] if len(word) > 3
    ]
    asked = {word for line in words_of(heldout) for word in line}
    secret = [word for word in often if word in asked][:60]
    entities = [f"{PREFIX}{word}" for word in secret]
    marked = [[f"{PREFIX}{word}" if word in set(secret) else word for word in line] for line in lines]
    vectors = write_vectors(tmp_path / "v.txt", vectors_of(marked, words=2000, width=80))
    command(model, vectors, tmp_path / "out", "--ridge", 1.0)

    table = AutoModel.from_pretrained(tmp_path / "out").get_input_embeddings().weight.detach()
    pieces = AutoTokenizer.from_pretrained(model).get_vocab()
    words = [word for word, _ in Counter(word for line in lines for word in line).most_common(2000)]
    words = [word for word in words if f"▁{word}" in pieces]
    rows = table[AutoTokenizer.from_pretrained(tmp_path / "out").convert_tokens_to_ids(entities)]
    whole = [i for i, word in enumerate(secret) if word in words]
    near = table[[pieces[f"▁{word}"] for word in words]]
    right = [words.index(secret[i]) for i in whole]
    found, wrong = (found_in_ten(r[whole], near, right) for r in (rows, exchanged(rows)))
    naming = [text for text in heldout if set(secret) & set(re.findall(r"\w+", text))][:80]
    read = masked_reading(tmp_path / "out", sentences=naming, entities=entities)
    print(f"own word among the ten nearest of {len(words)}: {found:.3f}, exchanged {wrong:.3f}; {read}")
    assert found > 5 * max(wrong, 10 / len(words)), "the map carries no meaning over"
    assert read["asked, own"] > 1.2 * read["asked, exchanged"], "a masked entity is not told from another"
