"""The report of several models: what is marked is what is significant, and every page says the same."""

import json

import numpy as np
import pytest

from unibert.errors import DataError
from unibert.evaluate.compare.analysis import AVERAGE, analyse
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
