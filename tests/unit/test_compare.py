"""The report of several models: what is marked is what is significant, and every page says the same."""

import json
import re

import numpy as np
import pytest

from tests.unit.small_results import row
from unibert.errors import ConfigError, DataError
from unibert.evaluate.compare.analysis import AVERAGE, analyse
from unibert.evaluate.compare.consistency import newest
from unibert.evaluate.compare.pages import markdown
from unibert.evaluate.compare.report import write_report
from unibert.evaluate.results_file import Results

LANGUAGES = ("de", "ru", "ar", "pcm")


def rows(*, better=0.25, size=200):
    """`ours` and `twin` are equally good, `weak` is worse in everything."""
    chance, found = np.random.default_rng(0), []
    for task in ("nli", "qa"):
        for language in LANGUAGES:
            for seed in range(2):
                easy = chance.random(size)
                for model, share in (("ours", 0.7), ("twin", 0.7), ("weak", 0.7 - better)):
                    noise = 0.1 * chance.normal(size=size)
                    found.append(
                        row(model, language, easy + noise < share, task=task, seed=seed, data=f"{task}{language}")
                    )
    return found


@pytest.fixture(scope="module")
def found():
    return analyse(rows(), reference="weak", ours=["ours"], resamples=300)


def test_the_worse_is_not_marked_and_the_equal_is(found):
    for column in ("nli zero-shot", "qa zero-shot"):
        entries = found.entries[column][AVERAGE]
        assert entries["ours"].best and entries["twin"].best and not entries["weak"].best
        assert entries["weak"].p < 0.01
        assert all(entry.score.low < entry.score.value < entry.score.high for entry in entries.values())
        assert all(entry.deviation > 0 for entry in entries.values())


def test_what_only_describes_a_model_is_shown_and_not_ranked():
    """Nor does what embeddings find without their language count beside the same task."""
    more = [
        row(one.model, one.language, [1.0] if one.model == "weak" else [0.5], task="language_probe", data=one.language)
        for one in rows(size=4)
        if one.task == "nli" and not one.seed
    ]
    told = [
        one.model_copy(update={"way": "untuned, language removed (rank 1)", "key": f"lir{one.key}"})
        for one in rows(size=4)
    ]
    found = analyse([*rows(size=4), *more, *told], reference="weak", resamples=100)
    assert not any(entry.best for entry in found.entries["language_probe zero-shot"][AVERAGE].values())
    assert set(found.against["ours"].by_column) == {"nli zero-shot", "qa zero-shot"}


def test_models_of_other_tokenizers_do_not_compare_in_masked_prediction():
    asked = [row(model, "de", [1.0, 0.0], task="masked", data=f"pieces of {model}") for model in ("ours", "weak")]
    both = [row(model, "de", [1.0, 0.0]) for model in ("ours", "weak")]
    found = analyse([*asked, *both], resamples=50)
    assert found.left_out == ["masked zero-shot de: models of other tokenizers or lengths are asked for other tokens"]


def test_improvements_are_those_of_the_means(found):
    means = {
        m: np.mean([found.entries["nli zero-shot"][code][m].score.value for code in LANGUAGES]) for m in found.models
    }
    against = found.against["ours"]
    expected = 100 * (means["ours"] - means["weak"]) / means["weak"]
    assert against.by_column["nli zero-shot"].value == pytest.approx(expected)
    assert against.mean.value == pytest.approx(np.mean([one.value for one in against.by_column.values()]))
    assert max(against.adjusted.values()) < 0.05 and against.mean.low > 0
    assert set(found.against) == {"ours", "twin"}


def test_equal_models_are_not_told_apart():
    same = [one for one in rows(better=0.0) if one.model != "twin"]
    found = analyse(same, reference="weak", resamples=300)
    assert found.against["ours"].mean.p > 0.05 and found.against["ours"].wilcoxon.p > 0.05
    assert all(entry.best for entry in found.entries["nli zero-shot"][AVERAGE].values())


def test_languages_that_a_model_lacks_are_left_out_of_all():
    few = [one for one in rows() if (one.model, one.language) != ("twin", "ru")]
    found = analyse(few, resamples=50)
    assert found.languages["nli zero-shot"] == ["ar", "de", "pcm"]
    assert "nli zero-shot ru: not measured of twin" in found.left_out
    groups = found.groups["script"]
    assert set(groups) == {"Arabic", "Latin", "other"}


