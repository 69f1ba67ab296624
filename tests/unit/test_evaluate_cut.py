"""What is trained on, looked at and measured does not overlap, in any language, and results say what was cut."""

import json
import random
from dataclasses import replace

import pytest

from tests.unit.small_labelled import LABELS, make_labelled, squad
from unibert.errors import DataError
from unibert.evaluate.finetune.plan import make_plan
from unibert.evaluate.finetune.settings import Settings
from unibert.evaluate.tasks import TASKS

NLI = "premise\thypothesis\tlabel\n"
SPLIT = Settings(split_source=True)


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def pairs(code, count, *, start=0, premise=lambda number: number):
    """Lines of a training or test file; lines i are translations of each other."""
    numbers = range(start, start + count)
    return NLI + "".join(f"{code} {premise(i)}\t{code} says {i}\t{LABELS[i % 3]}\n" for i in numbers)


def numbers(examples):
    return {int(example.second.split()[-1]) for example in examples}


def measured(plan):
    return {language: examples for _, _, language, examples in plan.tests}


def test_split_source_measures_nothing_that_was_trained_on(tmp_path):
    for code in ("en", "de"):
        write(tmp_path, f"xquad/xquad.{code}.json", json.dumps(squad(code, random.Random(code), 80)))
    plan = make_plan(TASKS["qa"], tmp_path, settings=SPLIT)
    used = {example.group for example in (*plan.train, *plan.dev["en"])}
    assert plan.source == "en (split)" and len(plan.train) > len(plan.dev["en"]) > 0
    for _, _, _, examples in plan.tests:
        assert examples and not used & {example.group for example in examples}


