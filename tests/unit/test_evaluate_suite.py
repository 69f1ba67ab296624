from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from tests.tiny import LANGUAGES, make_teacher, make_tokenizer, make_workspace
from unibert.config import Recipe, load_recipe
from unibert.errors import ConfigError, DataError
from unibert.evaluate import run, suite
from unibert.evaluate.results import BEFORE, STUDENT, TEACHER, read_result


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose run has an export before training and a later one."""
    folder = tmp_path_factory.mktemp("evaluate")
    make_workspace(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder / "data" / "tokenizer")
    make_teacher(folder / "runs" / "tiny" / "hf" / "step_00000000", tokenizer, layers=1)
    make_teacher(folder / "runs" / "tiny" / "hf" / "step_00000006", tokenizer, layers=1)
    run(load_recipe(folder / "tiny.toml"), dtype="fp32")
    return folder


@pytest.fixture
def workspace(made: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(made, tmp_path / "copy")
    recipe = tmp_path / "copy" / "tiny.toml"
    recipe.write_text(recipe.read_text().replace(str(made), str(tmp_path / "copy")))
    return tmp_path / "copy"


def recipe_of(folder: Path) -> Recipe:
    return load_recipe(folder / "tiny.toml")


def report_of(folder: Path) -> dict:
    return json.loads((folder / "runs" / "tiny" / "report" / "report.json").read_text())


def forbid_measuring(monkeypatch: pytest.MonkeyPatch, *, but: str = "") -> list[str]:
    measured: list[str] = []
    real = suite.measure

    def watched(name: str, *args: object, **kwargs: object) -> object:
        assert name == but, f"{name} is measured again"
        measured.append(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(suite, "measure", watched)
    return measured


def test_three_models_are_measured_in_every_language(made: Path) -> None:
    report = report_of(made)
    assert [model["name"] for model in report["models"]] == [TEACHER, STUDENT, BEFORE]
    for model in report["models"]:
        assert set(model["masked"]) == set(LANGUAGES)
        assert set(model["retrieval"]) == set(LANGUAGES) - {"en"}
        assert set(model["probe"]) == {"mean", "first"}
        assert model["parameters"] > model["parameters_without_embeddings"] > 0
    assert [model["layers"] for model in report["models"]] == [2, 1, 1]


def test_equal_weights_give_equal_numbers(made: Path) -> None:
    _, student, before = report_of(made)["models"]  # the tiny workspace's exports are the same random model
    for part in ("masked", "retrieval", "probe"):
        assert student[part] == before[part]


def test_masked_numbers_are_those_of_the_model(made: Path) -> None:
    """Against transformers' own loss, one document at a time."""
    from transformers import AutoModelForMaskedLM

    from unibert.data.shards import ShardSet
    from unibert.evaluate.heldout_batches import heldout_batches

    recipe = recipe_of(made)
    model = AutoModelForMaskedLM.from_pretrained(made / "teacher").eval()
    shards = ShardSet.open(made / "data" / "shards_heldout", languages=recipe.languages)
    sums, counts = torch.zeros(4), torch.zeros(4)
    for batch in heldout_batches(recipe, shards, lines_per_language=100):
        for document in range(batch.documents):
            places = (batch.document.flatten() == document).nonzero().squeeze(1)
            labels = torch.full((len(places),), -100)
            for position, target in zip(batch.target_positions, batch.target_ids, strict=True):
                labels[places == position] = target
            with torch.no_grad():
                out = model(input_ids=batch.input_ids.flatten()[places][None], labels=labels[None])
            count = int((labels != -100).sum())
            sums[batch.language[document]] += out.loss * count
            counts[batch.language[document]] += count
    teacher = report_of(made)["models"][0]["masked"]
    for i, code in enumerate(recipe.languages):
        assert teacher[code]["targets"] == counts[i]
        assert teacher[code]["cross_entropy"] == pytest.approx((sums[i] / counts[i]).item(), abs=2e-4)


