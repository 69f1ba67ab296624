"""Conversations: files with the published fields and values, and scores against an oracle written another way."""

import itertools
import json
import random
import re
from fractions import Fraction

import pytest

from unibert.evaluate.scorers.answers import agreement, answer_f1, exact_match, left_out
from unibert.evaluate.statistics.scores import resampled, score
from unibert.evaluate.tasks import TASKS

CASES = 400
TASK = TASKS["conversational_qa"]
NONE = "CANNOTANSWER"
WORDS = "The cat sat on a mat , and dogs saw it ; red red hat . unknown".split()


def quac_file(folder, context, asked):
    """A file of QuAC: (references, orig_answer) of every question; texts of the context."""
    context += f" {NONE}"

    def span(text):
        return {"text": text, "answer_start": context.index(text)}

    qas = [
        {
            "followup": "m",
            "yesno": "x",
            "question": f"q{i}",
            "answers": [span(text) for text in references],
            "id": f"C_1_1_q#{i}",
            "orig_answer": span(original),
        }
        for i, (references, original) in enumerate(asked)
    ]
    paragraph = {"context": context, "qas": qas, "id": "C_1_1"}
    part = {"paragraphs": [paragraph], "section_title": "s", "background": "b", "title": "t"}
    return read(folder / "quac" / "val_v0.2.json", {"data": [part]})


def coqa_file(folder, story, turns):
    """A file of CoQA: the answers of every turn, the first with its span where the story holds it."""

    def answer(text, number):
        start = story.find(text) if text != "unknown" else -1
        where = {"span_start": start, "span_end": start + len(text) if start >= 0 else -1, "span_text": text}
        return {**where, "input_text": text, "turn_id": number}

    columns = [[answer(text, i) for i, text in enumerate(column, 1)] for column in zip(*turns, strict=True)]
    part = {
        "source": "mctest",
        "id": "3dr23u6we5exclen4th8uq9rb42tel",
        "filename": "mc160.test.41",
        "story": story,
        "questions": [{"input_text": f"q{i}", "turn_id": i + 1} for i in range(len(turns))],
        "answers": columns[0],
        "additional_answers": {str(i): column for i, column in enumerate(columns[1:])},
        "name": "mc160.test.41",
    }
    return read(folder / "coqa" / "coqa-dev-v1.0.json", {"version": "1.0", "data": [part]})


def read(path, document):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return TASK.read(path.parents[1]).of("dev")["en"]


def rows(examples, said):
    found = TASK.measure(examples, said, of="quac", language="en")
    return [[float(value) for value in found[metric].rows[:, 0]] for metric in ("f1", "exact_match")]


def equivalence(examples, said):
    found = TASK.measure(examples, said, of="quac", language="en")
    return tuple(score(found[metric].kind, found[metric].rows) for metric in ("heq_q", "heq_d"))


# --- reading ----------------------------------------------------------------------------------------------------------

CONTEXT = "In May 1983 she married Nikos, a composer."
MARRIED, COMPOSER, MAY = "she married Nikos", "married Nikos, a composer", "In May 1983"


def test_no_answer_is_gold_where_half_of_the_people_gave_none(tmp_path):
    asked = [
        ([MARRIED, NONE, NONE, NONE], MARRIED),
        ([MARRIED, NONE, COMPOSER, NONE], COMPOSER),
        ([MARRIED, NONE, COMPOSER, COMPOSER, NONE], COMPOSER),
        ([NONE], NONE),
        ([MARRIED], MARRIED),
    ]
    examples = quac_file(tmp_path, CONTEXT, asked)
    assert [example.gold for example in examples] == [
        (NONE,),
        (NONE,),
        (MARRIED, COMPOSER, COMPOSER),
        (NONE,),
        (MARRIED,),
    ]
    assert [bool(example.answers) for example in examples] == [False, False, True, False, True]
    assert rows(examples, ["", MARRIED, "", NONE, ""]) == [[1, 0, 0, 1, 0]] * 2
    assert rows(examples, [f"composer. {NONE}"] * 5)[0][:2] == [0, 0], "no answer and a word are no half of a point"


