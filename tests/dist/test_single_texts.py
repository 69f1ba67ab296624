"""Every objective on single texts at once, in real runs: ranks and ZeRO stages change nothing but rounding."""

import json

import pytest

from tests import runs
from tests.tiny import make_workspace

pytestmark = pytest.mark.dist

OBJECTIVES = """
[objectives.masked_lm]
[objectives.distill_hidden]
layers = "uniform"
project = true
[objectives.distill_logits]
divergence = "js"
positions = "all"
[objectives.distill_attention]
form = "kl"
layers = [[1, 2]]
[objectives.distill_relations]
pairs = ["qk", "vv"]
relation_heads = 2
[objectives.language_guess]
[objectives.language_confusion]
form = "label_flip"
"""
DROPOUTS = [
    "--student.activation_dropout=0.1",
    "--student.projection_dropout=0.1",
    "--student.output_dropout=0.1",
    "--student.layer_drop=0.5",
    "--data.drop_tokens=0.2",
]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = make_workspace(tmp_path_factory.mktemp("single"))
    head = path.read_text().split("[objectives.masked_lm]")[0].replace('feature = "mean"', 'feature = "tokens"')
    path.write_text(head + OBJECTIVES)
    return path


def losses(recipe, name):
    rows = runs.metrics(recipe.parent / "runs" / name)
    assert rows
    return [{tag: value for tag, value in row.items() if tag.startswith(("loss", "adv"))} for row in rows]


def test_ranks_and_zero_3_have_the_losses_of_one_process(recipe):
    runs.train(recipe, "--name=alone", "--engines.student=zero1_fp32")
    stage_3 = json.loads((runs.ROOT / "ds_configs" / "zero3.json").read_text()) | {"bf16": {"enabled": False}}
    (recipe.parent / "zero3_fp32.json").write_text(json.dumps(stage_3))
    engine = f"--engines.student={recipe.parent / 'zero3_fp32.json'}"
    runs.train(recipe, "--name=two", "--train.micro_batch_sequences=4", engine, launcher="torchrun", world=2)
    for one, two in zip(losses(recipe, "alone"), losses(recipe, "two"), strict=True):
        assert two == pytest.approx(one, rel=1e-4, abs=1e-5)
        assert {f"loss/{name}" for name in ("distill_attention", "distill_relations", "distill_hidden")} < one.keys()


@pytest.fixture(scope="module")
def without_maps(recipe):
    """What goes together with layers that are left out at random."""
    path, text = recipe.with_name("dropouts.toml"), recipe.read_text()
    head, tail = text.split("[objectives.distill_attention]")
    path.write_text(head + tail[tail.index("[objectives.language_guess]") :])
    return path


def test_every_dropout_goes_through_zero_3_on_two_ranks(without_maps):
    runs.train(without_maps, "--name=ranks", *DROPOUTS, "--engines.student=zero3", launcher="torchrun", world=2)
    assert len(losses(without_maps, "ranks")) == 6


@pytest.mark.slow
def test_every_dropout_resumes_bitwise(without_maps):
    runs.train(without_maps, "--name=whole", *DROPOUTS)
    runs.train(without_maps, "--name=part", *DROPOUTS, "--train.time_limit_minutes=1e-4", expect=75)
    runs.train(without_maps, "--name=part", *DROPOUTS)
    assert losses(without_maps, "whole") == losses(without_maps, "part")
