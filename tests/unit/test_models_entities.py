"""E-BERT: the map from vectors to pieces, new tokens that begin there, and entities in the input; also on real text."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from tests.tiny import make_workspace
from tests.unit.small_vectors import texts_of, vectors_of, words_of
from unibert.errors import ConfigError, DataError
from unibert.models.entities import (
    Mention,
    Vectors,
    add_tokens,
    fit_map,
    map_vectors,
    read_vectors,
    shared_pieces,
    with_entities,
)

# Where the demo was prepared (data/demo and models/demo-teacher); this checkout when it is not said.
PREPARED = Path(os.environ.get("UNIBERT_PREPARED", Path(__file__).parents[2]))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = make_workspace(tmp_path_factory.mktemp("entities")).parent / "teacher"
    return AutoModelForMaskedLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def test_the_map_finds_a_linear_relation_under_noise():
    chance = np.random.default_rng(0)
    vectors, truth = chance.normal(size=(400, 8)), chance.normal(size=(8, 20))
    pieces = vectors @ truth + 0.1 * chance.normal(size=(400, 20))
    assert np.abs(fit_map(vectors, pieces) - truth).max() < 0.05
    assert np.linalg.norm(fit_map(vectors, pieces, ridge=1.0)) == pytest.approx(np.linalg.norm(truth) / 2, rel=0.1)
    with pytest.raises(DataError, match=r"7 words are shared .* width 8"):
        fit_map(vectors[:7], pieces[:7])


def test_words_that_are_one_piece_are_shared(model):
    _, tokenizer = model
    whole = [piece[1:] for piece in tokenizer.get_vocab() if piece.startswith("▁") and len(piece) > 2][:5]
    found = shared_pieces([*whole, "never-a-piece"], tokenizer)
    assert [tokenizer.convert_ids_to_tokens(piece) for piece in found.values()] == [f"▁{word}" for word in whole]
    assert list(found) == [0, 1, 2, 3, 4]


def test_vectors_are_read_from_text_and_from_arrays(tmp_path):
    rows = np.array([[1.5, -2.0], [0.25, 3.0]])
    (tmp_path / "a.txt").write_text("2 2\nParis 1.5 -2\nRoma 0.25 3.0\n")
    (tmp_path / "b.txt").write_text("Paris 1.5 -2 \nRoma 0.25 3.0\n")
    np.save(tmp_path / "c.npy", rows)
    (tmp_path / "c.txt").write_text("Paris\nRoma\n")
    (tmp_path / "b.vec").write_text("ENTITY/Jean_Marais 1 2 3\nRoma 1 2 3\n")
    for name in ("a.txt", "c.npy"):
        found = read_vectors(tmp_path / name)
        assert found.names == ("Paris", "Roma") and np.array_equal(found.rows_NK, rows)
    assert read_vectors(tmp_path / "b.vec").names[0] == "ENTITY/Jean_Marais"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r"bad\.vec holds no vectors"),
        ("Paris 1 2 3\nRoma 1 2\n", r"bad\.vec:2: 'Roma' has 2 numbers, and not 3"),
        ("2 2\nParis 1 2\nRoma 1 2 3\n", r"bad\.vec:3: 'Roma' has 3 numbers, and not 2"),
        ("Paris 1 x 3\n", r"bad\.vec:1: 'Paris': could not convert string to float: 'x'"),
        ("Roma 1 2 3\nParis 1 nan 3\n", r"bad\.vec:2: 'Paris' has a number that is not finite"),
        ("2 2\nParis 1 2\nParis 3 4\n", r"bad\.vec:3: 'Paris' stands in line 2 too"),
        ("3 2\nParis 1 2\nRoma 3 4\n", r"bad\.vec: its first line says 3 rows, and it has 2"),
    ],
    ids=["empty", "uneven", "not the header's", "word", "nan", "twice", "cut off"],
)
def test_bad_vectors_are_named_with_their_line(tmp_path, text, says):
    (tmp_path / "bad.vec").write_text(text)
    with pytest.raises(DataError, match=says):
        read_vectors(tmp_path / "bad.vec")


def test_only_the_rows_that_are_kept_are_read(tmp_path):
    (tmp_path / "some.vec").write_text("3 2\nParis 1 2\nRoma x y\nENTITY/Roma 3 4\n")
    found = read_vectors(tmp_path / "some.vec", keep=lambda name: name != "Roma")
    assert found.names == ("Paris", "ENTITY/Roma") and found.rows_NK.tolist() == [[1, 2], [3, 4]]


def test_new_tokens_begin_at_their_mapped_rows_and_the_folder_reloads(tmp_path, model):
    hf, tokenizer = (type(part).from_pretrained(part.name_or_path) for part in model)
    whole = [piece[1:] for piece in tokenizer.get_vocab() if piece.startswith("▁") and len(piece) > 2]
    shared = list(shared_pieces(whole, tokenizer).values())
    others = [piece for piece in range(20, 60) if piece not in shared][:2]
    rows = np.random.default_rng(1).normal(size=(len(shared) + 2, 12))
    with torch.no_grad():  # pieces that are a linear map of the vectors
        pieces = torch.from_numpy(rows @ np.random.default_rng(2).normal(size=(12, 32)) / 12).float()
        hf.get_input_embeddings().weight[shared + others] = pieces
    mapped = map_vectors(Vectors((*whole, "ENTITY/Aa", "ENTITY/Bb"), rows), hf, tokenizer)
    torch.testing.assert_close(mapped[-2:], pieces[-2:], atol=1e-4, rtol=1e-4)
    before = hf(torch.tensor([[0, *others, 2]])).logits
    new = add_tokens(hf, tokenizer, names=["ENTITY/Aa", "ENTITY/Bb"], rows_NH=mapped[-2:])
    hf.save_pretrained(tmp_path), tokenizer.save_pretrained(tmp_path)
    again, words = AutoModelForMaskedLM.from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(tmp_path)
    assert words("ENTITY/Bb").input_ids[1:-1] in ([new[1]], [words.convert_tokens_to_ids("▁"), new[1]])
    found = again(torch.tensor([[0, *new, 2]])).logits
    torch.testing.assert_close(found[..., : before.shape[-1]], before, atol=1e-3, rtol=1e-3)
    with pytest.raises(ConfigError, match="ENTITY/Aa: a token already"):
        add_tokens(hf, tokenizer, names=["ENTITY/Aa"], rows_NH=mapped[-2:-1])


def test_entities_take_part_in_a_text():
    text, slash = torch.arange(12.0).view(6, 2), torch.tensor([-5.0, -5.0])
    mentions = [Mention(1, 3, torch.tensor([100.0, 0.0])), Mention(5, 6, torch.tensor([200.0, 0.0]))]
    one, two = (mention.vector_H for mention in mentions)
    rows = {
        "replace": [text[0], one, text[3], text[4], two],
        "concat": [text[0], one, slash, text[1], text[2], text[3], text[4], two, slash, text[5]],
        "average": [text[0], (one + (text[1] + text[2]) / 2) / 2, text[3], text[4], (two + text[5]) / 2],
    }
    for mode, expected in rows.items():
        assert torch.equal(with_entities(text, mentions, mode=mode, slash_H=slash), torch.stack(expected)), mode
    assert torch.equal(with_entities(text, [], mode="replace"), text)


def test_an_entity_that_is_its_pieces_changes_nothing_for_the_encoder(model):
    hf, _ = model
    ids = torch.tensor([0, 7, 9, 11, 2])
    embeddings = hf.get_input_embeddings().weight[ids]
    mention = Mention(2, 3, embeddings[2])
    for mode in ("replace", "average"):
        found = hf(inputs_embeds=with_entities(embeddings, [mention], mode=mode)[None]).logits
        torch.testing.assert_close(found, hf(ids[None]).logits)


@pytest.mark.skipif(not (PREPARED / "models" / "demo-teacher").is_dir(), reason="the demo is not prepared here")
def test_on_real_text_words_that_the_map_has_not_seen_are_found_among_the_pieces():
    folder = PREPARED / "models" / "demo-teacher"
    hf, tokenizer = AutoModelForMaskedLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    vectors = vectors_of(
        words_of(texts_of(PREPARED / "data" / "demo" / "clean" / "en-00000.jsonl")), words=2000, width=80
    )
    shared = shared_pieces(vectors.names, tokenizer)
    rows, pieces = vectors.rows_NK[list(shared)], hf.get_input_embeddings().weight.detach()[list(shared.values())]
    pieces = pieces.double().numpy()
    order = np.random.default_rng(0).permutation(len(rows))
    seen, unseen = order[::2], order[1::2]

    def found_in_ten(teaching):
        mapped = rows[unseen] @ fit_map(rows[seen], pieces[teaching] - pieces[seen].mean(0), ridge=1.0)
        right = pieces[unseen] - pieces[seen].mean(0)
        near = mapped @ (right / np.linalg.norm(right, axis=1, keepdims=True)).T
        return ((near > np.diag(near)[:, None]).sum(1) < 10).mean()

    chance = 10 / len(unseen)
    assert len(unseen) > 300
    assert found_in_ten(seen) > 5 * chance, "the map carries no meaning over"
    assert found_in_ten(np.random.default_rng(1).permutation(seen)) < 2 * chance, "a map of wrong pairs finds as much"
