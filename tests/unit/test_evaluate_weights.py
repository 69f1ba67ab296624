"""Weights that are missing or not finite give no scores."""

import itertools
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny import make_teacher, make_tokenizer
from transformers import AutoTokenizer

from tests.unit.small_labelled import make_labelled
from unibert.errors import DataError, NumericsError
from unibert.evaluate.finetune.heads import TaskModel
from unibert.evaluate.finetune.loop import outputs_of
from unibert.evaluate.finetune.plan import make_plan
from unibert.evaluate.finetune.rows import make_row
from unibert.evaluate.finetune.run import find_model, judge
from unibert.evaluate.finetune.settings import Settings
from unibert.evaluate.finetune.windows import Windows
from unibert.evaluate.tasks import TASKS

QUICK = Settings(learning_rates=(1e-3,), epochs=1, batch=16, max_tokens=48, stride=8)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged")
    make_teacher(folder / "model", make_tokenizer(folder / "tokenizer"), layers=1)
    return folder


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return make_labelled(tmp_path_factory.mktemp("labelled"))


def but(weights, words):
    return {name: value for name, value in weights.items() if words not in name}


def without_weights(place, folder, change):
    """The model with changed weights."""
    shutil.copytree(place / "model", folder)
    weights = change(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def test_an_encoder_without_its_weights_is_refused_before_any_training(place, labelled, tmp_path):
    prefixed = without_weights(
        place, tmp_path / "prefixed", lambda weights: {f"student.{name}": value for name, value in weights.items()}
    )
    cut = without_weights(place, tmp_path / "cut", lambda weights: but(weights, "layer.0"))
    for folder, task in itertools.product((prefixed, cut), ("nli", "retrieval")):
        with pytest.raises(DataError, match=r"weights.* are missing, the first is .*; write the folder again"):
            judge([str(place / "model"), folder], [task], labelled, tmp_path / "r.jsonl", settings=QUICK)
        assert not (tmp_path / "r.jsonl").exists()
    with pytest.raises(DataError, match="weights of the encoder are missing"):
        TaskModel(Path(prefixed), "classes", outputs=3)
    body = without_weights(place, tmp_path / "body", lambda weights: but(weights, "pooler"))
    assert TaskModel(Path(body), "classes", outputs=3).body.num_parameters() > 0


def test_answers_that_are_not_finite_are_no_scores(place, labelled, tmp_path):
    def spoilt(weights):
        (name,) = (name for name in weights if name.endswith("layer.0.output.dense.weight"))
        return weights | {name: weights[name] * float("nan")}

    nan = without_weights(place, tmp_path / "nan", spoilt)
    for task in ("sts", "retrieval", "word_translation", "language_probe", "masked", "nli"):
        with pytest.raises(NumericsError):
            judge([nan], [task], labelled, tmp_path / "r.jsonl", seeds=1, settings=QUICK)
        assert not (tmp_path / "r.jsonl").exists()
    plan = make_plan(TASKS["nli"], labelled, settings=QUICK)
    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    windows = Windows(tokenizer, max_tokens=48, settings=QUICK).of(plan.train[:2], "classes", labels=plan.labels)
    with pytest.raises(NumericsError, match="not finite"):
        outputs_of(TaskModel(Path(nan), "classes", outputs=3), windows, settings=QUICK, padding=1)


def test_a_prediction_that_is_not_finite_makes_no_row(place, labelled):
    model, plan = find_model(str(place / "model")), make_plan(TASKS["sts"], labelled, settings=QUICK, tuned=False)
    how = {"key": "k", "purpose": "test", "seed": 0, "way": "untuned", "rate": None, "sizes": (2, 1), "began": 0.0}
    where = plan.tests[0]
    predictions = [0.5] * (len(where[3]) - 1) + [float("nan")]
    with pytest.raises(NumericsError, match=f"1 of {len(predictions)} predictions are not finite"):
        make_row(model, plan, where, predictions, settings={}, **how)
