"""Fine-tuning with a tiny random encoder: windows hold what they should, heads learn, and nothing is measured twice."""

import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import make_teacher, make_tokenizer, sentences, words

from tests.unit.small_labelled import make_labelled
from unibert.errors import DataError
from unibert.evaluate.compare.report import write_report
from unibert.evaluate.finetune import loop
from unibert.evaluate.finetune.decoding import best_span
from unibert.evaluate.finetune.heads import TaskModel, collate
from unibert.evaluate.finetune.loop import fit, outputs_of, predict
from unibert.evaluate.finetune.plan import make_plan
from unibert.evaluate.finetune.run import find_model, judge
from unibert.evaluate.finetune.settings import Settings
from unibert.evaluate.finetune.windows import Windows, window_starts
from unibert.evaluate.results_file import Results, read_results
from unibert.evaluate.tasks import TASKS
from unibert.evaluate.tasks.ner import Sentence
from unibert.evaluate.tasks.nli import Pair
from unibert.evaluate.tasks.qa import Question

QUICK = Settings(learning_rates=(1e-3,), epochs=1, batch=16, max_tokens=48, stride=8)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged")
    make_teacher(folder / "model", make_tokenizer(folder / "tokenizer"), layers=1)
    return folder


@pytest.fixture(scope="module")
def tokenizer(place):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(place / "model")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return make_labelled(tmp_path_factory.mktemp("labelled"))


# --- windows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 9, 10, 11, 16, 17, 50])
def test_windows_cover_a_context(length):
    starts = window_starts(length, room=10, stride=4)
    covered = {i for start in starts for i in range(start, start + 10)}
    assert set(range(length)) <= covered
    assert all(b - a == 6 for a, b in itertools.pairwise(starts))
    assert len(starts) == 1 or starts[-2] + 10 < length, "no window that adds nothing"


def test_an_answer_is_in_a_window_with_its_characters(tokenizer):
    context = " ".join(sentences("en", count=12))
    text = context.split()
    start = len(" ".join(text[:30])) + 1
    answer = " ".join(text[30:33])
    question = Question("1", "1", context, sentences("en", count=1)[0], ((answer, start),))
    windows = Windows(tokenizer, max_tokens=48, settings=QUICK).of([question], "span")
    assert len(windows) > 3
    held = [window for window in windows if window.targets != (0, 0)]
    assert held
    for window in windows:
        (row,) = window.rows
        assert len(row.ids) <= 48 and len(row.places) == 1 + len(window.marks)
        assert row.ids[0] == tokenizer.cls_token_id and row.ids.count(tokenizer.sep_token_id) == 2
    for window in held:
        first, last = (window.marks[int(target) - 1] for target in window.targets)
        assert context[first[0] : last[1]].strip() == answer


def test_a_long_sentence_keeps_every_tag(tokenizer):
    text = " ".join(sentences("de", count=20)).split()
    example = Sentence("1", "1", tuple(text), tuple("B-X" if i % 3 else "O" for i in range(len(text))))
    windows = Windows(tokenizer, max_tokens=24, settings=QUICK).of([example], "tokens", labels=["B-X", "O"])
    assert [mark for window in windows for mark in window.marks] == list(range(len(text)))
    targets = [target for window in windows for target in window.targets]
    assert targets == [0 if i % 3 else 1 for i in range(len(text))]


def test_pairs_are_cut_at_the_longer_side(tokenizer):
    long, short = " ".join(sentences("en", count=20)), " ".join(words("en")[:3])
    (window,) = Windows(tokenizer, max_tokens=32, settings=QUICK).of([Pair("1", "1", long, short, "2.5")], "value")
    (row,) = window.rows
    kept = tokenizer(short, add_special_tokens=False)["input_ids"]
    assert len(row.ids) == 32 and list(row.ids[row.second :]) == [*kept, tokenizer.sep_token_id]
    assert window.targets == (0.5,)


def test_a_conversation_reads_the_past(tokenizer):
    history = tuple((f"{word} one", word) for word in sentences("en", count=3))
    windows = Windows(tokenizer, max_tokens=48, settings=QUICK)
    new, old = (
        windows.of([Question("1", "1", sentences("en", count=9)[8], "abc", (), past)], "conversation")[0]
        for past in ((), history)
    )
    assert [bool(row.ids) for row in new.rows] == [True, False, False, False, False]
    assert all(row.ids for row in old.rows) and len({len(row.places) for row in old.rows}) == 1


# --- heads and decoding -----------------------------------------------------------------------------------------------


