from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from unibert.errors import DataError
from unibert.evaluate import curves, heatmap, style
from unibert.evaluate.probe import ProbeScore
from unibert.evaluate.report import groups, headline, markdown, write_report
from unibert.evaluate.results import (
    BEFORE,
    SCRIPTS,
    STUDENT,
    TEACHER,
    Baseline,
    LanguageFacts,
    MaskedScore,
    ModelResult,
    Report,
    read_result,
    slug,
)
from unibert.evaluate.retrieval import RetrievalScore
from unibert.languages import LANGUAGES


def make_result(name: str, codes: list[str], *, found: float, nats: float, layers: int = 6) -> ModelResult:
    probe = ProbeScore(0.8, 0.78, 0.82, 1 / len(codes), 0.02, 0.01, 700, 300, dict.fromkeys(codes, 0.8))
    return ModelResult(
        name=name,
        folder=f"runs/x/{slug(name)}",
        key="0",
        dtype="fp32",
        parameters=2_000_000 * layers,
        parameters_without_embeddings=1_000_000 * layers,
        layers=layers,
        hidden_size=384,
        masked={code: MaskedScore(cross_entropy=nats, accuracy=0.2, targets=10) for code in codes},
        retrieval={code: RetrievalScore(found, found / 2, 0.01, 0.02, 90) for code in codes if code != "en"},
        probe={"mean": probe, "first": probe},
        seconds=1.0,
    )


def make_report(count: int = 12) -> Report:
    codes = ["en", *[code for code in LANGUAGES if code != "en"][: count - 1]]
    facts = {code: LANGUAGES[code] for code in codes}
    return Report(
        run="x",
        made="2026-01-01T00:00:00+00:00",
        command="unibert evaluate runs/x/recipe.toml",
        versions={"unibert": "0"},
        languages={
            code: LanguageFacts(name=f.name, script=SCRIPTS[f.script], family=f.family) for code, f in facts.items()
        },
        sources={"mediawiki": 30, "mine": 5},
        messages=160,
        left_out={"retrieval new": "12 messages, 40 needed"},
        baseline=Baseline(
            strongest="backed_off",
            kinds={"per_language": dict.fromkeys(codes, 8.0), "backed_off": dict.fromkeys(codes, 7.0)},
            accuracy=dict.fromkeys(codes, 0.05),
        ),
        models=[
            make_result(TEACHER, codes, found=0.8, nats=4.0, layers=12),
            make_result(STUDENT, codes, found=0.76, nats=5.0),
            make_result(BEFORE, codes, found=0.4, nats=9.0),
        ],
    )


def metrics(path: Path) -> Path:
    rows = [{"step": i, "loss/masked_lm": 9 - i / 50, "optim/lr": 1e-3} for i in range(1, 101)]
    for i in range(10, 101, 10):
        rows[i - 1] |= {"eval/masked_cross_entropy": 9 - i / 40, "eval/unigram_cross_entropy": 7.0}
    rows[4]["loss/masked_lm"] = None  # what the logger writes for a number that is not finite
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_headline_gives_the_students_share_of_the_teacher() -> None:
    rows = {row["model"]: row for row in headline(make_report())}
    assert rows[STUDENT]["to_english_of_teacher"] == pytest.approx(0.95)
    assert rows[STUDENT]["cross_entropy"] == pytest.approx(5.0)
    assert rows[BEFORE]["to_english"] == pytest.approx(0.4)
    assert rows[TEACHER]["to_english_of_teacher"] == 1.0


def test_share_is_taken_over_common_languages() -> None:
    report = make_report()
    some = {code: score for code, score in report.models[1].retrieval.items() if code != "af"}
    some["an"] = RetrievalScore(0.0, 0.0, 0.01, 0.02, 90)
    weak = {**report.models[0].retrieval, "af": RetrievalScore(0.0, 0.0, 0.01, 0.02, 90)}
    models = [
        report.models[0].model_copy(update={"retrieval": weak}),
        report.models[1].model_copy(update={"retrieval": some}),
    ]
    rows = headline(report.model_copy(update={"models": models}))
    common = len(some)
    assert rows[1]["to_english_of_teacher"] == pytest.approx(0.76 * (common - 1) / (0.8 * common))


def test_groups_are_means_over_their_languages() -> None:
    report = make_report(30)
    by_script = groups(report)["script"]
    assert sum(row["languages"] for row in by_script.values()) == 30
    assert by_script["Latin"][STUDENT]["to_english"] == pytest.approx(0.76)
    assert next(iter(by_script)) == "Latin"


def test_markdown_has_the_headline_first_then_every_language_and_the_limits() -> None:
    text = markdown(make_report())
    first_table = text[: text.index("## ")]
    assert "95.0 %" in first_table and "| student | 6 | 12.0M (6.0M) | 5.000 | 0.200 | 0.760 | 0.380 |" in first_table
    assert "2.00 nats below" in first_table and "12 of 12 languages" in first_table
    for code, facts in make_report().languages.items():
        assert f"| {code} | {facts.name} |" in text
    assert "30 of mediawiki (interface messages of a wiki), 5 of mine" in text
    assert "Left out: retrieval new (12 messages, 40 needed)" in text


