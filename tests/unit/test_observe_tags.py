"""observe/tags.py: which tags a recipe has, the table, the check of unknown tags, the layout."""

import re

import pytest

from unibert.config import Recipe, load_recipe
from unibert.observe import tags


def recipe(*objectives: str, languages=("en", "de", "ru"), optimizer="adamw") -> Recipe:
    parts = {"objectives": {name: {} for name in objectives}, "student": {"start": "random"}}
    if "align_sentences" in objectives:
        parts["objectives"]["align_sentences"] = {"form": "info_nce"}
        parts["data"] = {"parallel_ratio": 0.5}
    parts["optimizer"] = {"name": optimizer}
    if any(name.startswith("distill_") for name in objectives):
        parts["teacher"] = {}
    if "language_guess" in objectives:
        parts["discriminator"] = {}
    return Recipe.model_validate({"name": "t", "languages": languages, **parts})


def test_bare_recipe_has_neither_teacher_nor_adversary():
    found = tags.applicable(recipe("masked_lm"))
    assert {"loss/masked_lm", "loss_by_language/ru", "optim/grad_norm/student", "eval/retrieval_top1"} <= set(found)
    assert not [tag for tag in found if tag.startswith(("teacher/", "adversary/")) or "discriminator" in tag]
    assert "speed/teacher_percent" not in found and "speed/mfu_percent" not in found
    assert not [tag for tag in found if "trust_ratio" in tag]


def test_full_recipe_has_all_of_them_once_and_no_placeholder_is_left():
    on = ("masked_lm", "distill_hidden", "distill_logits", "language_guess", "language_confusion", "align_sentences")
    full = recipe(*on, optimizer="lamb")
    found = tags.applicable(full, device_peak_known=True)
    assert len(found) == len(set(found)) and not any("<" in tag for tag in found)
    expected = {
        tag.pattern for tag in tags.TAGS if tag.when not in (tags.FP16, tags.REPORT)
    }  # the engine file's; no run's
    assert {tags.tag_of(tag).pattern for tag in found} == expected
    assert {"optim/grad_norm/discriminator", "schedule/weight/language_confusion", "speed/mfu_percent"} <= set(found)
    assert {f"optim/trust_ratio_{which}" for which in ("min", "median", "max")} <= set(found)


def test_hidden_distillation_alone_times_the_teacher_but_has_no_agreement():
    found = tags.applicable(recipe("distill_hidden"))
    assert "speed/teacher_percent" in found
    assert "teacher/agreement_top1" not in found and "loss_by_language/de" not in found


def test_retrieval_needs_english_and_another_language():
    assert "eval/retrieval_top1" not in tags.applicable(recipe("masked_lm", languages=("de", "ru")))
    assert "eval/retrieval_top1" not in tags.applicable(recipe("masked_lm", languages=("en",)))


def test_a_tag_finds_its_own_row():
    assert tags.tag_of("loss/total").pattern == "loss/total"
    assert tags.tag_of("loss/masked_lm").pattern == "loss/<objective>"
    assert tags.tag_of("loss_by_language/zh-hant").unit == "nats per target"


@pytest.mark.parametrize("name", ["loss", "loss/a/b", "los/total", "speed/tokens_per_second_", "optim/lr/student"])
def test_a_tag_that_is_not_described_is_refused(name):
    with pytest.raises(AssertionError, match=re.escape(name)):
        tags.tag_of(name)


def test_table_has_every_tag_once():
    rows = [line for line in tags.table().splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == [tag.pattern for tag in tags.TAGS]
    assert len({row.count("|") for row in rows}) == 1


def test_layout_shows_every_tag_in_one_chart_and_matches_only_it():
    this = load_recipe("demo")
    names = tags.applicable(this)
    series = [s for charts in tags.layout(this).values() for kind, found in charts.values() for s in found]
    for name in names:
        assert len([s for s in series if re.match(s, name)]) == 1, name
    assert len(series) == len(names)


def test_layout_groups_languages_by_script():
    charts = tags.layout(recipe("masked_lm"))["loss by language"]
    assert {chart: len(series) for chart, (_, series) in charts.items()} == {"Latn": 2, "Cyrl": 1}
