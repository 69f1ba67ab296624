"""`unibert evaluate MODEL --tasks ...` and `unibert report`: what cannot be is refused before anything is read."""

import shutil
from pathlib import Path

import pytest
from tiny import make_teacher, make_tokenizer

from tests.unit.small_results import row
from unibert.cli import main
from unibert.errors import ConfigError, DataError
from unibert.evaluate.finetune.subject import find_model, parted


def refused(capsys, *words):
    """What the command says when it leaves with the code of a wrong command line."""
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    said = capsys.readouterr()
    assert left.value.code == 2 and not said.out, said
    return said.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--seeds 0", "--seeds 0: must be 1 or more"),
        ("--seeds -2", "--seeds -2: must be 1 or more"),
        ("--epochs 0", "--epochs 0: must be 1 or more"),
        ("--train-limit 0", "--train-limit 0: must be 1 or more"),
        ("--max-tokens 15", "--max-tokens 15: must be 16 or more"),
        ("--rates", "--rates without a number: name learning rates above 0"),
        ("--rates 0", "--rates 0: name learning rates above 0"),
        ("--rates 2e-5 nan", "--rates 2e-05 nan: name"),
        ("--rates inf", "--rates inf: name"),
        ("--rates -1", "--rates -1: name"),
        ("--mode distil", "--mode distil and --task-teacher MODEL go together"),
        ("--task-teacher t", "--mode distil and --task-teacher MODEL go together"),
        ("--results .", "--results .: it is a folder: name a file, as in results.jsonl"),
        ("--results file/r.jsonl", "--results file/r.jsonl: file is a file: name another file"),
        ("--tasks nlu", "--tasks nlu: nlu is no task: name some of ner, nli"),
        ("--tasks nli,", "--tasks nli,: nothing is no task"),
        ("other/m", "two models are called m: name them, as in first=PATH"),
        ("=m", "model '=m': say where it lies and what it is called, as in NAME=PATH"),
        ("x=", "model 'x=': say where it lies"),
    ],
)
def test_evaluate_refuses_what_cannot_be(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    given = words.split()
    tasks = [] if "--tasks" in given else ["--tasks", "nli, sts"]
    assert said in refused(capsys, "evaluate", "m", *given, *tasks)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--resamples 0", "--resamples 0: must be 1 or more"),
        ("--resamples -5", "--resamples -5: must be 1 or more"),
        ("--out r.jsonl", "--out r.jsonl: r.jsonl is a file: name another folder"),
        ("--out r.jsonl/deep/er", "--out r.jsonl/deep/er: r.jsonl is a file: name another folder"),
        ("--ours a", "--ours needs --reference MODEL"),
        ("--reference nobody", "--reference: no results of nobody; name some of those there are: a, b"),
        ("--reference a --ours b", "--ours b: without the reference a there are b: name some of these, and not all"),
    ],
)
def test_report_refuses_what_cannot_be(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.jsonl").write_text("".join(row(m, "de", [1, 0]).model_dump_json() + "\n" for m in "ab"))
    assert said in refused(capsys, "report", "r.jsonl", *words.split())
    assert [path.name for path in tmp_path.iterdir()] == ["r.jsonl"]


def test_a_folder_may_have_an_equals_sign_and_dots_are_resolved(tmp_path, monkeypatch):
    make_teacher(tmp_path / "m" / "lr=3", make_tokenizer(tmp_path / "tokenizer"), layers=1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for word, name in {"m/lr=3": "lr=3", "m/lr=3/": "lr=3", "a=m/lr=3": "a", f"b={tmp_path}/m/lr=3": "b"}.items():
        model = find_model(word)
        assert model.name == name and model.folder.resolve() == tmp_path / "m" / "lr=3"
    with pytest.raises(DataError, match="m/lr=4: no such folder, and 4 no model that the hub gives"):
        find_model("m/lr=4")
    monkeypatch.chdir(tmp_path / "m" / "lr=3")
    assert find_model(".").name == "lr=3" and parted("../../m/..") == (tmp_path.name, "../../m/..")
    assert parted("intfloat/e5") == ("e5", "intfloat/e5")
    Path("link").symlink_to(tmp_path / "m", target_is_directory=True)
    assert parted("link")[0] == "link", "what one calls it, not where it leads"
    shutil.rmtree(tmp_path / "tokenizer")
    for word in ("", "=", "/"):
        with pytest.raises(ConfigError, match="as in NAME=PATH"):
            parted(word)
