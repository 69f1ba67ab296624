"""Labelled files: what published formats hold is read, and what is wrong is refused with file, line and fix."""

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.small_labelled import make_labelled, squad
from unibert.errors import DataError
from unibert.evaluate.finetune.plan import make_plan, switched
from unibert.evaluate.finetune.settings import Settings
from unibert.evaluate.statistics.scores import score
from unibert.evaluate.tasks import TASKS
from unibert.evaluate.tasks.base import ids_fingerprint
from unibert.evaluate.tasks.names import file_name
from unibert.evaluate.tasks.nli import Pair


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return make_labelled(tmp_path_factory.mktemp("labelled"))


@pytest.mark.parametrize(
    ("path", "split", "languages"),
    [
        ("stsb/stsb-de-test.csv", "test", ("de",)),
        ("xnli/xnli.dev.ko.tsv", "dev", ("ko",)),
        ("ner/swa/train.txt", "train", ("sw",)),
        ("ner/pcm/test.txt", "test", ("pcm",)),
        ("mlqa/dev/dev-context-en-question-de.json", "dev", ("en", "de")),
        ("conll/eng.testb", "test", ("en",)),
        ("conll/esp.testa", "dev", ("es",)),
        ("squad/train-v1.1.json", "train", ()),
        ("tatoeba/tatoeba.cmn-eng.cmn", "test", ("zh", "en", "zh")),
        ("sts17/STS.input.track4a.es-en.txt", "test", ("es", "en")),
        ("xquad/xquad.zh.json", "test", ("zh",)),
    ],
)
def test_names_say_split_and_languages(path, split, languages):
    found = file_name(Path("data") / path, folder=Path("data"))
    assert (found.split, found.languages, found.set) == (split, languages, path.partition("/")[0])


@pytest.mark.parametrize("name", list(TASKS))
def test_every_task_reads_its_files_and_perfect_predictions_score_one(labelled, name):
    task = TASKS[name]
    plan = make_plan(task, labelled, settings=Settings(), tuned=task.head != "none")
    languages = [place[2] for place in plan.tests]
    assert languages == {"retrieval": ["de", "ru"], "word_translation": ["de"]}.get(name, ["de", "en", "ru"])
    perfect = {
        "ner": lambda e: e.tags,
        "nli": lambda e: e.label,
        "qa": lambda e: e.answers[0][0],
        "conversational_qa": lambda e: e.answers[0][0] if e.answers else "",
        "sts": lambda e: float(e.label),
        "retrieval": lambda e: [1, 1, 1, 1],
        "word_translation": lambda e: (1, 1),
        "language_probe": lambda e: {"accuracy": 1.0} if int(e.id.split(":")[1]) % 2 else None,
        "masked": lambda e: (3.0, 3, 3),
    }[name]
    for of, _, language, examples in plan.tests:
        found = task.measure(examples, [perfect(example) for example in examples], of=of, language=language)
        assert task.metric in found
        assert all(score(one.kind, one.rows) == pytest.approx(1) for one in found.values())
    if task.head == "none":
        return
    assert plan.train and plan.dev and plan.source == "en"
    assert make_plan(task, labelled, settings=Settings(mode="translate-train")).source == "de+en"


def test_what_is_trained_on_has_a_limit_of_its_own(labelled):
    few, many = Settings(limit=3), Settings(limit=3, train_limit=5)
    for settings, trained in ((few, 3), (many, 5), (replace(many, mode="translate-train"), 10)):
        plan = make_plan(TASKS["nli"], labelled, settings=settings)
        assert len(plan.train) == trained and {len(place[3]) for place in plan.tests} == {3}


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