def test_best_span_is_that_of_loops():
    chance = torch.Generator().manual_seed(0)
    for _ in range(50):
        scores = torch.randn(9, 2, generator=chance)
        pairs = [(float(scores[i, 0] + scores[j, 1]), i, j) for i in range(9) for j in range(i, min(9, i + 3))]
        assert best_span(scores, longest=3) == pytest.approx(max(pairs))


@pytest.mark.parametrize("head", ["tokens", "classes", "value", "span", "conversation"])
def test_padding_and_neighbours_change_nothing(place, tokenizer, labelled, head):
    task = next(task for task in TASKS.values() if task.head == head)
    plan = make_plan(task, labelled, settings=QUICK)
    torch.manual_seed(0)
    turns = 5 if head == "conversation" else 1
    model = TaskModel(place / "model", head, outputs=max(2, len(plan.labels)), turns=turns).eval()
    windows = Windows(tokenizer, max_tokens=48, settings=QUICK).of(plan.train[:6], head, labels=plan.labels)
    together = model(collate(windows, padding=tokenizer.pad_token_id))
    for window, out in zip(windows, together, strict=True):
        alone = model(collate([window], padding=tokenizer.pad_token_id))[0]
        assert torch.allclose(alone, out[: len(alone)], atol=1e-5)
    assert torch.isfinite(model.loss(collate(windows, padding=tokenizer.pad_token_id)))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_conversations_of_any_length_are_read_alone(place, tokenizer, precision):
    """Texts of 1 to 24 words with 0 to 3 past turns, side by side in one batch: the recurrent layer sees its own."""
    settings = replace(QUICK, precision=precision, batch=3)
    text = " ".join(sentences("en", count=9)).split()
    examples = [
        Question(
            "1", "1", " ".join(text[:length]), text[length], ((text[0], 0),) * (length > 1), ((text[3], "x"),) * past
        )
        for length, past in [(24, 0), (1, 2), (7, 1), (24, 3), (2, 0)]
    ]
    torch.manual_seed(0)
    model = TaskModel(place / "model", "conversation", outputs=2, turns=5)
    windows = Windows(tokenizer, max_tokens=48, settings=settings).of(examples, "conversation")
    padding = tokenizer.pad_token_id
    together = outputs_of(model, windows, settings=settings, padding=padding)
    assert len({len(window.marks) for window in windows}) > 3
    for window, out in zip(windows, together, strict=True):
        (alone,) = outputs_of(model, [window], settings=settings, padding=padding)
        assert len(alone) == 1 + len(window.marks) and alone.any(1).all(), "every place is read"
        assert torch.allclose(alone, out[: len(alone)], atol=1e-5 if precision == "fp32" else 2e-2)
    assert np.isfinite(fit(model, windows, rate=1e-3, seed=0, settings=settings, padding=padding))


def test_encoder_and_head_learn_sentences_by_heart(place, tokenizer, labelled, monkeypatch, capsys):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_LINES", 0.0)
    settings = Settings(epochs=60, batch=8, max_tokens=48)
    plan = make_plan(TASKS["ner"], labelled, settings=settings)
    torch.manual_seed(0)
    model = TaskModel(place / "model", "tokens", outputs=len(plan.labels), dropout=0.0)
    few = plan.train[:8]
    read = Windows(tokenizer, max_tokens=48, settings=settings).of(few, "tokens", labels=plan.labels)
    loss = fit(model, read, rate=1e-2, seed=0, settings=settings, padding=1, what="by heart")
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("by heart: step 1 of 60, mean loss of the epoch ")
    assert said[-1] == f"by heart: step 60 of 60, mean loss of the epoch {loss:.3f}"
    found = predict(model, read, few, labels=plan.labels, settings=settings, padding=1, may_be_empty=False)
    assert sum(tag != "O" for example in few for tag in example.tags) > 0
    right = np.mean([p == t for tags, e in zip(found, few, strict=True) for p, t in zip(tags, e.tags, strict=True)])
    assert right > 0.95


# --- the whole --------------------------------------------------------------------------------------------------------


