"""What users get wrong, through the real command: a clear word, the documented exit code, nothing lost."""

import json
import os
import shutil
import subprocess

import numpy as np
import pytest

from tests.runs import environment, finish, free_port, metrics, start, train
from tests.tiny import make_workspace
from unibert.data.shard_format import TokenizerFacts, language_entry, write_file
from unibert.data.shards import ShardSet


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("bad"))


@pytest.fixture
def own(recipe, tmp_path):
    """A workspace of this test's own, to be damaged."""
    folder = tmp_path / "own"
    shutil.copytree(recipe.parent, folder, ignore=shutil.ignore_patterns("runs"))
    path = folder / recipe.name
    path.write_text(path.read_text().replace(str(recipe.parent), str(folder)))
    return path


def refused(recipe, *options, code, says, env=None, world=1, launcher="alone"):
    output = finish(start(recipe, *options, env=env, world=world, launcher=launcher), expect=code)
    assert "Traceback" not in output
    for text in says:
        assert text in output, output[-2000:]


@pytest.mark.dist
def test_a_batch_that_does_not_divide(recipe):
    refused(
        recipe,
        "--train.global_batch_sequences",
        "30",
        code=2,
        says=["train.global_batch_sequences", "30", "24", "32"],
    )


@pytest.mark.dist
def test_a_json_that_says_what_the_recipe_owns(recipe, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"train_batch_size": 999, "zero_optimization": {"stage": 1}}))
    refused(recipe, "--engines.student", str(path), code=2, says=[str(path), "999", "train.global_batch_sequences"])


@pytest.mark.dist
def test_shards_of_another_tokenizer(own):
    tokenizer = own.parent / "data" / "tokenizer" / "tokenizer.json"
    tree = json.loads(tokenizer.read_text())
    tree["model"]["vocab"][10][0] += "x"
    tokenizer.write_text(json.dumps(tree))
    refused(own, code=3, says=["another tokenizer", "unibert data tokenize"])


@pytest.mark.dist
def test_shards_of_two_tokenizers(own):
    manifest = own.parent / "data" / "shards_heldout" / "manifest.json"
    tree = json.loads(manifest.read_text())
    tree["tokenizer"]["fingerprint"] = "0" * 32
    manifest.write_text(json.dumps(tree))
    refused(own, code=3, says=["shards_heldout: these shards were made with another tokenizer"])


@pytest.mark.dist
def test_a_language_with_fewer_samples_than_a_batch_is_trained_on(own):
    folder = own.parent / "data" / "shards"
    manifest = json.loads((folder / "manifest.json").read_text())
    shards = ShardSet.open(folder)
    few = [shards.sample(shards.languages.index("ru"), at) for at in range(3)]
    facts = TokenizerFacts.read(own.parent / "data" / "tokenizer")
    chunk = (np.concatenate(few), np.array([len(sample) for sample in few]))
    file = write_file(folder / "ru-00000.tokens", language="ru", chunks=[chunk], tokenizer=facts)
    manifest["languages"]["ru"] = language_entry([file], tokenizer=facts, facts={"characters": 100})
    (folder / "manifest.json").write_text(json.dumps(manifest))
    train(own, "--train.steps", "4", "--save.export=false")
    rows = metrics(own.parent / "runs" / "tiny")
    assert len(rows) == 4 and any("loss_by_language/ru" in row for row in rows)


@pytest.mark.dist
@pytest.mark.parametrize("how", ["missing", "cut off"])
def test_a_damaged_shard(own, how):
    victim = sorted((own.parent / "data" / "shards").glob("ru*.tokens"))[0]
    if how == "missing":
        victim.unlink()
    else:
        os.truncate(victim, victim.stat().st_size - 100)
    refused(own, code=3, says=[victim.name, "unibert data tokenize"])


@pytest.mark.dist
def test_more_ranks_than_samples(recipe):
    options = ["--train.global_batch_sequences", "2048", "--train.micro_batch_sequences", "1024"]
    refused(recipe, *options, code=3, says=["2048", "documents"])


@pytest.mark.dist
def test_a_stale_jit_lock(recipe, tmp_path):
    lock = tmp_path / "cpu_adam" / "lock"
    lock.parent.mkdir()
    lock.touch()
    refused(recipe, code=6, says=[str(lock.parent), "lock"], env={"TORCH_EXTENSIONS_DIR": str(tmp_path)})


@pytest.mark.dist
def test_resume_must_without_a_checkpoint(recipe):
    refused(recipe, "--resume", "must", "--name", "none", code=5, says=["no complete checkpoint"])


@pytest.mark.dist
def test_another_seed_cannot_continue_a_run(recipe):
    train(recipe, "--name", "seeded", "--train.steps", "3", "--save.export=false")
    refused(recipe, "--name", "seeded", "--train.seed", "5", code=5, says=["another stream", "train.seed"])


@pytest.mark.dist
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_while_saving_loses_nothing(own, tmp_path):
    runs = own.parent / "runs"
    runs.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(runs)], check=False).returncode:
        pytest.skip("this machine lets nobody mount")

    def resize(kib: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={kib}k", str(runs)], check=True)

    try:
        options = ["--save.every_steps", "2", "--save.export=false", "--save.keep_last", "9"]
        train(own, *options, "--train.steps", "2")
        checkpoint = sum(path.stat().st_size for path in runs.rglob("checkpoints/**/*") if path.is_file())
        # Room for the logs of the next steps, not for the next checkpoint.
        resize((shutil.disk_usage(runs).used + checkpoint // 2) // 1024)
        output = finish(start(own, *options, "--train.steps", "4"), expect=5)
        assert "the disk is full" in output
        assert "step_00000002" in [path.name for path in (runs / "tiny" / "checkpoints").iterdir()]
        resize(64 * 1024)
        train(own, *options, "--train.steps", "4")
        assert [row["step"] for row in metrics(runs / "tiny")] == [1, 2, 3, 4]
    finally:
        subprocess.run(["umount", "-l", str(runs)], check=False)


def test_wrong_keys_leave_with_2_without_importing_torch(recipe, tmp_path):
    process = subprocess.run(
        [*"python -X importtime -m unibert train".split(), str(recipe), "--train.stpes", "3", "--optim.x", "1"],
        env=environment(MASTER_PORT=str(free_port())),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 2
    assert "train.stpes: unknown key; perhaps you meant 'steps'" in process.stderr
    assert "optim: unknown key" in process.stderr
    assert "| torch" not in process.stderr