def test_a_worse_model_is_said_to_be_above_the_baseline() -> None:
    report = make_report()
    bad = make_result(STUDENT, list(report.languages), found=0.1, nats=11.0)
    text = markdown(report.model_copy(update={"models": [bad]}))
    assert "4.00 nats above" in text and "0 of 12 languages" in text


def test_files_are_whole_json_has_no_nan_and_charts_are_pictures(tmp_path: Path) -> None:
    report = make_report(60)
    broken = report.models[0].model_copy(update={"masked": {}})
    report = report.model_copy(update={"models": [broken, *report.models[1:]]})
    write_report(report, tmp_path / "report", metrics=metrics(tmp_path / "metrics.jsonl"))

    def refuse(name: str) -> float:
        raise AssertionError(f"{name} is not JSON")

    tree = json.loads((tmp_path / "report" / "report.json").read_text(), parse_constant=refuse)
    assert tree["headline"][0]["cross_entropy"] is None
    assert len(tree["models"][1]["retrieval"]) == 59
    text = (tmp_path / "report" / "report.md").read_text()
    for name in ("retrieval.png", "languages.png", "masked.png", "training.png"):
        assert f"({name})" in text
        picture = image.imread(tmp_path / "report" / name)
        assert min(picture.shape[:2]) > 500
        assert (picture[..., :3].min(axis=2) < 0.9).mean() > 0.01, f"{name} is nearly empty"
    assert not list((tmp_path / "report").glob("*.tmp"))


def test_a_run_without_held_out_looks_has_no_training_chart(tmp_path: Path) -> None:
    write_report(make_report(6), tmp_path, metrics=tmp_path / "absent.jsonl")
    assert not (tmp_path / "training.png").exists()
    assert "training.png" not in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("count", [3, 20, 45, 107])
def test_columns_hold_every_language_once_under_its_script(count: int) -> None:
    report = make_report(count)
    values = {code: i / count for i, code in enumerate(report.languages)}
    columns = style.language_columns(report, values, descending=True)
    rows = [row for column in columns for row in column]
    assert sorted(row.code for row in rows if row.code) == sorted(report.languages)
    assert all(column[0].code is None and column[-1].code is not None for column in columns)
    tallest = max(len(column) for column in columns)
    assert tallest <= math.ceil(len(rows) / len(columns)) + 2
    for group in {row.group for row in rows}:
        inside = [values[row.code] for row in rows if row.code and row.group == group]
        assert inside == sorted(inside, reverse=True)


def test_map_holds_every_language_once_and_no_line_is_too_long() -> None:
    report = make_report(107)
    lines = heatmap.lay_out(report, report.main.per_language("to_english"))
    codes = [code for line in lines for block in line for code in block.codes]
    assert sorted(codes) == sorted(report.main.retrieval)
    assert all(block.left + len(block.codes) <= heatmap.PER_LINE for line in lines for block in line)


def test_models_have_colours_of_their_own() -> None:
    names = [TEACHER, STUDENT, BEFORE, "mine", "yours"]
    assert len({style.colour_of(name, among=names) for name in names}) == len(names)


def test_metrics_are_read_without_values_that_are_not_finite(tmp_path: Path) -> None:
    series = curves.read_metrics(metrics(tmp_path / "metrics.jsonl"))
    assert len(series["loss/masked_lm"][0]) == 99
    assert series["eval/masked_cross_entropy"][0].tolist() == list(range(10, 101, 10))


def test_damaged_metrics_are_an_error_with_the_line(tmp_path: Path) -> None:
    path = metrics(tmp_path / "metrics.jsonl")
    path.write_text(path.read_text() + '{"step": 101, "lo')
    with pytest.raises(DataError, match=r"metrics\.jsonl:101"):
        curves.read_metrics(path)


def test_smoothing_keeps_a_line_and_damps_noise() -> None:
    line = np.linspace(0, 1, 50)
    assert curves.smoothed(line, window=3)[3:-3] == pytest.approx(line[3:-3])
    noise = np.random.default_rng(0).normal(size=500)
    assert curves.smoothed(noise, window=10).std() < 0.4


def test_cached_result_is_used_only_if_whole_and_of_the_same_key(tmp_path: Path) -> None:
    result = make_result(STUDENT, ["en", "de"], found=0.5, nats=3.0)
    path = tmp_path / "results_student.json"
    path.write_text(result.model_dump_json())
    assert read_result(path, key="0") == result
    assert read_result(path, key="1") is None
    path.write_text(result.model_dump_json()[:-40])
    assert read_result(path, key="0") is None
    assert read_result(tmp_path / "absent.json", key="0") is None