def test_nothing_is_relative_to_nothing():
    tests = [row("a", "de", [1, 0, 1]), row("b", "de", [0, 0, 1])]
    tests += [row("a", "de", [1, 0, 1], task="qa"), row("b", "de", [0, 0, 0], task="qa")]
    found = analyse(tests, reference="b", resamples=50)
    assert list(found.against["a"].by_column) == ["nli zero-shot"]
    assert found.against["a"].mean.value == pytest.approx(100)
    assert any("qa zero-shot against b" in line for line in found.left_out)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(DataError, match="different examples"):
        analyse([row("a", "de", [1, 0]), row("b", "de", [1, 0], data="other")])
    both = [row("a", "de", [1, 0]), row("b", "de", [1, 0])]
    with pytest.raises(ConfigError, match=r"--reference: no results of c; name some of those there are: a, b"):
        analyse(both, reference="c")
    with pytest.raises(ConfigError, match="--ours: no results of c"):
        analyse(both, ours=["c"])
    for ours in ("a", "b"):  # nobody on the other side
        with pytest.raises(ConfigError, match=f"--ours {ours}: without the reference a there are b"):
            analyse(both, reference="a", ours=[ours])
    with pytest.raises(DataError, match="no results of any model"):
        analyse([row("a", "de", [1, 0], purpose="tuning")])
    with pytest.raises(DataError, match="no task, set and language"):
        analyse([row("a", "de", [1, 0]), row("b", "ru", [1, 0])])


def test_every_page_is_written(tmp_path, found):
    files = []
    for model in found.models:
        file = Results(tmp_path / f"{model}.jsonl")
        for one in rows():
            if one.model == model:
                file.add(one)
        files.append(file.path)
    write_report(files, tmp_path / "report", reference="weak", ours=["ours"], resamples=300)
    page = (tmp_path / "report" / "report.md").read_text()
    mean = 100 * found.entries["nli zero-shot"][AVERAGE]["ours"].score.value
    assert f"**{mean:.1f}** ±" in page and "## By script" in page and "German (de)" in page
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert content["entries"]["nli zero-shot"][AVERAGE]["weak"]["best"] is False
    assert r"\textbf{" in (tmp_path / "report" / "report.tex").read_text()
    for name in ("heatmap.png", "improvement.png"):
        assert (tmp_path / "report" / name).read_bytes().startswith(b"\x89PNG")


def test_cost_is_the_mean_over_trainings_and_empty_where_nothing_is_known():
    def trained(model, seed, tokens, hours):
        one = row(model, "de", [1.0, 0.0], seed=seed)
        return one.model_copy(update={"weights": f"{seed}", "trained_tokens": tokens, "trained_hours": hours})

    found = analyse([trained("a", 0, 100, 1.0), trained("a", 1, 300, 2.0), trained("b", 0, None, None)], resamples=50)
    assert (found.facts["a"]["tokens"], found.facts["a"]["hours"]) == (200, 1.5)
    assert found.facts["b"]["tokens"] is None
    page = markdown(found, charts=[], files=["r"])
    assert "| a | 0.0M | 0.0M | 200 | 1.50 | 2 |" in page and "| b | 0.0M | 0.0M |  |  | 1 |" in page
    assert "Trained on, or read with: nli zero-shot: en." in page


def test_tensorboard_has_every_score_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "r.jsonl").write_text("".join(one.model_dump_json() + "\n" for one in rows(size=20)))
    found = write_report([tmp_path / "r.jsonl"], tmp_path / "out", resamples=50, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "out" / "tb" / "ours")).Reload()
    expected = {f"task/{task}_zero-shot.{code}" for task in ("nli", "qa") for code in (*LANGUAGES, "mean")}
    assert set(events.Tags()["scalars"]) == expected
    (event,) = events.Scalars("task/nli_zero-shot.mean")
    assert event.value == pytest.approx(found.entries["nli zero-shot"][AVERAGE]["ours"].score.value)