def test_split_source_knows_a_translation_by_its_id(tmp_path):
    """Three hypotheses of a premise; German spells each premise in its own way, and Russian lacks the first line."""
    for code, of in (("en", 3), ("de", 1), ("ru", 3)):
        header, *rows = pairs(code, 300, premise=lambda i, of=of: i // of).splitlines()
        rows = [f"{i}\t{row}" for i, row in enumerate(rows, 1) if code != "ru" or i % 3 != 1 or i < 4]
        write(tmp_path, f"nli/test.{code}.tsv", "\n".join([f"id\t{header}", *rows]) + "\n")
    write(tmp_path, "nli/unlabelled.en.tsv", pairs("en", 50, start=1000))
    plan = make_plan(TASKS["nli"], tmp_path, settings=replace(SPLIT, mode="distil"))
    assert numbers(plan.unlabelled) == set(range(1000, 1050))
    used = numbers([*plan.train, *plan.dev["en"]])
    found = {code: numbers(examples) for code, examples in measured(plan).items()}
    assert found["en"] == found["de"] == set(range(300)) - used and len(found["en"]) > 30
    assert found["ru"] and not found["ru"] & used


def test_split_source_knows_texts_whose_numbers_differ(tmp_path):
    """MLQA: a language has some of the questions alone, so that its articles have other numbers."""
    document = squad("en", random.Random(0), 80)
    write(tmp_path, "mlqa/test-context-en-question-en.json", json.dumps(document))
    document["data"] = document["data"][7:]
    alone = squad("en", random.Random(1), 4)["data"][0]
    for question in alone["paragraphs"][0]["qas"]:
        question["id"] = f"alone-{question['id']}"
    document["data"].append(alone)
    write(tmp_path, "mlqa/test-context-en-question-de.json", json.dumps(document))
    plan = make_plan(TASKS["qa"], tmp_path, settings=SPLIT)
    used = {example.id for example in (*plan.train, *plan.dev["en"])}
    ids = {example.id for example in measured(plan)["en+de"]}
    assert not ids & used and {"alone-0-0", "alone-0-1"} < ids
    assert ids - {"alone-0-0", "alone-0-1"} == {example.id for example in measured(plan)["en"]} - {
        f"{article}-{turn}" for article in range(7) for turn in range(2)
    }


def test_sentences_of_other_languages_are_other_sentences(tmp_path):
    for code in ("hau", "pcm"):
        write(tmp_path, f"ner/{code}/test.txt", "\n\n".join(f"{code}{i} B-PER" for i in range(100)))
    plan = make_plan(TASKS["ner"], tmp_path, settings=replace(SPLIT, source="hau"))
    assert plan.train and {code: len(examples) > 90 for code, examples in measured(plan).items()} == {
        "hau": False,
        "pcm": True,
    }
    assert len(measured(plan)["pcm"]) == 100


def test_a_split_and_a_joint_dev_are_said_where_there_are_some(tmp_path):
    data = make_labelled(tmp_path)
    assert make_plan(TASKS["nli"], data, settings=SPLIT).source == "en"
    assert make_plan(TASKS["nli"], data, settings=replace(SPLIT, source="ru")).source == "ru (split)"
    write(data, "xnli/xnli.dev.de.tsv", pairs("de", 9))
    for rates, said in (((1e-5,), "en"), ((1e-5, 2e-5), "en, joint dev")):
        assert make_plan(TASKS["nli"], data, settings=Settings(dev="joint", learning_rates=rates)).source == said


def test_dev_alone_is_measured_unless_it_chooses_the_rate(tmp_path):
    write(tmp_path, "nli/train.en.tsv", pairs("en", 30))
    for code in ("en", "de", "fr"):
        write(tmp_path, f"nli/dev.{code}.tsv", pairs(code, 9, start=100))
    write(tmp_path, "nli/test.fr.tsv", pairs("fr", 9, start=200))
    for settings, languages in (
        (Settings(), ["de", "fr"]),
        (Settings(learning_rates=(1e-5,)), ["de", "en", "fr"]),
        (Settings(dev="joint"), ["fr"]),
        (Settings(dev="joint", learning_rates=(1e-5,)), ["de", "en", "fr"]),
    ):
        assert [place[2] for place in make_plan(TASKS["nli"], tmp_path, settings=settings).tests] == languages
    write(tmp_path, "sts/sts-dev-en.csv", "a,b,1\nc,d,2\n")
    assert [place[1:3] for place in make_plan(TASKS["sts"], tmp_path, settings=Settings(), tuned=False).tests] == [
        ("dev", "en")
    ]


@pytest.mark.parametrize("mode", ["zero-shot", "translate-train", "code-switch"])
def test_without_a_dev_file_a_tenth_of_the_sources_training_is_set_aside(tmp_path, mode):
    write(tmp_path, "nli/train.en.tsv", pairs("en", 300))
    write(tmp_path, "nli/train.de.tsv", pairs("de", 330))  # the last 30 are in German alone
    write(tmp_path, "nli/test.en.tsv", pairs("en", 30, start=1000))
    plan = make_plan(TASKS["nli"], tmp_path, settings=Settings(mode=mode))
    (held,) = plan.dev.values()
    assert {text.split()[0] for example in held for text in (example.first, example.second)} == {"en"}
    assert 15 < len(held) < 50 and not numbers(held) & numbers(plan.train)
    of_source = set(range(300)) - numbers(held)
    assert numbers(plan.train) == of_source | (set(range(300, 330)) if mode == "translate-train" else set())
    few = make_plan(TASKS["nli"], tmp_path, settings=Settings(mode=mode, train_limit=12))
    assert len(few.train) == (24 if mode == "translate-train" else 12) and few.dev == plan.dev


def test_other_texts_stay_when_a_dev_set_is_cut(tmp_path):
    for code in ("hau", "pcm"):
        write(tmp_path, f"ner/{code}/train.txt", "\n\n".join(f"{code}{i} B-PER" for i in range(100)))
    write(tmp_path, "ner/hau/test.txt", "b B-PER\n")
    settings = Settings(source="hau", mode="translate-train")
    plan = make_plan(TASKS["ner"], tmp_path, settings=settings)
    assert len(plan.dev["hau"]) + len(plan.train) == 200
    assert sum(example.words[0].startswith("pcm") for example in plan.train) == 100
    write(tmp_path, "ner/hau/train.txt", "a B-PER\n")
    with pytest.raises(DataError, match="too few training examples to cut a dev set from"):
        make_plan(TASKS["ner"], tmp_path, settings=settings)


def test_code_switch_keeps_sets_apart(tmp_path):
    """Both folders number their lines from one."""
    write(tmp_path, "nli/train.en.tsv", pairs("en", 60))
    write(tmp_path, "xnli/train.en.tsv", pairs("en", 60, start=500))
    write(tmp_path, "xnli/train.de.tsv", pairs("de", 60, start=500))
    for split in ("dev", "test"):
        write(tmp_path, f"nli/{split}.en.tsv", pairs("en", 9, start=1000))
    plan = make_plan(TASKS["nli"], tmp_path, settings=Settings(mode="code-switch"))
    assert len(plan.train) == 120
    for example in plan.train:
        first, second = example.first.split(), example.second.split()
        assert first[-1] == second[-1] and (first[0] == second[0]) == (int(first[-1]) < 500)
