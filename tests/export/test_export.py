"""What an export computes is what the trainer's encoder computes, from every ZeRO stage."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from tests.runs import ROOT, environment, free_port
from tests.tiny import LANGUAGES, make_workspace, sentences
from unibert.config import load_recipe, to_toml
from unibert.errors import CheckpointError, DataError
from unibert.export import export_run, write_hf
from unibert.models.encoder import load_encoder
from unibert.models.student import build_student


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("export"))


@pytest.fixture
def recipe(recipe_file):
    return load_recipe(recipe_file)


def trained_a_little(recipe, *options):
    """A student whose every weight differs from what it began with."""
    encoder = build_student(recipe).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return encoder


def answers(encoder, tokenizer):
    """(hidden states of the real tokens, logits there) of some text, by the trainer's own way."""
    ids = tokenizer([sentences(code, count=1, seed=8)[0] for code in LANGUAGES], padding=True, return_tensors="pt")
    seen = ids["attention_mask"].bool()
    places = torch.arange(seen.shape[1]).expand_as(ids["input_ids"])
    targets = seen.flatten().nonzero().squeeze(1)
    owner = torch.where(seen, torch.arange(len(seen))[:, None], -1)
    with torch.no_grad():
        out = encoder(ids["input_ids"], places, owner, targets)
    return ids, out.last_hidden[seen], out.masked_logits


def test_the_folder_loads_and_computes_the_same(recipe, tmp_path):
    encoder = trained_a_little(recipe)
    state = torch.get_rng_state()
    folder = write_hf(encoder, recipe=recipe, folder=tmp_path / "hf", step=5, facts={})
    assert torch.equal(state, torch.get_rng_state())  # training goes on after an export as without it
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids, states, logits = answers(encoder, tokenizer)
    seen = ids["attention_mask"].bool()
    masked_lm, info = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and masked_lm.dtype == torch.float32
    assert masked_lm.cls.predictions.decoder.weight is masked_lm.bert.embeddings.word_embeddings.weight
    body = AutoModel.from_pretrained(folder, add_pooling_layer=False)
    with torch.no_grad():
        plain = {key: ids[key] for key in ("input_ids", "attention_mask")}
        torch.testing.assert_close(masked_lm.eval()(**plain).logits[seen], logits, rtol=0, atol=1e-5)
        torch.testing.assert_close(body.eval()(**plain).last_hidden_state[seen], states, rtol=0, atol=1e-5)
    text = sentences("ru", count=1)[0]
    before = AutoTokenizer.from_pretrained(recipe.data.folder / "tokenizer")
    assert tokenizer(text)["input_ids"] == before(text)["input_ids"]
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    assert (folder / "tokenizer.json").read_bytes() == (
        recipe.data.folder / "tokenizer" / "tokenizer.json"
    ).read_bytes()


def test_a_state_is_as_good_as_the_encoder(recipe, tmp_path):
    encoder = trained_a_little(recipe)
    low = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    # ZeRO gives one of two tied names
    del low["hf.cls.predictions.decoder.weight"], low["hf.cls.predictions.decoder.bias"]
    write_hf(low, recipe=recipe, folder=tmp_path / "hf", step=5, facts={})
    loaded, _ = load_encoder(tmp_path / "hf")
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, encoder.state_dict()[name]), name


