"""Labelled files that would be read otherwise than they were meant: silently short, empty, twice, or with wrong ids."""

import json

import pytest

from tests.unit.small_labelled import LABELS
from unibert.errors import DataError
from unibert.evaluate.finetune.plan import make_plan
from unibert.evaluate.finetune.settings import Settings
from unibert.evaluate.scorers.spans import span_counts
from unibert.evaluate.tasks import TASKS
from unibert.evaluate.tasks.base import table

NLI = "premise\thypothesis\tlabel\n"
STS = "".join(f"one {i},two {i},{i % 6}\n" for i in range(40))
SPLIT = Settings(split_source=True)


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def pairs(code, *, start=0, count=12):
    return NLI + "".join(f"{code} {i}\t{code} says {i}\t{LABELS[i % 3]}\n" for i in range(start, start + count))


def with_ids(code, ids):
    rows = (f"{id}\t{code} {i}\t{code} says {i}\t{LABELS[i % 3]}\n" for i, id in enumerate(ids))
    return "pairID\t" + NLI + "".join(rows)


def squad(asked):
    context = "The cat sits on the mat."
    return json.dumps({"data": [{"paragraphs": [{"context": context, "qas": asked}]}]}, indent=1)


def question(id, **more):
    return {"id": id, "question": "Who?", "answers": [{"text": "cat", "answer_start": 4}], **more}


def answer(start):
    return [{"text": "cat", "answer_start": start}]


# --- ids --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 2, 3, 2], r"test.de.tsv:5: line 3 has pairID '2' too; give each row of a language its own"),
        ([1, 1], r"test.de.tsv:3: line 2 has pairID '1' too"),
        ([1, "", 3], r"test.de.tsv:3: no pairID"),
    ],
)
def test_an_id_that_repeats_is_refused(tmp_path, ids, message):
    write(tmp_path, "nli/test.de.tsv", with_ids("de", ids))
    with pytest.raises(DataError, match=message):
        TASKS["nli"].read(tmp_path)


