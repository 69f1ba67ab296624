"""Label-free distillation: the divergence is scipy's, words match whatever the pieces, and the student learns."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from tiny import make_teacher, make_tokenizer, words

from tests.unit.small_labelled import make_labelled
from unibert.errors import DataError
from unibert.evaluate.finetune.distil import answers_of, divergence_loss
from unibert.evaluate.finetune.heads import collate
from unibert.evaluate.finetune.plan import make_plan
from unibert.evaluate.finetune.run import judge
from unibert.evaluate.finetune.settings import Settings
from unibert.evaluate.finetune.subject import find_model
from unibert.evaluate.finetune.tuned import Tuned
from unibert.evaluate.finetune.windows import Row, Window
from unibert.evaluate.results_file import Results
from unibert.evaluate.tasks import TASKS

HOW = Settings(learning_rates=(1e-2,), epochs=15, batch=8, max_tokens=48, stride=8)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distil")
    make_teacher(folder / "model", make_tokenizer(folder / "tokenizer"), layers=1)
    make_labelled(folder / "data")
    return folder


def test_the_loss_is_scipys_divergence_of_words_that_both_have():
    chance = torch.Generator().manual_seed(0)
    # The teacher reads four words in two windows, the student five in one, of which the teacher lacks the last.
    row = Row((1, 5, 5, 5, 5, 5, 2), 7, (1, 2, 3, 4, 5))
    halves = [Window(0, (row,), (), (0, 1)), Window(0, (row,), (), (2, 3))]
    taught = [torch.randn(2, 3, generator=chance) for _ in halves]
    answers = answers_of(taught, halves, examples=1)
    whole = Window(0, (row,), (0, 0, 0, 0, 0), (0, 1, 2, 3, 4))
    student = torch.randn(1, 5, 3, generator=chance, requires_grad=True)
    loss = divergence_loss(student, collate([whole], padding=0), [whole], answers)
    p_s, p_t = student[0, :4].detach().softmax(-1).numpy(), torch.cat(taught).softmax(-1).numpy()
    expected = np.mean([jensenshannon(one, other) ** 2 for one, other in zip(p_s, p_t, strict=True)])
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    loss.backward()
    assert student.grad is not None and not student.grad[0, 4].any() and student.grad[0, :4].any()


def nli_of_words(folder):
    """The label of a pair is decided by its first word: something that can be learnt; training has no German label."""
    for split, codes, count in (("train", ("en",), 150), ("dev", ("en",), 20), ("test", ("en", "de"), 60)):
        for code in codes:
            chance, rows = random.Random(f"{split}:{code}"), ["premise\thypothesis\tlabel"]
            for _ in range(count):
                first = chance.choice(words(code))
                label = ("contradiction", "entailment", "neutral")[words(code).index(first) % 3]
                rows.append(f"{first}\t{chance.choice(words(code))}\t{label}")
            (folder / "xnli").mkdir(parents=True, exist_ok=True)
            (folder / "xnli" / f"xnli.{split}.{code}.tsv").write_text("\n".join(rows) + "\n")
    chance = random.Random("unlabelled")
    rows = [f"{chance.choice(words('en'))}\t{chance.choice(words('en'))}" for _ in range(150)]
    (folder / "xnli" / "xnli.unlabelled.en.tsv").write_text("premise\thypothesis\n" + "\n".join(rows) + "\n")
    return folder


def ner_of_words(folder):
    """The first ten words are persons, wherever they stand."""
    for split, count in (("train", 150), ("dev", 20), ("test", 60)):
        chance, lines = random.Random(split), []
        for _ in range(count):
            for word in chance.choices(words("en"), k=6):
                lines.append(f"{word} {'B-PER' if words('en').index(word) < 10 else 'O'}")
            lines.append("")
        (folder / "ner" / "en").mkdir(parents=True, exist_ok=True)
        (folder / "ner" / "en" / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("task", ["nli", pytest.param("ner", marks=pytest.mark.slow)])
def test_a_student_learns_without_labels(place, tmp_path, task):
    data = {"ner": ner_of_words, "nli": nli_of_words}[task](tmp_path / "data")
    model = str(place / "model")
    distil = replace(HOW, mode="distil", task_teacher=f"wise={model}")
    taught = judge([f"student={model}"], [task], data, tmp_path / "r.jsonl", seeds=1, settings=distil).rows
    still = replace(HOW, learning_rates=(1e-9,), epochs=1)
    before = judge([f"student={model}"], [task], data, tmp_path / "b.jsonl", seeds=1, settings=still).rows
    scores = [{row.language: row.values[row.metric] for row in rows} for rows in (taught, before)]
    assert scores[0]["en"] > scores[1]["en"] + 0.2
    assert {row.way for row in taught} == {"distil"} and "without labels" in taught[0].source
    assert {row.model for row in taught} == {"student"}
    again = judge([f"student={model}"], [task], data, tmp_path / "r.jsonl", seeds=1, settings=distil).rows
    assert again == taught


def test_a_teacher_chosen_among_other_rates_is_another(place, tmp_path):
    model = find_model(str(place / "model"))
    file, cpu = Results(tmp_path / "r.jsonl"), torch.device("cpu")
    plan = make_plan(TASKS["nli"], nli_of_words(tmp_path), settings=replace(HOW, mode="distil", task_teacher="x"))

    def key(*rates):
        settings = replace(HOW, learning_rates=rates)
        teacher = Tuned(model, plan, settings, file, cpu)
        return Tuned(model, plan, settings, file, cpu, teacher=teacher)._key(plan.tests[0], 0, 1e-3)

    assert key(1e-3) == key(2e-3) != key(1e-3, 2e-3) != key(1e-3, 3e-3)


def test_labels_of_what_is_distilled_on_are_not_read(place, tmp_path):
    plan = make_plan(TASKS["nli"], nli_of_words(tmp_path), settings=replace(HOW, mode="distil", task_teacher="x"))
    assert len(plan.unlabelled) == 150 and not any(pair.label for pair in plan.unlabelled)
    assert plan.source == "en, and en without labels"
    both = make_plan(TASKS["ner"], place / "data", settings=replace(HOW, mode="distil", task_teacher="x"))
    assert len(both.unlabelled) == 2 * len(both.train), "German too, where there are training files alone"


@pytest.mark.parametrize(
    ("task", "more", "said"),
    [
        ("ner", {"mode": "distil"}, "--mode distil and --task-teacher MODEL go together"),
        ("ner", {"task_teacher": "x"}, "--mode distil and --task-teacher MODEL go together"),
        ("qa", {"mode": "distil", "task_teacher": "x"}, "leave it to ner and nli"),
    ],
)
def test_what_cannot_be_distilled(place, tmp_path, task, more, said):
    with pytest.raises(DataError, match=said):
        judge([str(place / "model")], [task], place / "data", tmp_path / "r.jsonl", settings=replace(HOW, **more))
