"""The claim in miniature: what is done is not done again, the page says what was not reached, and it runs (slow)."""

import json

import pytest
from tiny import make_workspace

from benchmarks import claim
from tests.unit.small_labelled import make_labelled
from unibert.evaluate.results_file import ResultRow, read_results


def row(variant, seed, task, value, *, key=""):
    return ResultRow(
        key=f"{variant}{seed}{task}{key}",
        purpose="test",
        model=variant,
        task=task,
        set=task,
        split="test",
        language="de",
        seed=0,
        way="zero-shot",
        source="en",
        metric="accuracy",
        kind="mean",
        values={"accuracy": value},
        rows=[[1.0]] * round(10 * value) + [[0.0]] * round(10 - 10 * value),
        ids="same",
        data="d",
        learning_rate=2e-5,
        parameters=10,
        parameters_without_embeddings=5,
        seconds=1.0,
        weights=f"{variant}{seed}",
    )


@pytest.fixture
def planted(tmp_path):
    """Two variants, two seeds, both tasks of the first seed and one of the second measured."""
    words = ["--data", "x", "--variants", "mlm,mlm+kd", "--seeds", "2", "--tasks", "nli,qa", "--steps", "7"]
    words += ["--runs", str(tmp_path / "runs"), "--docs", str(tmp_path / "docs")]
    here = claim.Claim(claim.parser().parse_args(words))
    (tmp_path / "docs").mkdir()
    (tmp_path / "runs" / "claim").mkdir(parents=True)
    found = {}
    for unit in claim.units(here.given):
        if unit.task is None:
            found[here.label(unit)] = {"tokens": 1234, "languages": 68, "minutes": 1.0}
            (tmp_path / "runs" / here.own(unit)).mkdir()
        elif (unit.seed, unit.task) != (2, "qa"):
            value = {"mlm": 0.5, "mlm+kd": 0.6 if unit.seed == 1 else 0.7}[unit.variant]
            here._results(unit).write_text(row(unit.variant, unit.seed, unit.task, value).model_dump_json() + "\n")
            found[here.label(unit)] = {"rows": 1, "minutes": 0.5}
    (tmp_path / "docs" / "claim.json").write_text(json.dumps(found))
    return words, tmp_path / "docs"