def test_a_column_that_is_plainly_no_id_does_not_count(tmp_path):
    write(tmp_path, "nli/test.de.tsv", with_ids("de", [i // 3 for i in range(12)]))
    examples = TASKS["nli"].read(tmp_path).of("test")["de"]
    assert [example.id for example in examples] == [f"test:{i}" for i in range(1, 13)]


def test_a_split_needs_ids_of_one_kind(tmp_path):
    """German is in another order, so that numbers of rows are no ids."""
    ids = [f"p{i}" for i in range(60)]
    write(tmp_path, "nli/test.en.tsv", with_ids("en", ids))
    write(tmp_path, "nli/test.de.tsv", with_ids("de", ids[::-1]))
    plan = make_plan(TASKS["nli"], tmp_path, settings=SPLIT)
    used = {example.id for example in (*plan.train, *plan.dev["en"])}
    assert not used & {example.id for place in plan.tests for example in place[3]}
    write(tmp_path, "nli/test.de.tsv", pairs("de", count=60))
    with pytest.raises(
        DataError, match=r"nli/, test: examples in en have ids .* and those in de do not.*--split-source"
    ):
        make_plan(TASKS["nli"], tmp_path, settings=SPLIT)
    write(tmp_path, "nli/test.en.tsv", pairs("en", count=60))
    assert make_plan(TASKS["nli"], tmp_path, settings=SPLIT).tests


# --- empty, short -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "name", "text"),
    [
        ("nli", "nli/test.de.tsv", ""),
        ("nli", "nli/test.de.tsv", NLI),
        ("nli", "nli/test.de.tsv", NLI + "a\tb\t-\n"),
        ("ner", "ner/de/test.txt", ""),
        ("ner", "ner/de/test.txt", "-DOCSTART- O\n\n"),
        ("sts", "sts/sts-de-test.csv", ""),
        ("qa", "qa/test.de.json", '{"data": []}'),
        ("word_translation", "words/en-de.tsv", "\n"),
        ("retrieval", "parallel/test.tsv", "en\tde\n"),
    ],
)
def test_a_file_without_examples_is_refused(tmp_path, task, name, text):
    write(tmp_path, name, text)
    with pytest.raises(DataError, match=rf"{name.rpartition('/')[2]}:1: no examples; fetch or write"):
        TASKS[task].read(tmp_path)


def test_translations_without_text_are_no_pairs(tmp_path):
    write(tmp_path, "tatoeba/tatoeba.deu-eng.deu", "")
    write(tmp_path, "tatoeba/tatoeba.deu-eng.eng", "")
    with pytest.raises(DataError, match=r"deu-eng.deu:1: no examples"):
        TASKS["retrieval"].read(tmp_path)
    write(tmp_path, "tatoeba/tatoeba.deu-eng.deu", "eins\nzwei\n")
    write(tmp_path, "tatoeba/tatoeba.deu-eng.eng", "one\n \n")
    with pytest.raises(DataError, match=r"deu-eng.eng:2: an empty line; remove line 2 of"):
        TASKS["retrieval"].read(tmp_path)
    write(tmp_path, "tatoeba/tatoeba.deu-eng.eng", "one\ntwo\n")
    write(tmp_path, "parallel/test.tsv", "en\tde\none\t\n")
    with pytest.raises(DataError, match=r"test.tsv:2: a text of the pair is empty"):
        TASKS["retrieval"].read(tmp_path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ({5: '"Hello,two,2', 30: '"Good,two,4'}, r"""test.csv:6: ',' expected after '"'; close every quote"""),
        (
            {5: '"Hello', 6: 'she said",two,2'},
            r"test.csv:6: a quote that opens here is not closed on its line; close it",
        ),
        ({5: '"Hello,two,2'}, r"test.csv:6: unexpected end of data; close every quote"),
        ({5: '"Hello" she,two,2'}, r"""test.csv:6: ',' expected after '"'; close every quote"""),
        ({5: '"Hello,two,2', 9: "x" * 200_000 + ",two,2"}, r"test.csv:6: field larger than .* limit"),
    ],
)
def test_an_open_quote_swallows_no_lines(tmp_path, lines, message):
    rows = STS.splitlines()
    for number, text in lines.items():
        rows[number] = text
    write(tmp_path, "sts/sts-en-test.csv", "\n".join(rows) + "\n")
    with pytest.raises(DataError, match=message):
        TASKS["sts"].read(tmp_path)


def test_quotes_that_are_closed_are_read(tmp_path):
    write(tmp_path, "sts/sts-en-test.csv", '"Hello, she said",two,2\r\n"a ""b"" c",two,3\r\n')
    assert [e.first for e in TASKS["sts"].read(tmp_path).of("test")["en"]] == ["Hello, she said", 'a "b" c']


def test_null_is_no_text(tmp_path):
    rows = [{"premise": None if i == 1 else "a", "hypothesis": "b", "label": i} for i in range(3)]
    write(tmp_path, "nli/test.en.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"test.en.jsonl:2: premise is null; write a value"):
        TASKS["nli"].read(tmp_path)
    path = write(tmp_path, "heldout/lines/de.jsonl", 20 * '{"id": "a", "url": null, "text": "b"}\n')
    assert [row["text"] for _, row in table(path, read=["text"])] == ["b"] * 20
    path.write_text('{"text": null}\n')
    with pytest.raises(DataError, match=r"de.jsonl:1: text is null"):
        TASKS["masked"].read(tmp_path)


def test_a_column_of_numbers_called_id_is_no_indonesian(tmp_path):
    write(tmp_path, "parallel/test.tsv", "id\ten\tde\n1\tcat\tKatze\n2\tdog\tHund\n")
    (examples,) = TASKS["retrieval"].read(tmp_path).of("test").values()
    assert [(example.first, example.second) for example in examples] == [("Katze", "cat"), ("Hund", "dog")]
    write(tmp_path, "parallel/test.tsv", "id\ten\tgerman\n1\tcat\tKatze\n")
    with pytest.raises(DataError, match=r"test.tsv:2: no two columns of texts, there are id, en, german; call them"):
        TASKS["retrieval"].read(tmp_path)
    write(tmp_path, "parallel/test.tsv", "id\ten\nkucing\tcat\n")
    assert set(TASKS["retrieval"].read(tmp_path).of("test")) == {"id"}


# --- twice ------------------------------------------------------------------------------------------------------------

NER = "".join(f"Ann{i} B-PER\nsits O\n\n" for i in range(20))
WORDS = "".join(f"word{i}\tWort{i}\n" for i in range(20))


@pytest.mark.parametrize(
    ("task", "names", "text", "language"),
    [
        ("sts", ("sts/sts-en-test.csv", "sts/sts-en-test-1.csv"), STS, "en"),
        ("ner", ("ner/en/test.txt", "ner/en/test-1.txt"), NER, "en"),
        ("nli", ("nli/test.en.tsv", "nli/test-1.en.tsv"), pairs("en"), "en"),
        ("qa", ("qa/test.en.json", "qa/test-1.en.json"), squad([question("a"), question("b")]), "en"),
        ("word_translation", ("words/en-de.tsv", "words/1-en-de.tsv"), WORDS, "de"),
        ("retrieval", ("parallel/a.tsv", "parallel/b.tsv"), "en\tde\ncat\tKatze\n", "de"),
    ],
)
def test_the_same_examples_in_two_files_are_refused(tmp_path, task, names, text, language):
    for name in names:
        write(tmp_path, name, text)
    with pytest.raises(DataError, match=rf"/ has \d+ test examples in {language} twice: keep one of the files"):
        TASKS[task].read(tmp_path)


def test_rows_that_are_there_twice_in_a_file_or_by_chance_stay(tmp_path):
    """Other numbers of rows do not hide a copy, and a few rows in common are none."""
    write(tmp_path, "sts/sts-en-test.csv", STS + STS)
    assert len(TASKS["sts"].read(tmp_path).of("test")["en"]) == 80
    write(tmp_path, "sts/other-en-test.csv", STS.replace("one", "another").replace("another 1", "one 1"))
    assert len(TASKS["sts"].read(tmp_path).of("test")["en"]) == 120
    write(tmp_path, "sts/other-en-test.csv", "\n".join(STS.splitlines()[::-2]))
    with pytest.raises(DataError, match=r"has 20 test examples in en twice"):
        TASKS["sts"].read(tmp_path)


@pytest.mark.parametrize("split", ["test", "dev"])
def test_what_is_trained_on_is_not_measured(tmp_path, split):
    write(tmp_path, "nli/train.en.tsv", pairs("en", count=60))
    path = write(tmp_path, f"xnli/{split}.en.tsv", pairs("en", start=7))
    with pytest.raises(
        DataError, match=rf"{path.name}: 12 of the 12 {split} examples in en are in .*/train.en.tsv too"
    ):
        TASKS["nli"].read(tmp_path)
    write(tmp_path, f"xnli/{split}.en.tsv", pairs("en", start=55))
    assert len(TASKS["nli"].read(tmp_path).of(split)["en"]) == 12


def test_a_backup_is_no_file(tmp_path):
    for name in ("test.txt", "test.txt.bak", "test.txt~"):
        write(tmp_path, f"ner/en/{name}", NER)
    assert {code: len(examples) for code, examples in TASKS["ner"].read(tmp_path).of("test").items()} == {"en": 20}


# --- questions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (question("q1", answers=answer(None)), r"json:19: no 'answer_start'; SQuAD's form"),
        (question("q1", answers=answer("four")), r"json:19: answer_start 'four' is no number; write"),
        (question("q1", answers=answer(-20)), r"json:19: question q1: .* is not at answer_start -20 .* it is at 4"),
        (question("q1", answers=None), r"json:19: no 'answers'; SQuAD's form"),
        (question("q1", answers=["cat"]), r"""json:19: "cat" where an object with 'text' must be"""),
        (question("q1", answers={"text": ["cat"], "answer_start": [4]}), r"json:19: 'answers' is no list; SQuAD's"),
        ("what?", r"""json:18: "what\?" where an object with 'question' must be; SQuAD's form"""),
        (question("q0"), r"json:19: the id 'q0' is that of another question too \(line 9\); keep each"),
    ],
)
@pytest.mark.parametrize("task", ["qa", "conversational_qa"])
def test_a_question_out_of_form_is_named(tmp_path, task, asked, message):
    folder = "qa" if task == "qa" else "quac"
    write(tmp_path, f"{folder}/test.en.json", squad([question("q0"), asked]))
    with pytest.raises(DataError, match=rf"test.en.{message}"):
        TASKS[task].read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": [{"input_text": "cat", "span_start": None, "span_end": 7}]}, r"json:4: no 'span_start'"),
        (
            {"answers": [{"input_text": "cat", "span_start": "x", "span_end": 7}]},
            r"json:4: span_start 'x' is no number",
        ),
        ({"answers": None}, r"json:4: no 'answers'"),
        ({"additional_answers": {"0": None}}, r"json:1: no '0'"),
        ({"id": None}, r"json:1: no 'id'"),
    ],
)
def test_a_conversation_out_of_form_is_named(tmp_path, change, message):
    right = {"input_text": "cat", "span_start": 4, "span_end": 7}
    story = {"id": "s1", "story": "The cat sits.", "questions": [{"input_text": "Who?"}], "answers": [right], **change}
    write(tmp_path, "coqa/dev.en.json", json.dumps({"data": [story]}, indent=1))
    with pytest.raises(DataError, match=rf"dev.en.{message}"):
        TASKS["conversational_qa"].read(tmp_path)


