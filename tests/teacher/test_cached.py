"""A cached teacher's losses are a resident's; a cache is the same bytes however written, and refuses strangers."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from kernels.divergence import divergence
from tests.runs import environment, metrics, train
from tests.tiny import make_workspace
from unibert import cache_teacher
from unibert.config import load_recipe
from unibert.data.batches import Stream
from unibert.data.shards import ShardSet
from unibert.errors import ConfigError, DataError
from unibert.models.teacher import load_resident, load_teacher
from unibert.models.wanted import Wanted
from unibert.resume import stream_fingerprints

CPU = torch.device("cpu")
LOGITS = Wanted(masked_logits=True, last_hidden=False)


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("cache"))


def recipe_of(file: Path, folder: Path, *words: str):
    own = ["--teacher.kind", "cached", "--teacher.cache_folder", str(folder), "--teacher.cache_shard_documents", "64"]
    return load_recipe(file, [*own, *words])


def stream_of(recipe) -> Stream:
    shards = ShardSet.open(recipe.data.folder / "shards", languages=recipe.languages)
    return Stream(recipe, shards, rank=0, world=1)


def opened(recipe):
    return load_teacher(recipe, device=CPU, fingerprints=stream_fingerprints(recipe, stream_of(recipe)))


def losses(recipe, teacher) -> torch.Tensor:
    """KL of each target of the run to a student that is neither teacher."""
    out = []
    generator = torch.Generator().manual_seed(1)
    for step in range(recipe.train.steps):
        for batch in stream_of(recipe).step(step):
            logits = teacher.forward(batch, LOGITS).masked_logits.float()
            student = 3 * torch.randn(logits.shape, generator=generator)
            out.append(divergence(student, 4 * logits, kind="forward_kl", temperature=2.0))
    return torch.cat(out)


@pytest.mark.parametrize(
    ("cache", "dtype", "within"),
    [
        ("hidden_int8", "fp32", 1e-3),
        ("hidden_int8", "bf16", 1e-3),
        ("hidden_bf16", "bf16", 1e-5),
        ("topk", "fp32", 1e-6),
    ],
)
def test_losses_are_a_residents(recipe_file, tmp_path, cache, dtype, within):
    """bf16 states against a resident teacher that computes in bf16: its states are kept as they are, and both heads are
    in fp32. int8 against one of either precision. All logits in topk: nothing is left out."""
    words = ("--teacher.cache", cache, "--teacher.dtype", dtype, "--teacher.head_dtype", "fp32")
    recipe = recipe_of(recipe_file, tmp_path / cache, *words, "--teacher.cache_topk", "1000")
    manifest = cache_teacher.run(recipe)
    assert len(manifest["shards"]) == 3 and manifest["documents"] == 6 * 32
    teacher = opened(recipe)
    own, resident = losses(recipe, teacher), losses(recipe, load_resident(recipe.teacher, device=CPU))
    assert own.mean().item() == pytest.approx(resident.mean().item(), rel=within)
    assert resident.mean() > 0.1
    teacher.close()


def test_layers_at_every_token_are_kept_when_asked(recipe_file, tmp_path):
    recipe = recipe_of(recipe_file, tmp_path, "--teacher.cache_layers", "[0, 2]", "--teacher.cache", "hidden_bf16")
    cache_teacher.run(recipe)
    teacher, resident = opened(recipe), load_resident(recipe.teacher, device=CPU)
    assert teacher.gives == Wanted(True, hidden=frozenset({0})) and teacher.gives_unmasked is None
    for batch in stream_of(recipe).step(2):
        real = batch.document >= 0
        own, exact = teacher.forward(batch, teacher.gives), resident.forward(batch, teacher.gives)
        torch.testing.assert_close(own.last_hidden[real].float(), exact.last_hidden[real], rtol=1e-2, atol=1e-2)
        torch.testing.assert_close(own.hidden[0][real].float(), exact.hidden[0][real], rtol=1e-2, atol=1e-2)
        assert not own.last_hidden[~real].any()


def test_a_wide_teacher_takes_130_bytes_a_token(recipe_file, tmp_path):
    from tests.teacher.small import make, save

    wide = {"hidden_size": 768, "num_hidden_layers": 1, "num_attention_heads": 12, "vocab_size": 300}
    folder = save(make("bert", **wide), tmp_path / "wide")
    recipe = recipe_of(recipe_file, tmp_path / "cache", "--teacher.path", str(folder), "--train.steps", "4")
    manifest = cache_teacher.run(recipe)
    assert manifest["targets"] > 0.10 * manifest["tokens"]
    headers = 4096 * len(manifest["shards"])  # of files that are a few hundred KiB here
    assert (manifest["bytes"] - headers) / manifest["targets"] * 0.15 < 130 and manifest["bytes_per_token"] < 135


def test_any_batch_that_reads_the_stream_reads_the_cache(recipe_file, tmp_path):
    cache_teacher.run(recipe_of(recipe_file, tmp_path))
    other = recipe_of(
        recipe_file, tmp_path, "--train.global_batch_sequences", "16", "--train.micro_batch_sequences", "4"
    )
    teacher = opened(other)
    resident = load_resident(other.teacher, device=CPU)
    for batch in stream_of(other).step(5):
        expected = resident.forward(batch, LOGITS).masked_logits
        torch.testing.assert_close(teacher.forward(batch, LOGITS).masked_logits, expected, rtol=0.02, atol=0.02)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.dist
def test_killed_and_begun_again_it_is_the_same_bytes(recipe_file, tmp_path):
    options = ["--teacher.kind", "cached", "--teacher.cache_shard_documents", "32"]

    def command(name):
        words = [sys.executable, "-m", "unibert", "cache-teacher", str(recipe_file), *options]
        return [*words, "--teacher.cache_folder", str(tmp_path / name)]

    subprocess.run(command("whole"), env=environment(), check=True, capture_output=True, timeout=120)
    process = subprocess.Popen(command("cut"), env=environment(), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 100
    while len(list((tmp_path / "cut").glob("*.done.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "cut" / "manifest.json").exists() or process.returncode == 0
    subprocess.run(command("cut"), env=environment(), check=True, capture_output=True, timeout=120)
    left = {name: data for name, data in files_of(tmp_path / "cut").items() if not name.endswith(".tmp")}
    assert left == files_of(tmp_path / "whole")


def test_a_damaged_shard_is_named_and_mended(recipe_file, tmp_path):
    recipe = recipe_of(recipe_file, tmp_path)
    cache_teacher.run(recipe)
    path = tmp_path / "00001.cache"
    data = bytearray(path.read_bytes())
    data[-100] ^= 4
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"00001\.cache: damaged"):
        losses(recipe, opened(recipe))
    path.write_bytes(data[:-1])
    with pytest.raises(DataError, match=r"00001\.cache: missing or cut off"):
        opened(recipe)
    cache_teacher.run(recipe)
    losses(recipe, opened(recipe))


@pytest.mark.parametrize(
    ("words", "error", "text"),
    [
        (("--train.seed", "2"), DataError, "another stream"),
        (("--masking.fraction", "0.2"), DataError, "another stream"),
        (("--train.steps", "7"), ConfigError, "train.steps = 7"),
        (("--teacher.cache", "topk"), ConfigError, "keeps hidden_int8"),
        (("--teacher.path", "{other}"), DataError, "another teacher"),
    ],
)
def test_what_is_not_of_the_run_is_refused(recipe_file, tmp_path, words, error, text):
    from transformers import AutoModelForMaskedLM

    from tests.teacher.small import save

    cache_teacher.run(recipe_of(recipe_file, tmp_path / "cache"))
    model = AutoModelForMaskedLM.from_pretrained(load_recipe(recipe_file).teacher.path)
    next(model.parameters()).data.add_(1e-3)
    other = save(model, tmp_path / "other")
    with pytest.raises(error, match=text):
        opened(recipe_of(recipe_file, tmp_path / "cache", *(word.format(other=other) for word in words)))


@pytest.mark.dist
def test_training_from_a_cache_is_training_from_the_teacher(recipe_file, tmp_path):
    """Losses of a whole run, two ranks; and what a cache lacks is refused before any work."""
    shared = ["--objectives.distill_logits.weight", "5", "--teacher.cache_folder", str(tmp_path / "cache")]
    file = tmp_path / "kd.toml"
    text = recipe_file.read_text().replace("[objectives.distill_hidden]\n", "")
    file.write_text(text.replace('name = "tiny"', 'name = "kd"'))
    cache_teacher.run(load_recipe(file, ["--teacher.kind", "cached", *shared]))
    folder = load_recipe(file).runs_folder
    for kind in ("resident", "cached"):
        train(file, "--teacher.kind", kind, "--name", kind, *shared, launcher="torchrun", world=2)
    own, exact = (metrics(folder / kind) for kind in ("cached", "resident"))
    assert len(own) == len(exact) == 6
    for mine, other in zip(own, exact, strict=True):
        assert mine["loss/distill_logits"] == pytest.approx(other["loss/distill_logits"], rel=1e-2, abs=1e-3)
        assert mine["loss/total"] == pytest.approx(other["loss/total"], rel=1e-3)
    said = train(recipe_file, "--teacher.kind", "cached", *shared, expect=2)
    assert "the last hidden state of every token" in said and "cache_layers" in said