def test_a_partial_state_is_refused_and_leaves_what_was_there(recipe, tmp_path):
    encoder = trained_a_little(recipe)
    folder = write_hf(encoder, recipe=recipe, folder=tmp_path / "hf", step=5, facts={})
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    name = "hf.bert.encoder.layer.0.output.dense.weight"
    for change, words in ((None, "missing"), (torch.zeros(0), "ZeRO-3")):
        state = {key: value for key, value in encoder.state_dict().items() if key != name}
        state |= {} if change is None else {name: change}
        with pytest.raises(CheckpointError, match=words):
            write_hf(state, recipe=recipe, folder=folder, step=6, facts={})
    foreign = load_recipe_with_tokenizer(recipe, tmp_path)
    with pytest.raises(DataError, match="not a pair"):
        write_hf(encoder, recipe=foreign, folder=folder, step=6, facts={})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def load_recipe_with_tokenizer(recipe, folder):
    (folder / "tokenizer").mkdir()
    for path in (recipe.data.folder / "tokenizer").iterdir():
        tree = json.loads(path.read_text())
        if path.name == "tokenizer.json":
            tree["model"]["vocab"] = tree["model"]["vocab"][:-9]
        (folder / "tokenizer" / path.name).write_text(json.dumps(tree))
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"folder": folder})})


def test_the_card_says_what_the_model_is(recipe, tmp_path):
    raw = recipe.data.folder / "raw"
    raw.mkdir(exist_ok=True)
    stamp = {"rows": 1234, "licence": "GPL-2.0-or-later"}
    (raw / "manifest.json").write_text(json.dumps({"sources": {"mediawiki": stamp}}))
    command = ["/somewhere/unibert/__main__.py", "train", "my recipe.toml", "--train.steps", "6"]
    facts = {"tokens read": 56789, "loss/masked_lm": 1.23456, "command": command}
    folder = write_hf(trained_a_little(recipe), recipe=recipe, folder=tmp_path / "hf", step=5, facts=facts)
    card = ModelCard.load(folder / "README.md")
    assert card.data.language == ["multilingual", "ar", "de", "en", "ru"]
    assert (card.data.library_name, card.data.pipeline_tag, card.data.license) == ("transformers", "fill-mask", "other")
    for words in (
        "5 optimizer steps", "| distill_logits | 0.5 |", "rising to 0.2", "| mediawiki | 1,234 | GPL-2.0-or-later |",
        "Russian (ru)", "56,789", "1.235", "python -m unibert train 'my recipe.toml' --train.steps 6",
        "arXiv:2503.12608", "arXiv:1810.04805", "arXiv:1505.07818", "layers 1 ", "## Limits",
    ):  # fmt: skip
        assert words in card.text, words
    shares = [float(line.split("|")[4].split("%")[0]) for line in card.text.splitlines() if line.endswith(" % |")]
    assert len(shares) == len(LANGUAGES) and abs(sum(shares) - 100) < 0.05
    recipe_text = card.text.split("```toml\n")[1].split("```")[0]
    assert recipe_text == to_toml(recipe)


# One process trains the same student under every stage and precision, for two ranks; each saves as the trainer does.
TRAIN = """
import json, sys, torch, torch.distributed as dist
from pathlib import Path
from unibert.config import load_recipe, to_toml
from unibert.models.student import build_student
from unibert.runtime import checkpoint, dist as ranks_module, dsconfig, optimizers
from unibert.runtime.players import Player, Players
ranks = ranks_module.start(threads=1)
for case in json.loads(sys.argv[2]):
    recipe = load_recipe(sys.argv[1], ["--name", case["name"], "--student.trainable", case["trainable"]])
    student = build_student(recipe)
    config = {"zero_optimization": {"stage": case["stage"], "stage3_param_persistence_threshold": 0},
              "bf16": {"enabled": case["bf16"]}}
    optimizer = optimizers.build(student, table=recipe.optimizer, stage=case["stage"])
    player = Player("student", module=student, optimizer=optimizer, config=config, micro_batch=2, accumulation=1,
                    world=ranks.world, clip_norm=1.0, bf16_is_faster=False)
    ids = torch.arange(5, 15).view(2, 5) + ranks.rank
    places, owner, targets = torch.arange(5).expand(2, 5), torch.tensor([[0] * 5, [1] * 5]), torch.tensor([1, 7])
    for _ in range(2):
        player.at_boundary(True)
        out = player.engine(ids, places, owner, targets)
        player.backward(torch.nn.functional.cross_entropy(out.masked_logits.float(), ids.flatten()[targets]))
        player.move()
    state = checkpoint.State(2, 8, 40, ranks.world, {}, {"torch": torch.__version__})
    folder = recipe.run_folder / "checkpoints"
    saver = checkpoint.Saver(folder, ranks=ranks, table=recipe.save)
    saver.begin(players=Players([player]), state=state)
    saver.finish()
    player.engine.eval()
    ids = torch.arange(5, 15).view(2, 5)
    with torch.no_grad():
        out = player.engine(ids, places, owner, torch.arange(10))
    if ranks.is_first:
        (recipe.run_folder / "recipe.toml").write_text(to_toml(recipe))
        torch.save(out.masked_logits.float(), recipe.run_folder / "logits.pt")
    dist.barrier()
ranks_module.stop()
"""
CASES = [
    {
        "name": f"stage{stage}_{'bf16' if bf16 else 'fp32'}_{trainable}",
        "stage": stage,
        "bf16": bf16,
        "trainable": trainable,
    }
    for stage in (0, 1, 2, 3)
    for bf16, trainable in ((False, "all_but_embeddings"), (True, "all"), (True, "all_but_embeddings"))
    if stage in (0, 1) or trainable != "all"
]