def test_every_task_once_and_never_twice(place, labelled, tmp_path, capsys):
    results = tmp_path / "results.jsonl"
    model = str(place / "model")
    how = {"seeds": 1, "settings": QUICK}
    judge([model, f"again={model}"], list(TASKS), labelled, results, **how)
    rows = read_results(results)
    assert {row.task for row in rows} == set(TASKS) and {row.model for row in rows} == {"model", "again"}
    assert {row.way for row in rows if row.task == "sts"} == {"untuned", "zero-shot"}
    by_model = [[(row.place, row.values) for row in rows if row.model == name] for name in ("model", "again")]
    assert by_model[0] == by_model[1], "the same weights and seed give the same numbers"
    before = results.read_bytes()
    capsys.readouterr()
    judge([model, f"again={model}"], list(TASKS), labelled, results, **how)
    assert results.read_bytes() == before and capsys.readouterr().out == ""
    lines = before.splitlines(keepends=True)
    results.write_bytes(b"".join(lines[:-1]) + lines[-1][:50])  # stopped in the middle of a line
    judge([model, f"again={model}"], list(TASKS), labelled, results, **how)
    again = read_results(results)
    assert [row.values for row in again] == [row.values for row in rows]


def test_rows_say_how_they_were_measured(place, labelled, tmp_path):
    """A report refuses to average what differs, and masked tokens compare at one width alone."""
    found, model = {}, str(place / "model")
    for tokens in (32, 48):
        settings = replace(QUICK, max_tokens=tokens, train_limit=tokens // 2)
        file = judge([model], ["sts", "masked"], labelled, tmp_path / f"{tokens}", seeds=1, settings=settings)
        found[tokens] = file.rows
    for first, second in zip(found[32], found[48], strict=True):
        assert first.place == second.place and (first.settings["max_tokens"], second.settings["max_tokens"]) == (32, 48)
        assert (first.data == second.data) == (first.task != "masked")
        tuned = first.way == "zero-shot"
        assert (first.settings.get("training data") != second.settings.get("training data")) == tuned
        assert first.settings.get("epochs") == (1 if tuned else None)
    both = tmp_path / "both"
    both.write_bytes((tmp_path / "32").read_bytes() + (tmp_path / "48").read_bytes())
    with pytest.raises(DataError, match=r"measured twice with seed 0, .*max_tokens 32 and 48"):
        write_report([both], tmp_path / "report")


def test_the_rate_is_chosen_on_the_sources_dev(place, labelled, tmp_path):
    settings = replace(QUICK, learning_rates=(1e-9, 1e-2), epochs=4)
    rows = judge([str(place / "model")], ["ner"], labelled, tmp_path / "r.jsonl", seeds=2, settings=settings).rows
    tried = {row.learning_rate: row.values["f1"] for row in rows if row.purpose == "tuning"}
    used = {row.learning_rate for row in rows if row.purpose == "test"}
    assert set(tried) == {1e-9, 1e-2} and used == {max(tried, key=lambda rate: tried[rate])}
    assert {(row.language, row.seed) for row in rows if row.purpose == "test"} == {
        (code, seed) for code in ("de", "en", "ru") for seed in (0, 1)
    }


def test_a_joint_dev_set_is_of_all_languages_and_said(place, tmp_path):
    data = make_labelled(tmp_path / "data")
    joint = replace(QUICK, learning_rates=(1e-9, 1e-2), dev="joint")
    with pytest.raises(DataError, match="leave --dev joint out"):
        make_plan(TASKS["ner"], data, settings=joint)
    for code in ("de", "fr"):  # French has dev alone: it would be measured on what chose the rate
        (data / "ner" / code).mkdir(exist_ok=True)
        (data / "ner" / code / "dev.txt").write_text((data / "ner" / "de" / "test.txt").read_text())
    assert "fr" in {where[2] for where in make_plan(TASKS["ner"], data, settings=QUICK).tests}
    rows = judge([str(place / "model")], ["ner"], data, tmp_path / "r.jsonl", seeds=1, settings=joint).rows
    tried = {}
    for row in rows:
        if row.purpose == "tuning":
            tried.setdefault(row.learning_rate, {})[row.language] = row.values["f1"]
    assert all(set(found) == {"en", "de", "fr"} for found in tried.values()) and len(tried) == 2
    tests = [row for row in rows if row.purpose == "test"]
    assert {row.source for row in tests} == {"en, joint dev"} and "fr" not in {row.language for row in tests}
    best = max(tried, key=lambda rate: np.mean(list(tried[rate].values())))
    assert {row.learning_rate for row in tests} == {best}


def test_force_measures_again_and_the_newer_row_counts(place, labelled, tmp_path):
    results = tmp_path / "r.jsonl"
    how = (["retrieval"], labelled, results)
    first = judge([str(place / "model")], *how, settings=QUICK).rows
    spoilt = [row.model_copy(update={"seconds": 1e9}) for row in first]
    results.write_text("".join(row.model_dump_json() + "\n" for row in spoilt))
    assert judge([str(place / "model")], *how, settings=QUICK).rows == spoilt
    again = judge([str(place / "model")], *how, settings=QUICK, force=True).rows
    assert [row.values for row in again] == [row.values for row in first] and max(row.seconds for row in again) < 1e9
    assert read_results(results) == again


def test_what_a_model_cost_is_known_from_its_run(place, tmp_path):
    import shutil

    export = tmp_path / "run" / "hf" / "step_00000002"
    shutil.copytree(place / "model", export)
    assert find_model(str(tmp_path / "run")).cost == (None, None)
    (tmp_path / "run" / "recipe.toml").touch()
    steps = [{"step": i, "progress/tokens": 900.0 * i, "speed/tokens_per_second": 0.5} for i in range(1, 4)]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [{"step": 0}, *steps]))
    assert find_model(str(tmp_path / "run")).cost == (1800, 1.0), "of the steps up to the export"