def test_second_evaluation_measures_nothing(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = report_of(workspace)
    forbid_measuring(monkeypatch)
    run(recipe_of(workspace), dtype="fp32")
    after = report_of(workspace)
    assert after["headline"] == before["headline"]


def test_only_the_model_that_changed_is_measured(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = AutoTokenizer.from_pretrained(workspace / "data" / "tokenizer")
    make_teacher(workspace / "runs" / "tiny" / "hf" / "step_00000012", tokenizer, layers=3)
    measured = forbid_measuring(monkeypatch, but=STUDENT)
    run(recipe_of(workspace), dtype="fp32")
    assert measured == [STUDENT]
    assert report_of(workspace)["models"][1]["layers"] == 3


def test_other_held_out_text_is_measured_anew(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = workspace / "data" / "heldout" / "lines" / "de.jsonl"
    path.write_text(path.read_text().replace("a", "e"))
    with pytest.raises(AssertionError, match="teacher is measured again"):
        forbid_measuring(monkeypatch)
        run(recipe_of(workspace), dtype="fp32")


def test_without_language_stands_beside_the_plain_figures(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain ones stay as they were; a result knows what it was measured with, and older ones are still read."""
    before = report_of(workspace)
    assert all(model["removed"] is None for model in before["models"])
    run(recipe_of(workspace), dtype="fp32", remove_language=2)
    after = report_of(workspace)
    for old, new in zip(before["models"], after["models"], strict=True):
        assert all(new[part] == old[part] for part in ("masked", "retrieval", "probe"))
        assert new["removed"]["rank"] == 2 and set(new["removed"]["retrieval"]) == set(new["retrieval"])
        assert new["removed"]["probe"]["mean"]["accuracy"] != new["probe"]["mean"]["accuracy"]
    assert after["command"].endswith("--remove-language 2")
    row = after["headline"][0]
    assert row["probe_mean_without_language"] == after["models"][0]["removed"]["probe"]["mean"]["accuracy"]
    assert 0 <= row["to_english_without_language"] <= 1
    page = (workspace / "runs" / "tiny" / "report" / "report.md").read_text()
    assert f"| {STUDENT}, language removed (rank 2) |" in page and "must be told" in page
    with monkeypatch.context() as patch:
        forbid_measuring(patch)
        run(recipe_of(workspace), dtype="fp32", remove_language=2)
        with pytest.raises(AssertionError, match="teacher is measured again"):
            run(recipe_of(workspace), dtype="fp32", remove_language=1)
    path = workspace / "runs" / "tiny" / "report" / "results_teacher.json"
    tree = json.loads(path.read_text())
    del tree["removed"]
    path.write_text(json.dumps(tree))
    assert read_result(path, key=tree["key"]) is not None


def test_a_rank_above_the_lines_of_a_language_is_refused_before_any_work(workspace: Path) -> None:
    with pytest.raises(ConfigError, match=r"--remove-language 19: .* held-out lines to fit on"):
        run(recipe_of(workspace), remove_language=19)


def test_folders_of_ones_own_choice(workspace: Path) -> None:
    out = run(recipe_of(workspace), models={"mine": workspace / "teacher"}, dtype="fp32")
    assert [row["model"] for row in out["headline"]] == ["mine"]
    assert Path(out["report"], "results_mine.json").exists()


def test_model_with_another_tokenizer_is_refused(workspace: Path) -> None:
    folder = workspace / "foreign"
    make_teacher(folder, make_tokenizer(workspace / "other"))
    tree = json.loads((folder / "tokenizer.json").read_text())
    tree["model"]["vocab"][10], tree["model"]["vocab"][11] = tree["model"]["vocab"][11], tree["model"]["vocab"][10]
    (folder / "tokenizer.json").write_text(json.dumps(tree))
    with pytest.raises(DataError, match=r"foreign.*is not the one of the shards"):
        run(recipe_of(workspace), models={"foreign": folder})


@pytest.mark.parametrize(
    "missing", ["heldout/parallel.jsonl", "heldout/lines/ru.jsonl", "shards_heldout/manifest.json"]
)
def test_missing_held_out_text_is_named(workspace: Path, missing: str) -> None:
    (workspace / "data" / missing).unlink()
    with pytest.raises(DataError, match=missing.replace(".", r"\.")):
        run(recipe_of(workspace))


@pytest.mark.parametrize(("row", "says"), [('{"key": 3}', "texts"), ('{"key', "damaged"), ("[]", "damaged")])
def test_damaged_message_is_named_with_its_line(workspace: Path, row: str, says: str) -> None:
    path = workspace / "data" / "heldout" / "parallel.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], row, *lines[5:]]) + "\n")
    with pytest.raises(DataError, match=rf"parallel\.jsonl:5.*{says}"):
        run(recipe_of(workspace))


def test_too_few_messages_in_every_language(workspace: Path) -> None:
    path = workspace / "data" / "heldout" / "parallel.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[:30]) + "\n")
    with pytest.raises(DataError, match=r"40 held-out messages.*heldout_keys"):
        run(recipe_of(workspace))


def test_a_run_that_has_not_trained_says_so(workspace: Path) -> None:
    shutil.rmtree(workspace / "runs" / "tiny" / "hf" / "step_00000006")
    with pytest.raises(DataError, match="only export is the one before training"):
        run(recipe_of(workspace))