NLI = "premise\thypothesis\tlabel\n"
WRONG = [
    ("ner", "ner/en/test.txt", "a O\nb PER\n", r"test.txt:2: 'PER' is not an IOB2 tag; write"),
    ("ner", "ner/en/test.txt", "a O\n\nb\n", r"test.txt:3: one column"),
    ("nli", "nli/test.en.tsv", NLI + "a\tb\tmaybe\n", r"test.en.tsv:2: label 'maybe'; write one of"),
    ("nli", "nli/test.en.tsv", NLI + "a\tb\n", r"test.en.tsv:2: 2 columns, and 3"),
    ("nli", "nli/test.en.tsv", "premise\tlabel\na\tneutral\n", r"test.en.tsv:2: no column hypothesis or .*name it"),
    ("nli", "nli/test.en.tsv", NLI + "a\t \tneutral\n", r"test.en.tsv:2: a text of the pair is empty"),
    ("nli", "nli/test.en.jsonl", "{}\n", r"test.en.jsonl:1: no column gold_label or label"),
    ("nli", "nli/test.en.jsonl", "{}\n[1]\n", r"test.en.jsonl:2: not a JSON object"),
    ("nli", "nli/test.en.tsv", "label\tsentence1_parse\tsentence2_parse\nneutral\ta\tb\n", r"tsv:2: no column premise"),
    ("sts", "stsb/stsb-en-test.csv", "a,b,1\na,b,high\n", r"test.csv:2: score 'high' is no number"),
    ("sts", "stsb/stsb-en-test.csv", "a,b,c,1\na,b,1\n", r"test.csv:1: 4 columns, and 3"),
    ("qa", "xquad/xquad.en.json", '{"data": [\n}', r"xquad.en.json:2: not JSON"),
    ("qa", "xquad/xquad.en.json", '{"data": [{"title": 1}]}', r"no 'paragraphs'; SQuAD's form"),
    ("retrieval", "tatoeba/tatoeba.deu-eng.deu", "a\nb\n", r"its other side is not beside it"),
    ("word_translation", "words/en-de.tsv", "cat\tKatze\ndog\n", r"en-de.tsv:2: 'dog'; write a word, a tab"),
    ("word_translation", "words/fr-de.tsv", "chat\tKatze\n", r"fr-de.tsv: its name must say English and another"),
    ("language_probe", "text/lines.txt", "a\n", r"lines.txt: its name must say one language"),
    ("language_probe", "text/de.txt", "a\nb\n", r"text has 2 texts in 'de', and 20 are needed"),
    ("masked", "heldout/lines/de.jsonl", '{"texts": 1}\n', r"de.jsonl:1: no column text"),
    ("masked", "other/de.txt", "a\n", r"masked: no text by language: put files into one of .*heldout/, .*tatoeba/"),
]


@pytest.mark.parametrize(("task", "name", "text", "message"), WRONG)
def test_bad_files_are_refused_with_their_place(tmp_path, task, name, text, message):
    write(tmp_path, name, text)
    with pytest.raises(DataError, match=message):
        TASKS[task].read(tmp_path)


def test_answers_must_stand_where_they_say(tmp_path):
    document = squad("en", random.Random(0), 4)
    question = document["data"][1]["paragraphs"][0]["qas"][0]
    question["answers"][0]["answer_start"] += 1
    path = write(tmp_path, "xquad/xquad.en.json", json.dumps(document, indent=1))
    line = next(i for i, text in enumerate(path.read_text().split("\n"), 1) if '"1-0"' in text)
    with pytest.raises(DataError, match=rf"xquad.en.json:{line}: question 1-0: .* it is at \d+"):
        TASKS["qa"].read(tmp_path)
    question["answers"][0]["text"] = "nowhere"
    write(tmp_path, "xquad/xquad.en.json", json.dumps(document, indent=1))
    with pytest.raises(DataError, match="does not hold it"):
        TASKS["qa"].read(tmp_path)


def test_wrong_encodings_and_sides(tmp_path):
    path = write(tmp_path, "ner/en/test.txt", "a O\n")
    path.write_bytes(b"a O\nb\xff O\n")
    with pytest.raises(DataError, match=r"test.txt:2: not UTF-8"):
        TASKS["ner"].read(tmp_path)
    write(tmp_path, "tatoeba/tatoeba.deu-eng.deu", "a\nb\n")
    write(tmp_path, "tatoeba/tatoeba.deu-eng.eng", "a\n")
    with pytest.raises(DataError, match=r"deu:2: 2 lines, and .* has 1"):
        TASKS["retrieval"].read(tmp_path)
    with pytest.raises(DataError, match="sts: no labelled files: put them into"):
        TASKS["sts"].read(tmp_path)


