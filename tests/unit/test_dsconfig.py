import json

import pytest

from tests.runs import ROOT
from unibert.errors import ConfigError
from unibert.runtime import dsconfig

OWNED = {"train_batch_size": 64, "train_micro_batch_size_per_gpu": 8, "gradient_clipping": 1.0}


def write(folder, tree):
    path = folder / "engine.json"
    path.write_text(tree if isinstance(tree, str) else json.dumps(tree))
    return str(path)


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "ds_configs").glob("*.json")))
def test_every_shipped_file_is_accepted_by_deepspeed(name):
    from deepspeed.runtime.config import DeepSpeedConfig

    tree = dsconfig.load(name, owned=OWNED)
    filled = dsconfig.complete(tree, micro_batch=8, accumulation=8, world=1, clip_norm=0.0, bf16_is_faster=True)
    config = DeepSpeedConfig(filled)
    assert config.gradient_clipping == 0.0
    assert config.zero_optimization_stage == dsconfig.stage(tree)
    assert config.bfloat16_config.enabled == ("bf16" in tree)


def test_bf16_auto_follows_the_device():
    tree = {"bf16": {"enabled": "auto"}}
    keys = {"micro_batch": 1, "accumulation": 1, "world": 1, "clip_norm": 1.0}
    assert dsconfig.complete(tree, **keys, bf16_is_faster=True)["bf16"]["enabled"] is True
    assert "bf16" not in dsconfig.complete(tree, **keys, bf16_is_faster=False)


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"train_batch_size": 32}, r"train_batch_size = 32: the recipe's train.global_batch_sequences \(which says 64"),
        ({"gradient_clipping": 0.5}, "optimizer.clip_norm"),
        ({"optimizer": {"type": "Lamb"}}, r"belongs to the recipe's \[optimizer\]"),
        ({"zero_optimisation": {}}, "perhaps you meant 'zero_optimization'"),
        ({"torch_autocast": {"enabled": True}}, "belongs to the tables bf16 and fp16"),
        ({"fooo": 1}, "ignore this key in silence"),
        ({"zero_optimization": {"stage": 2, "round_robin_gradients": True}}, "round_robin"),
        ("{", "not valid JSON"),
    ],
)
def test_what_the_recipe_owns_and_what_deepspeed_ignores_is_refused(tmp_path, tree, said):
    with pytest.raises(ConfigError, match=said):
        dsconfig.load(write(tmp_path, tree), owned=OWNED)


def test_a_literal_that_agrees_is_fine(tmp_path):
    assert dsconfig.load(write(tmp_path, {"train_batch_size": 64}), owned=OWNED)["train_batch_size"] == 64


def test_two_faults_are_named_together(tmp_path):
    with pytest.raises(ConfigError, match="2 thing"):
        dsconfig.load(write(tmp_path, {"fooo": 1, "scheduler": {}}), owned=OWNED)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ConfigError, match="perhaps you meant 'zero1'"):
        dsconfig.find("zro1")