@pytest.fixture(scope="module")
def runs(recipe_file) -> Path:
    script = recipe_file.parent / "train.py"
    script.write_text(TRAIN)
    torchrun = Path(sys.executable).parent / "torchrun"
    words = [str(torchrun), "--nproc_per_node", "2", "--master_port", str(free_port()), str(script)]
    done = subprocess.run(
        [*words, str(recipe_file), json.dumps(CASES)],
        env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return load_recipe(recipe_file).runs_folder


@pytest.mark.dist
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_checkpoint_of_any_stage_becomes_the_model_that_was_trained(runs, case):
    run = runs / case["name"]
    folder = export_run(run)
    assert folder == run / "hf" / "step_00000002"
    loaded, has_head = load_encoder(folder)
    assert has_head and next(loaded.parameters()).dtype == torch.float32
    ids = torch.arange(5, 15).view(2, 5)
    with torch.no_grad():
        logits = loaded.eval().hf(input_ids=ids).logits.flatten(0, 1)
    trained = torch.load(run / "logits.pt")
    assert (logits - trained).abs().max() < (0.05 if case["bf16"] else 1e-5)
    teacher, _ = load_encoder(load_recipe(run / "recipe.toml").teacher.path)
    table, before = (e.hf.bert.embeddings.word_embeddings.weight for e in (loaded, teacher))
    if case["trainable"] == "all":
        assert not torch.equal(table, before)
    else:  # frozen: exactly as copied, rounded where it was used rounded
        assert torch.equal(table, before.bfloat16().float() if case["bf16"] else before)
    if case["bf16"]:  # the fp32 masters, not the rounded weights that the forward used
        weight = loaded.hf.bert.encoder.layer[0].output.dense.weight
        assert not torch.equal(weight, weight.bfloat16().float())
        assert torch.equal(table, table.bfloat16().float()) is (case["trainable"] != "all")


@pytest.mark.dist
def test_a_step_or_run_that_is_not_there_is_named(runs, tmp_path):
    with pytest.raises(CheckpointError, match=r"step 7.*step_00000002"):
        export_run(runs / CASES[0]["name"], step=7)
    with pytest.raises(CheckpointError, match=r"recipe\.toml"):
        export_run(tmp_path)
    unreadable = runs / CASES[-1]["name"] / "checkpoints" / "step_00000002" / "student"
    (unreadable / "rank_00001.safetensors").unlink()
    with pytest.raises(CheckpointError):
        export_run(runs / CASES[-1]["name"], step=2)
    assert os.listdir(runs / CASES[-1]["name"] / "hf") in ([], ["step_00000002"])