def test_plans_refuse_what_cannot_be_learnt(tmp_path):
    write(tmp_path, "nli/test.en.tsv", NLI + "".join(f"a{i}\tb\tneutral\n" for i in range(60)))
    with pytest.raises(DataError, match=r"no training examples in 'en' .*--split-source"):
        make_plan(TASKS["nli"], tmp_path, settings=Settings())
    with pytest.raises(DataError, match=r"all .* examples of training have the label 'neutral'"):
        make_plan(TASKS["nli"], tmp_path, settings=Settings(split_source=True))
    write(tmp_path, "ner/en/train.txt", "\n\n".join(["a B-PER"] * 30))
    write(tmp_path, "ner/de/test.txt", "a B-GENE\n")
    with pytest.raises(DataError, match="labelled alike"):
        make_plan(TASKS["ner"], tmp_path, settings=Settings())


def test_several_forms_of_one_task(tmp_path):
    wide = "label\tsentence1_en\tsentence2_en\tsentence1_ur\tsentence2_ur\nneutral\ta\tb\tc\td\n"
    write(tmp_path, "nli/test.en-ur.tsv", wide)
    write(tmp_path, "nli/americas.dev.tsv", "id\tlanguage\tpremise\thypothesis\tlabel\n1\tquy\te\tf\tentailment\n")
    write(tmp_path, "nli/xnli.test.fr.jsonl", '{"premise": "g", "hypothesis": "h", "label": 2}\n')
    write(tmp_path, "nli/multinli.train.de.tsv", "premise\thypo\tlabel\ni\tj\tcontradictory\nk\tl\t-\n")
    found = TASKS["nli"].read(tmp_path)
    assert {code: (e.first, e.second, e.label) for code, (e,) in found.of("test").items()} == {
        "en": ("a", "b", "neutral"),
        "ur": ("c", "d", "neutral"),
        "fr": ("g", "h", "contradiction"),
    }
    assert [e.label for e in found.of("train")["de"]] == ["contradiction"]
    assert [place[:3] for place in found.tests(chosen_on={"en"})][-1] == ("nli", "test", "ur")
    assert ("nli", "dev", "quy") in [place[:3] for place in found.tests(chosen_on={"en"})]
    write(tmp_path, "sts17/STS.input.track4a.es-en.txt", "a\tb\n")
    write(tmp_path, "sts17/STS.gs.track4a.es-en.txt", "3.5\n")
    write(tmp_path, "sts22/test.jsonl", '{"sentence1": "a", "sentence2": "b", "score": 1, "lang": "de-en"}\n')
    assert {c: e[0].label for c, e in TASKS["sts"].read(tmp_path).of("test").items()} == {"es+en": "3.5", "de+en": "1"}
    write(tmp_path, "panx/en/test.txt", "en:Ann\tB-PER\nen:x:y\tO\n")
    assert TASKS["ner"].read(tmp_path).of("test")["en"][0].words == ("Ann", "x:y")


XNLI_TSV = (
    "language gold_label sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse sentence1 "
    "sentence2 promptID pairID genre label1 label2 label3 label4 label5 sentence1_tokenized sentence2_tokenized match"
).split()
XNLI_JSON = (
    "annotator_labels genre gold_label label language match pairID promptID sentence1 sentence1_tokenized sentence2 "
    "sentence2_tokenized"
).split()


