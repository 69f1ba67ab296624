"""The report of several models: what is marked is what is significant, and every page says the same."""

import json

import numpy as np
import pytest

from unibert.errors import DataError
from unibert.evaluate.compare.analysis import AVERAGE, analyse
from unibert.evaluate.compare.pages import markdown
from unibert.evaluate.compare.report import write_report
from unibert.evaluate.results_file import ResultRow, Results

LANGUAGES = ("de", "ru", "ar", "pcm")


def row(model, language, values, *, task="nli", seed=0, data="d", purpose="test"):
    return ResultRow(
        key=f"{model}{task}{language}{seed}{purpose}",
        purpose=purpose,
        model=model,
        task=task,
        set=task,
        split="test",
        language=language,
        seed=seed,
        way="zero-shot",
        source="en",
        metric="accuracy",
        kind="mean",
        values={"accuracy": float(np.mean(values))},
        rows=[[float(value)] for value in values],
        ids="same",
        data=data,
        learning_rate=2e-5,
        parameters=10,
        parameters_without_embeddings=5,
        seconds=1.0,
    )


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
    with pytest.raises(DataError, match="no results of c"):
        analyse([row("a", "de", [1, 0])], reference="c")
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

    from unibert.evaluate.compare.cards import write_cards
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
        write_cards([*own, row("n", "de", [1, 1])], [f"m={tmp_path / 'model'}"])
    read = ModelCard.load(card)
    assert read.data.license == "mit" and read.data.model_name == "mine" and read.text.strip() == "# Mine\n\nText."
    found = {(one.dataset_name, one.dataset_config): one for one in read.data.eval_results}
    assert len(read.data.eval_results) == 3 and set(found) == {("x", None), ("nli", "de"), ("nli", "ru")}
    assert found["nli", "de"].metric_value == 0.5 and found["nli", "de"].metric_type == "accuracy"
    assert found["nli", "de"].task_type == "text-classification" and found["x", None].metric_value == 3
    with pytest.raises(DataError, match="of other weights than lie in"):
        write_cards([row("m", "de", [1, 0])], [f"m={tmp_path / 'model'}"])
    with pytest.raises(DataError, match="NAME one of m"):
        write_cards(own, [f"k={tmp_path / 'model'}"])


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