def test_cards_get_their_own_scores_and_keep_the_rest(tmp_path):
    from huggingface_hub import ModelCard
    from tiny import make_teacher, make_tokenizer

    from unibert.evaluate.compare.cards import make_cards, write_cards
    from unibert.evaluate.finetune.subject import find_model

    make_teacher(tmp_path / "model", make_tokenizer(tmp_path / "tokenizer"), layers=1)
    card = tmp_path / "model" / "README.md"
    other = "model-index:\n- name: mine\n  results:\n  - task:\n      type: fill-mask\n    dataset:\n      name: x\n"
    other += "      type: x\n    metrics:\n    - type: loss\n      value: 3\n"
    card.write_text(f"---\nlicense: mit\n{other}---\n\n# Mine\n\nText.\n")
    weights = find_model(str(tmp_path / "model")).weights
    own = [
        row("m", code, [1, 0], seed=s).model_copy(update={"weights": weights}) for code in ("de", "ru") for s in (0, 1)
    ]
    for _ in range(2):
        write_cards(make_cards([*own, row("n", "de", [1, 1])], [f"m={tmp_path / 'model'}"]))
    read = ModelCard.load(card)
    assert read.data.license == "mit" and read.data.model_name == "mine" and read.text.strip() == "# Mine\n\nText."
    found = {(one.dataset_name, one.dataset_config): one for one in read.data.eval_results}
    assert len(read.data.eval_results) == 3 and set(found) == {("x", None), ("nli", "de"), ("nli", "ru")}
    assert found["nli", "de"].metric_value == 0.5 and found["nli", "de"].metric_type == "accuracy"
    assert found["nli", "de"].task_type == "text-classification" and found["x", None].metric_value == 3
    with pytest.raises(DataError, match="of other weights than lie in"):
        make_cards([row("m", "de", [1, 0])], [f"m={tmp_path / 'model'}"])
    with pytest.raises(ConfigError, match="NAME one of m"):
        make_cards(own, [f"k={tmp_path / 'model'}"])
    (tmp_path / "r.jsonl").write_text("".join(one.model_dump_json() + "\n" for one in own))
    for head in ("title: a: b: c", "model-index:\n- name: x", "model-index:\n- name: x\n  results: [x]", "- a"):
        card.write_text(f"---\n{head}\n---\n# x\n")
        with pytest.raises(DataError, match=r"README\.md: a card whose head cannot be read"):
            write_report([tmp_path / "r.jsonl"], tmp_path / "out", resamples=50, cards=[f"m={tmp_path / 'model'}"])
        assert not (tmp_path / "out").exists() and card.read_text() == f"---\n{head}\n---\n# x\n"


def changed(one, **facts):
    return one.model_copy(update={"key": one.key + str(facts), **facts})


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"source": "prefix 'query: '"}, r"de \(zero-shot\) was measured twice with seed 0, .* 'en' and .*query"),
        ({"weights": "newer"}, "measured twice with seed 0, weights older and newer"),
        ({"learning_rate": 5e-5}, "measured twice with seed 0, learning rates 2e-05 and 5e-05"),
        ({"seed": 1, "settings": {"epochs": 1}}, r"different settings \(epochs 3 and 1\)"),
        ({"seed": 1, "settings": {"epochs": 3, "train_limit": 9}}, r"different settings \(train_limit None and 9\)"),
        ({"task": "qa", "set": "qa", "weights": "newer"}, "nli and qa were measured of different weights"),
    ],
)
def test_what_is_no_repetition_is_no_seed(facts, said):
    one = row("ours", "de", [1.0, 0.0]).model_copy(update={"settings": {"epochs": 3}, "weights": "older"})
    with pytest.raises(DataError, match=said) as refused:
        analyse([one, changed(one, **facts)], resamples=50)
    assert "NAME=PATH" in str(refused.value)


def test_rows_of_before_settings_were_kept_compare_with_newer_ones():
    one = row("ours", "de", [1.0, 0.0])
    assert analyse([one, changed(one, seed=1, settings={"epochs": 1})], resamples=50).models == ["ours"]


def test_models_that_were_tuned_otherwise_are_said_to_be():
    one = row("ours", "de", [1.0, 0.0]).model_copy(update={"settings": {"epochs": 3, "prefix": "a"}})
    other = changed(one, model="weak", settings={"epochs": 1, "train_limit": 5})
    found = analyse([one, other], resamples=50)
    assert found.unlike == [
        "nli zero-shot: epochs 3 (ours), 1 (weak)",
        "nli zero-shot: train_limit None (ours), 5 (weak)",
    ]
    assert "**Not measured alike**:\n\n- nli zero-shot: epochs 3 (ours), 1 (weak)" in markdown(
        found, charts=[], files=[]
    )


def test_a_row_that_is_in_two_files_counts_once(tmp_path):
    for name in ("a", "b"):
        Results(tmp_path / name).add(row("ours", "de", [1.0, 0.0, 1.0]))
    found = write_report([tmp_path / "a", tmp_path / "b"], tmp_path / "report", resamples=50)
    assert found.entries["nli zero-shot"]["de"]["ours"].score.value == pytest.approx(2 / 3)