def test_what_is_done_is_not_done_again(planted, capsys, monkeypatch):
    words, _ = planted
    claim.main([*words, "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "mlm, seed 1: done" and len(lines) == 12
    assert [line for line in lines if line.endswith("to do")] == ["mlm, seed 2, qa: to do", "mlm+kd, seed 2, qa: to do"]
    asked = []
    monkeypatch.setattr(claim.Claim, "do", lambda self, unit: asked.append(unit.name))
    claim.main(words)
    assert asked == ["mlm, seed 2, qa", "mlm+kd, seed 2, qa"]
    capsys.readouterr()
    claim.main([*words, "--steps", "8", "--dry-run"])
    assert all(line.endswith("to do") for line in capsys.readouterr().out.splitlines()), "other sizes are other runs"


def test_done_is_what_is_in_the_runs_folder_and_of_this_data(planted, capsys, tmp_path):
    """The ledger is committed, and the runs are not: on another machine there is all to do."""
    words, docs = planted

    def to_do(*more):
        claim.main([*words, *more, "--dry-run"])
        return sum(line.endswith("to do") for line in capsys.readouterr().out.splitlines())

    assert (to_do(), to_do("--runs", str(tmp_path / "elsewhere"))) == (2, 12)
    assert to_do("--languages", "de,fr") == 12, "other languages are other trainings"
    ledger = json.loads((docs / "claim.json").read_text())
    (measured,) = [name for name in ledger if name.startswith("claim_mlm_1_") and " nli " in name]
    (docs / "claim.json").write_text(json.dumps(ledger | {measured: {"rows": 1, "data": "of another folder"}}))
    assert to_do() == 3


def test_languages_and_recipes_are_in_the_name_of_a_run(tmp_path):
    def own(*words):
        return claim.Claim(claim.parser().parse_args(["--data", "x", *words])).own(claim.Unit("mlm", 1))

    (tmp_path / "a.toml").write_text("a")
    (tmp_path / "b.toml").write_text("b")
    assert own("--languages", "de,fr") == own("--languages", "fr,de")
    made = {own(), own("--languages", "de,fr"), own("--languages", "sw,ru")}
    assert len(made | {own("--base", str(tmp_path / name)) for name in ("a.toml", "b.toml")}) == 5


def test_another_data_folder_has_another_fingerprint_through_links_too(tmp_path):
    def data():
        return claim.Claim(claim.parser().parse_args(["--data", str(tmp_path / "data")])).data

    (tmp_path / "stsb").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "stsb").symlink_to(tmp_path / "stsb")
    before = data()
    (tmp_path / "stsb" / "a.csv").write_text("one")
    one = data()
    (tmp_path / "stsb" / "a.csv").write_text("another")
    assert len({before, one, data()}) == 3


def test_the_page_is_written_again_from_its_scores_alone(planted, tmp_path):
    words, docs = planted
    with pytest.raises(SystemExit):
        claim.main([*words, "--minutes", "0"])
    before = (docs / "claim.md").read_text()
    (docs / "claim.md").unlink()
    claim.main([*words, "--runs", str(tmp_path / "elsewhere"), "--page"])
    assert (docs / "claim.md").read_text() == before


def test_when_the_minutes_are_over_it_says_so_and_writes_what_is_there(planted, capsys):
    words, docs = planted
    with pytest.raises(SystemExit) as left:
        claim.main([*words, "--minutes", "0"])
    assert left.value.code == 75 and "run the same command again" in capsys.readouterr().out
    text = (docs / "claim.md").read_text()
    assert "**Not reached**: mlm, seed 2, qa; mlm+kd, seed 2, qa." in text
    assert "7 steps of 32 documents\nin 68 languages, 1,234 tokens" in text
    for chart in ("heatmap", "improvement"):
        assert f"(claim/{chart}.png)" in text and (docs / "claim" / f"{chart}.png").exists()
    rows = read_results(docs / "claim.jsonl.gz")
    assert len(rows) == 6 and {(one.model, one.seed) for one in rows} == {
        (variant, seed) for variant in ("mlm", "mlm+kd") for seed in (1, 2)
    }


def test_the_page_says_its_command_without_folders():
    words = ["--data", "x", "--runs", "y", "--minutes", "3", "--steps", "7", "--rates", "0.1", "0.2"]
    given = claim.parser().parse_args([*words, "--train-limit", "qa=3", "--train-limit", "nli=4"])
    said = "python -m benchmarks.claim --data FOLDER --steps 7 --rates 0.1 0.2 --train-limit qa=3 --train-limit nli=4"
    assert claim.command(given) == said
    again = claim.parser().parse_args(said.split()[3:])
    assert claim.command(again) == said


def test_improvements_are_paired_by_seed():
    rows = [
        row("mlm", 1, "nli", 0.5),
        row("mlm+kd", 1, "nli", 0.6),
        row("mlm+kd", 1, "qa", 0.6),
        row("mlm", 1, "qa", 0.4),
    ]
    rows += [row("mlm", 2, "nli", 0.5), row("mlm+kd", 2, "nli", 0.4), row("mlm", 3, "nli", 0.5)]
    rows = [one.model_copy(update={"seed": int(one.weights[-1])}) for one in rows]
    rows.append(rows[0].model_copy(update={"task": "language_probe", "values": {"accuracy": 0.9}}))
    ((of, variant, seeds, each, mean, p),) = claim.by_seed(rows)
    assert (of, variant, seeds, each, mean) == ("all", "mlm+kd", "2", "+20.00, -20.00", "+0.00")
    assert float(p) == 1, "qa has one seed alone, so it is in no mean"
    plain = [one.model_copy(update={"task": "sts", "way": "untuned"}) for one in rows if one.task == "nli"]
    assert claim.by_seed(rows + plain)[-1][:5] == ["untuned", "mlm+kd", "2", "+20.00, -20.00", "+0.00"]
    nli, qa, probe = claim.by_column(rows)
    assert nli[:2] == ["nli, nli, zero-shot", "0.500 ± 0.000"] and nli[2].startswith("+0.0 ± 28.3 (1.000)")
    same = [one.model_copy(update={"task": "sts"}) for one in rows if one.model == "mlm+kd" and one.seed == 1]
    same += [one.model_copy(update={"seed": 2, "weights": "w2"}) for one in same]
    same += [one.model_copy(update={"model": "mlm", "values": {"accuracy": 0.3}}) for one in same]
    assert claim.by_column(same)[0][2] == "+100.0 ± 0.0 (the same for each seed)"
    assert qa == ["qa, qa, zero-shot", "0.400", "+50.0 (one seed)"]
    assert probe[1:] == ["0.900", ""], "shown, and in no mean"


BARE = """
name = "bare"
runs_folder = "{folder}/runs"
languages = ["en", "de", "ru", "ar"]

[data]
folder = "{folder}/data"
max_sequence_tokens = 32

[teacher]
path = "{folder}/teacher"
dtype = "fp32"

[student]
teacher_layers = [1]
trainable = "all"

[train]
steps = 6
threads_per_rank = 1

[engines]
student = "zero1_fp32"

[objectives.masked_lm]
"""


@pytest.mark.slow
@pytest.mark.dist
def test_it_trains_measures_and_goes_on(tmp_path, capsys):
    make_workspace(tmp_path)
    (tmp_path / "bare.toml").write_text(BARE.format(folder=tmp_path))
    words = ["--data", str(make_labelled(tmp_path / "labelled")), "--base", str(tmp_path / "bare.toml"), "--steps", "2"]
    words += ["--seeds", "1", "--tasks", "sts,retrieval,language_probe", "--batch", "16", "--epochs", "1"]
    words += ["--runs", str(tmp_path / "runs"), "--docs", str(tmp_path / "docs"), "--max-tokens", "32"]
    (tmp_path / "docs").mkdir()
    claim.main([*words, "--variants", "mlm"])
    capsys.readouterr()
    claim.main([*words, "--variants", "mlm,mlm+adv+kd"])
    lines = capsys.readouterr().out.splitlines()
    assert "mlm, seed 1, sts: done" in lines and "mlm+adv+kd, seed 1, sts: begun" in lines
    text = (tmp_path / "docs" / "claim.md").read_text()
    assert "All that was asked for was reached." in text and "| all | mlm+adv+kd | 1 |" in text
    models = {one.model for one in read_results(tmp_path / "docs" / "claim.jsonl.gz")}
    assert models == {"mlm", "mlm+adv+kd"}
    ledger = json.loads((tmp_path / "docs" / "claim.json").read_text())
    tokens = {one["tokens"] for one in ledger.values() if "tokens" in one}
    assert len(tokens) == 1, "all have read the same"