def test_the_past_of_quac_is_what_was_said(tmp_path):
    asked = [([MARRIED, COMPOSER], COMPOSER), ([MARRIED, NONE, NONE], MARRIED), ([MARRIED, NONE], NONE), ([MAY], MAY)]
    *_, last = quac_file(tmp_path, CONTEXT, asked)
    assert last.history == (("q0", COMPOSER), ("q1", MARRIED), ("q2", NONE))


def test_questions_on_which_people_do_not_agree_are_past_and_not_asked(tmp_path):
    """The F1 of two people is 0, 2/5, 2/3 of these; from 0.4 it counts."""
    asked = [
        ([MAY, MARRIED], MAY),
        (["In", "In May 1983 she"], "In"),
        ([MARRIED, COMPOSER], MARRIED),
        ([MAY, MARRIED, NONE, NONE], MAY),
        ([MAY], MAY),
    ]
    examples = quac_file(tmp_path, CONTEXT, asked)
    assert [example.id for example in examples] == [f"C_1_1_q#{i}" for i in (1, 2, 3, 4)]
    assert examples[0].history == (("q0", MAY),) and len(examples[-1].history) == 4
    assert [agreement(list(references)) for references, _ in asked[:3]] == pytest.approx([0, 2 / 5, 2 / 3])


def test_a_person_who_is_left_out_counts_for_the_others(tmp_path):
    """Of three answers one is right: it is there in two of the three comparisons, and in the third the second best."""
    (first,) = quac_file(tmp_path, CONTEXT, [([MARRIED, COMPOSER, MAY], MARRIED)])
    ((f1,), (match,)) = rows([first], [MARRIED])
    assert f1 == pytest.approx((1 + 1 + 2 / 3) / 3) and match == pytest.approx(2 / 3)
    turns = [("Nikos", "nikos.", "a composer", "unknown"), ("unknown", "unknown", "a composer", "unknown")]
    one, two = coqa_file(tmp_path / "other", CONTEXT, turns)
    assert one.gold == turns[0] and one.answers == (("Nikos", CONTEXT.index("Nikos")),)
    assert two.gold == turns[1] and not two.answers and two.history == (("q0", "Nikos"),)
    assert rows([one, two], ["Nikos", "Nikos"]) == [[1, 0], [1, 0]]
    assert rows([one, two], ["", ""]) == [[3 / 4, 1], [3 / 4, 1]], "an empty answer is 'unknown'"
    assert rows([one, two], ["composer", "composer"]) == [[3 / 4, 3 / 4]] * 2


def test_as_good_as_people(tmp_path):
    """People agree on the first with an F1 of 2/3, on the second with 1."""
    asked = [([MARRIED, COMPOSER], MARRIED), ([MAY], MAY)]
    examples = quac_file(tmp_path, CONTEXT, asked)
    again = quac_file(tmp_path / "again", f"{CONTEXT} So.", asked)  # another conversation, cut after its first question
    assert equivalence(examples, ["Nikos", MAY]) == (0.5, 0), "2 of 3 and 1 of 2 words: less than 2/3"
    assert equivalence(examples, [COMPOSER, MAY]) == (1, 1)
    assert equivalence(examples, [MARRIED, "In May"]) == (0.5, 0)
    assert equivalence([*examples, again[0]], [MARRIED, "", MARRIED]) == (pytest.approx(2 / 3), 0.5)
    coqa = coqa_file(tmp_path / "coqa", CONTEXT, [("Nikos", "a composer")])
    assert set(TASK.measure(coqa, ["Nikos"], of="coqa", language="en")) == {"f1", "exact_match"}


def test_scores_can_be_resampled(tmp_path):
    examples = coqa_file(tmp_path, CONTEXT, [("Nikos", "a composer"), ("May", "May"), ("unknown", "unknown")])
    found = TASK.measure(examples, ["Nikos", "May", "x"], of="coqa", language="en")["f1"]
    assert found.rows.shape == (3, 1) and score(found.kind, found.rows) == pytest.approx(0.5)
    assert resampled(found.kind, found.rows, found.rows.astype(int) * 0 + [[0, 1, 2]]).shape == (3,)
    assert TASK.measure([], [], of="coqa", language="en")["f1"].rows.shape == (0, 1)


# --- the scripts ------------------------------------------------------------------------------------------------------


def oracle_words(text):
    kept = re.sub("[^a-z0-9 ]", "", text.lower()).split()
    return [word for word in kept if word not in ("a", "an", "the")]