# --- entities ---------------------------------------------------------------------------------------------------------


def test_iob1_is_read_as_iob2(tmp_path):
    tags = ["I-PER", "I-PER", "O", "I-LOC", "B-LOC", "I-LOC", "I-PER"]
    write(tmp_path, "ner/en/test.txt", "".join(f"w {tag}\n" for tag in tags))
    (sentence,) = TASKS["ner"].read(tmp_path).of("test")["en"]
    assert sentence.tags == ("B-PER", "I-PER", "O", "B-LOC", "B-LOC", "I-LOC", "B-PER")
    assert span_counts(sentence.tags, tags) == (4, 4, 4), "as the default score reads them, the spans are the same"
    assert span_counts(sentence.tags, sentence.tags, strict=True) == (4, 4, 4)


def test_a_broken_tag_of_iob2_stays_as_it_was_published(tmp_path):
    write(tmp_path, "ner/en/test.txt", "a B-PER\nb I-PER\n\nc I-PER\nd O\ne B-LOC\n")
    assert [example.tags[0] for example in TASKS["ner"].read(tmp_path).of("test")["en"]] == ["B-PER", "I-PER"]


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (
            "b B-Person\nc B-LOC\n",
            r"ner en \(test\) has entities \['Person'\], which training lacks; training has \['LOC'",
        ),
        ("b O\n", r"ner en \(test\) has entities none; training has"),
    ],
)
def test_a_type_that_nobody_learns_is_refused(tmp_path, test, message):
    write(tmp_path, "ner/en/train.txt", "\n\n".join([*(f"a{i} B-PER" for i in range(30)), "x B-LOC"]) + "\n")
    write(tmp_path, "ner/en/dev.txt", "d B-PER\n")
    write(tmp_path, "ner/en/test.txt", test)
    with pytest.raises(DataError, match=message):
        make_plan(TASKS["ner"], tmp_path, settings=Settings())
    write(tmp_path, "ner/en/test.txt", "b B-LOC\n")
    few = make_plan(TASKS["ner"], tmp_path, settings=Settings(train_limit=3))
    assert "B-LOC" not in few.labels, "it is in the files, and --train-limit took others"