def test_nothing_relates_to_a_reference_that_is_0_with_a_seed():
    """Its mean may be above 0, and an improvement over it of thousands of percent."""
    values = {"weak": {0: [0.0] * 4, 1: [1.0, 0.0, 0.0, 0.0]}, "ours": {0: [1.0] * 4, 1: [1.0, 1.0, 1.0, 0.0]}}
    both = [row(model, "de", own[seed], task="qa", seed=seed) for model, own in values.items() for seed in own]
    both += [row(model, "de", [1.0, 0.0], seed=seed) for model in values for seed in (0, 1)]
    found = analyse(both, reference="weak", resamples=50)
    assert list(found.against["ours"].by_column) == ["nli zero-shot"]
    assert [line for line in found.left_out if line.startswith("qa zero-shot against weak: it scores 0.0")]


def again(one, **facts):
    return changed(one, **{"settings": {"precision": "fp32"}} | facts)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ({"data": "few", "rows": [[1.0]]}, {}, r"different examples, 1 and 4"),
        ({"data": "before"}, {}, r"different examples, 4 each: .* a file that changed"),
        ({"settings": {"precision": "bf16"}}, {}, r"precision 'bf16' and 'fp32'"),
        ({}, {}, r"other languages, or text of them, beside"),
        (
            {"settings": {"limit": 1, "training data": "a"}, "learning_rate": 5e-5, "data": "few"},
            {"settings": {"limit": None, "training data": "b"}},
            "limit 1 and None, training data 'a' and 'b'",
        ),
    ],
)
def test_what_was_measured_again_takes_the_place_of_the_older(old, new, said, tmp_path, capsys):
    one = row("ours", "de", [1.0, 0.0, 0.0, 0.0])
    older = again(one, key="older", values={"accuracy": 1.0}, **old)
    newer = again(one, key="newer", **new)
    file = Results(tmp_path / "r.jsonl")
    for found in (older, newer):
        file.add(found)
    found = write_report([file.path], tmp_path / "report", resamples=50)
    assert found.entries["nli zero-shot"]["de"]["ours"].score.value == 0.25
    (line,) = found.left_out
    assert re.fullmatch(rf"ours: nli \(zero-shot\): 1 older row is replaced by newer ones \(.*{said}.*\)", line)
    assert line in capsys.readouterr().out and line in (tmp_path / "report" / "report.md").read_text()
    kept, _ = newest([newer, older])
    assert kept == [older], "the order in the file decides"


@pytest.mark.parametrize(
    "facts",
    [
        {"settings": {"precision": "fp32", "epochs": 1}, "data": "other"},
        {"settings": {"precision": "fp32", "training data": "b"}, "data": "other"},
        {"weights": "newer", "data": "other"},
        {"source": "prefix 'query: '", "data": "other"},
        {"learning_rate": 5e-5},
    ],
)
def test_another_measurement_takes_no_place(facts):
    both = [again(row("ours", "de", [1.0, 0.0])), again(row("ours", "de", [1.0, 0.0]), **facts)]
    assert newest(both) == (both, [])
    with pytest.raises(DataError, match="measured twice with seed 0"):
        analyse(both, resamples=50)


def test_rows_of_different_examples_are_said_to_be():
    one = row("ours", "de", [1.0, 0.0])
    with pytest.raises(DataError, match="measured twice with seed 0, different examples, 2 and 1: another --limit"):
        analyse([one, changed(one, data="few", rows=[[1.0]])], resamples=50)
    with pytest.raises(DataError, match="seeds were measured on different examples, 2 each"):
        analyse([one, changed(one, data="other", seed=1)], resamples=50)


def test_languages_of_which_one_is_limited_do_not_mix():
    """As after a stop between the two: but a language that has no more examples than the limit is whole."""
    few = again(row("ours", "de", [1.0, 0.0]), settings={"precision": "fp32", "limit": 2})
    with pytest.raises(DataError, match=r"de and ru have 2 and 3 examples, one of them by --limit 2: give the newer"):
        analyse([few, again(row("ours", "ru", [1.0, 0.0, 1.0]))], resamples=50)
    analyse([few, again(row("ours", "ru", [1.0]))], resamples=50)
    told = [
        again(row("ours", code, [1.0]), values={"accuracy": 1.0, "chance": n})
        for code, n in (("de", 0.5), ("ru", 0.25))
    ]
    with pytest.raises(DataError, match=r"told apart among other languages, by a chance of 0\.5 and 0\.25"):
        analyse(told, resamples=50)
    third = [
        again(one, values={"accuracy": 1.0, "chance": n}) for one, n in zip(told, (1 / 3, 1 / 3 - 1e-16), strict=True)
    ]
    analyse(third, resamples=50)