def oracle_f1(one, two, *, empty):
    """Fractions, and words crossed out one after the other."""
    ours, left = oracle_words(one), oracle_words(two)
    total = len(ours) + len(left)
    if not ours or not left:
        return Fraction(empty and total == 0)
    same = 0
    for word in ours:
        if word in left:
            left.remove(word)
            same += 1
    return Fraction(2 * same, total)


def oracle_left_out(gold, worth):
    """By definition: the mean over all ways to keep n - 1 of n gold answers."""
    kept = list(itertools.combinations(gold, len(gold) - 1)) if len(gold) > 1 else [gold]
    return sum(max(map(worth, those)) for those in kept) / Fraction(len(kept))


def oracle(script, references, said):
    """(F1, exact match, people's F1), or None where people do not agree."""
    people = Fraction(1)
    if script == "quac":
        given = [text for text in references if text != NONE]
        if len(references) - len(given) >= len(given):
            return (Fraction(said == NONE),) * 2 + (people,)
        references = given
        human = [
            max(oracle_f1(one, two, empty=False) for j, two in enumerate(given) if j != i)
            for i, one in enumerate(given)
            if len(given) > 1
        ]
        people = sum(human) / len(human) if human else people
        if people < Fraction(2, 5):
            return None
    return (
        oracle_left_out(references, lambda text: oracle_f1(said, text, empty=script == "coqa")),
        oracle_left_out(references, lambda text: Fraction(oracle_words(said) == oracle_words(text))),
        people,
    )


def conversation(chance, *, nothing):
    """A text, the gold answers of its turns, and predictions, some of them right, some empty."""
    text = chance.choices(WORDS, k=14)

    def span():
        first = chance.randrange(len(text))
        return " ".join(text[first : first + chance.randint(1, 4)])

    several = chance.randint(1, 5)
    near = [span() for _ in range(2)]
    gold = [
        [chance.choice([nothing, span(), *near, near[0]]) for _ in range(several)] for _ in range(chance.randint(1, 3))
    ]
    said = [chance.choice([nothing, span(), *near, *own]) for own in gold]
    return " ".join(text), [*gold, near[:1] * several], [*said, near[1]]


@pytest.mark.parametrize(("script", "nothing"), [("quac", NONE), ("coqa", "unknown")])
def test_scores_are_those_of_the_oracle(tmp_path, script, nothing):
    chance = random.Random(4)
    dropped = asked = 0
    for _ in range(CASES):
        context, gold, said = conversation(chance, nothing=nothing)
        if script == "quac":
            gold[-1] = gold[-1][:1]  # what one person says is always asked
            examples = quac_file(tmp_path, context, [(own, own[0]) for own in gold])
        else:
            examples = coqa_file(tmp_path, context, gold)
        worth = {f"q{i}": oracle(script, own, one) for i, (own, one) in enumerate(zip(gold, said, strict=True))}
        expected = {name: those for name, those in worth.items() if those is not None}
        assert [example.question for example in examples] == list(expected), gold
        own = [one for name, one in zip(worth, said, strict=True) if name in expected]
        own = ["" if one == nothing and chance.random() < 0.5 else one for one in own]  # as a model says it
        for column, values in enumerate(rows(examples, own)):
            assert values == pytest.approx([float(those[column]) for those in expected.values()]), (gold, own)
        if script == "quac" and expected:
            as_good = [f1 >= people for f1, _, people in expected.values()]
            assert equivalence(examples, own) == (pytest.approx(sum(as_good) / len(as_good)), all(as_good)), (gold, own)
        dropped, asked = dropped + len(worth) - len(expected), asked + len(expected)
    assert asked > CASES and (dropped > 50) == (script == "quac")


def test_what_is_left_out_is_the_best_once():
    chance = random.Random(5)
    for _ in range(CASES):
        scores = [chance.choice([0.0, 0.25, 0.5, 1.0]) for _ in range(chance.randint(1, 6))]
        assert left_out(scores) == pytest.approx(float(oracle_left_out(scores, Fraction)))
    assert left_out([0.3]) == 0.3 and agreement(["cat"]) == 1 and agreement(["cat", "dog"]) == 0
    assert answer_f1("cat", ["cat", "dog"]) == exact_match("cat", ["cat", "dog"]) == 1, "SQuAD's takes the best"