def test_processes_share_the_work_and_one_file(place, labelled, tmp_path, monkeypatch):
    how = (["ner", "retrieval"], labelled, tmp_path / "r.jsonl")
    shares = []
    for rank in (1, 0):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        before = set() if rank else {row.key for row in shares[0]}
        done = judge([str(place / "model")], *how, seeds=2, settings=QUICK).rows
        shares.append([row for row in done if row.key not in before])
    assert all(shares) and len(read_results(how[-1])) == sum(map(len, shares))
    alone = tmp_path / "alone.jsonl"
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    judge([str(place / "model")], *how[:2], alone, seeds=2, settings=QUICK)
    values = [{row.key: row.values for row in read_results(path)} for path in (how[-1], alone)]
    assert values[0] == values[1]


def test_a_row_that_another_process_did_not_finish_is_cut_before_the_next(place, labelled, tmp_path):
    rows = judge([str(place / "model")], ["retrieval"], labelled, tmp_path / "r.jsonl", settings=QUICK).rows
    shared = Results(tmp_path / "shared.jsonl")
    shared.add(rows[0])
    with shared.path.open("ab") as file:
        file.write(b'{"key": "half of a row' + b"x" * (1 << 21))
    shared.add(rows[1])
    assert read_results(shared.path) == rows[:2]


@pytest.mark.parametrize("part", ["config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors"])
def test_a_model_is_another_one_when_any_part_of_it_is(place, tmp_path, part):
    import shutil

    shutil.copytree(place / "model", tmp_path / "copy")
    same = find_model(str(tmp_path / "copy")).weights
    with (tmp_path / "copy" / part).open("ab") as file:
        file.write(b"\n")
    assert find_model(str(place / "model")).weights == same != find_model(str(tmp_path / "copy")).weights


def test_models_that_cannot_be_judged(place, labelled, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="name some of ner"):
        judge([str(place / "model")], ["pos"], labelled, tmp_path / "r.jsonl")
    with pytest.raises(DataError, match="two models are called"):
        judge([str(place / "model")] * 2, ["ner"], labelled, tmp_path / "r.jsonl")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text("{}")
    with pytest.raises(DataError, match=r"no tokenizer\.json"):
        find_model(str(tmp_path / "bare"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="no such folder"):
        find_model(str(tmp_path / "nowhere"))


SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the labelled data beside the project is not there")
@pytest.mark.parametrize(
    ("task", "more"), [("ner", ["--source", "sw"]), ("nli", []), ("qa", []), ("sts", []), ("retrieval", [])]
)
def test_real_files_from_the_command_line(place, tmp_path, task, more):
    how = ["--limit", "40", "--epochs", "1", "--seeds", "1", "--rates", "5e-5", "--max-tokens", "64", "--split-source"]
    line = [sys.executable, "-m", "unibert", "evaluate", str(place / "model"), "--tasks", task, "--data", str(SHARED)]
    done = subprocess.run([*line, *how, *more], cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(np.isfinite(json.loads(row)["values"][row_metric]) for row, row_metric in metrics(tmp_path))


def metrics(folder):
    lines = (folder / "results.jsonl").read_text().splitlines()
    assert lines
    return [(line, json.loads(line)["metric"]) for line in lines]


def test_the_command_says_what_is_missing(tmp_path, capsys):
    from unibert.cli import main

    for given, said in {
        ("--tasks", "ner"): "name at least one model",
        ("a", "b"): "several models need --tasks",
        ("a", "--tasks", "ner", "--train.steps", "3"): "has no recipe",
        ("a", "--tasks", "ner", "--data", str(tmp_path)): "no labelled files",
    }.items():
        with pytest.raises(SystemExit) as left:
            main(["evaluate", *given])
        assert left.value.code in (2, 3) and said in capsys.readouterr().err