def xnli_row(language, number):
    said = {"language": language, "pairID": str(number), "promptID": str(number // 3 + 1), "match": "True"}
    said |= {"gold_label": ("neutral", "contradiction", "entailment")[number % 3], "genre": "facetoface"}
    said |= {"annotator_labels": ["neutral"] * 5, "label": "unused", "sentence1": f"{language} {number // 3}"}
    said |= {"sentence2": f"{language} says {number}", "sentence1_tokenized": "t", "sentence2_tokenized": "u"}
    return said | {f"label{i}": "neutral" for i in range(1, 6)}


def test_xnlis_own_files(tmp_path):
    rows = [xnli_row(language, number) for language in ("ar", "bg", "en") for number in range(1, 7)]
    write(tmp_path, "xnli/xnli.dev.jsonl", "".join(json.dumps({c: r[c] for c in XNLI_JSON}) + "\n" for r in rows))
    table = [XNLI_TSV, *([row.get(column, "") for column in XNLI_TSV] for row in rows)]
    write(tmp_path, "xnli/xnli.test.tsv", "".join("\t".join(row) + "\n" for row in table))
    write(tmp_path, "xnli/multinli/multinli.train.bg.tsv", "premise\thypo\tlabel\na\tb\tcontradictory\n")
    found = TASKS["nli"].read(tmp_path)
    for split in ("dev", "test"):
        by_language = found.of(split)
        assert set(by_language) == {"ar", "bg", "en"}
        for code, examples in by_language.items():
            expected = [(f"{split}:{n}", f"{code} {n // 3}", f"{code} says {n}") for n in range(1, 7)]
            assert [(example.id, example.first, example.second) for example in examples] == expected
            assert examples[2].label == "neutral" and examples[2].group == examples[4].group == f"{split}:3"
    assert [example.label for example in found.of("train")["bg"]] == ["contradiction"]
    (tmp_path / "xnli/xnli.test.tsv").rename(tmp_path / "xnli/xnli.dev.tsv")
    with pytest.raises(DataError, match=r"xnli/ has 6 dev examples in ar twice: keep one of the files"):
        TASKS["nli"].read(tmp_path)


def test_ids_are_the_same_in_parallel_files_of_every_form(tmp_path):
    rows = [(f"p{i // 2}", f"h{i}", "-" if i == 3 else "neutral") for i in range(8)]
    text = "".join("\t".join(row) + "\n" for row in rows)
    keys = ("sentence1", "sentence2", "label")
    write(tmp_path, "nli/test.de.tsv", NLI + text)
    write(tmp_path, "nli/test.fr.jsonl", "".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows))
    both = [f"{code}\t" + "\t".join(row) for code in ("ru", "tr") for row in rows]
    write(tmp_path, "nli/test.tsv", "\n".join(["language\tpremise\thypothesis\tlabel", *both]) + "\n")
    numbered = [f"{number % 3}\t" + "\t".join(row) for number, row in enumerate(rows)]  # of no use: they repeat
    write(tmp_path, "nli/test.es.tsv", "\n".join(["id\t" + NLI.strip(), *numbered]) + "\n")
    found = TASKS["nli"].read(tmp_path).of("test")
    assert set(found) == {"de", "fr", "ru", "tr", "es"}
    for examples in found.values():  # the fourth, on which people do not agree, is left out and counts
        assert [example.id for example in examples] == [f"test:{i}" for i in (1, 2, 3, 5, 6, 7, 8)]
        assert [example.group for example in examples] == [f"test:{i}" for i in (1, 1, 3, 5, 5, 7, 7)]
    assert len({ids_fingerprint(examples) for examples in found.values()}) == 1
    write(tmp_path, "stsb/stsb-de-test.csv", "a,b,1\nc,d,2\n")
    write(tmp_path, "stsb/stsb-fr-test.csv", "sentence1,sentence2,score\na,b,1\nc,d,2\n")
    write(tmp_path, "stsb/test.tsv", "lang\tsentence1\tsentence2\tscore\nes\ta\tb\t1\nru\ta\tb\t1\nru\tc\td\t2\n")
    found = TASKS["sts"].read(tmp_path).of("test")
    assert [example.id for example in found.pop("es")] == ["test:1"]
    assert [[example.id for example in examples] for examples in found.values()] == [["test:1", "test:2"]] * 3


def test_ids_of_a_column_and_lines_in_errors(tmp_path):
    header = "id\tlanguage\tpremise\thypothesis\tlabel\n"
    rows = [f"{number}\t{code}\te\tf\tneutral\n" for code in ("aym", "quy") for number in (12451, 12453)]
    path = write(tmp_path, "americasnli/dev.tsv", header + "".join(rows))
    found = TASKS["nli"].read(tmp_path).of("dev")
    assert [[example.id for example in examples] for examples in found.values()] == [["dev:12451", "dev:12453"]] * 2
    path.write_text(path.read_text() + "12455\tquy\te\tf\tmaybe\n")
    with pytest.raises(DataError, match=r"dev.tsv:6: label 'maybe'"):
        TASKS["nli"].read(tmp_path)


def test_mlqa_is_compared_in_its_own_way_wherever_it_stands(tmp_path):
    document = squad("de", random.Random(0), 2)
    for split, folder in (("dev", "mlqa"), ("test", "xquad")):
        write(tmp_path, f"{folder}/{split}.de.json", json.dumps(document))
    found, task = TASKS["qa"].read(tmp_path), TASKS["qa"]
    for split, right in (("dev", 1.0), ("test", 0.0)):
        examples = found.of(split)["de"]
        said = [f"Der {example.answers[0][0]}" for example in examples]  # MLQA leaves out German articles
        assert task.measure(examples, said, of="dev", language="de")["exact_match"].rows.tolist() == [[right]] * 2


def test_coqa(tmp_path):
    story = "Ann has a cat. It is red."
    said = [("a cat", 8, 13), ("red", 21, 24), ("unknown", -1, -1)]
    answers = [{"input_text": text, "span_start": a, "span_end": b, "span_text": ""} for text, a, b in said]
    part = {"id": "s", "story": story, "questions": [{"input_text": f"q{i}"} for i in range(3)], "answers": answers}
    write(tmp_path, "coqa/dev.json", json.dumps({"data": [part]}))
    first, second, third = TASKS["conversational_qa"].read(tmp_path).of("dev")["en"]
    assert first.answers == (("a cat", 8),) and second.history == (("q0", "a cat"),)
    assert not third.answers and len(third.history) == 2


def test_code_switching_mixes_sides():
    def pair(code, number):
        return Pair(str(number), str(number), f"{code}-first", f"{code}-second", "neutral")

    by_language = {code: [pair(code, i) for i in range(200)] for code in ("en", "de", "ru")}
    mixed = switched({"nli": by_language}, pivot="en")
    seen = {(example.first[:2], example.second[:2]) for example in mixed}
    assert seen == {("en", "de"), ("de", "en"), ("en", "ru"), ("ru", "en")} and len(mixed) == 200
    with pytest.raises(DataError, match="other languages"):
        switched({"nli": {"en": [pair("en", 0)]}}, pivot="en")
    others = {code: [replace(pair(code, i), first="x", second="x") for i in range(200)] for code in ("en", "de")}
    both = switched({"nli": by_language, "xnli": others}, pivot="en")
    assert both[:200] == mixed and {(example.first, example.second) for example in both[200:]} == {("x", "x")}
    with pytest.raises(DataError, match=r"nli/ has two training examples '0' in en, .*folders of their own"):
        switched({"nli": {"en": [pair("en", 0), pair("en", 0)], "de": [pair("de", 0)]}}, pivot="en")


SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the labelled data beside the project is not there")
def test_real_files_are_read():
    for name in ("ner", "nli", "qa", "sts", "retrieval"):
        for _, _, _, examples in TASKS[name].read(SHARED).tests(chosen_on={"en"}):
            assert len(examples) > 100 and not re.search(r"^\s*$", examples[0].id)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the labelled data beside the project is not there")
def test_real_translations_have_the_same_ids():
    by_language = TASKS["nli"].read(SHARED).of("dev")
    assert len({ids_fingerprint(by_language[code]) for code in ("aym", "gn", "quy", "tar")}) == 1
    assert {example.id for example in by_language["oto"]} < {example.id for example in by_language["quy"]}
