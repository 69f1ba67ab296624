"""Real runs with every objective on translation pairs: any ranks, any engine, resumed bit for bit, the queue too."""

from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from tests.resume.test_elastic import checkpoint, launch
from tests.runs import metrics
from tests.tiny import make_pairs, make_workspace

TABLES = """
[objectives.translation_lm]
[objectives.structure]
group_pairs = 2
projection_size = 8
"""
FORMS = {
    "momentum": """
[objectives.align_words]
form = "index"
[objectives.align_sentences]
form = "momentum"
queue_size = 20
momentum = 0.9
projection_size = 8
""",
    "byol": """
[objectives.align_words]
form = "dictionary"
[objectives.align_sentences]
form = "byol"
group_pairs = 2
projection_size = 8
""",
}
TAGS = ("loss/total", "loss/align_sentences", "loss/align_words", "loss/structure", "loss/translation_lm")
TAGS += ("optim/grad_norm/student",)


@pytest.fixture(scope="module")
def recipes(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pairs")
    path = make_workspace(folder)
    make_pairs(folder / "data", PreTrainedTokenizerFast.from_pretrained(folder / "data" / "tokenizer"))
    text = path.read_text().replace("max_sequence_tokens = 32", "max_sequence_tokens = 32\nparallel_ratio = 0.5")
    made = {}
    for name, tables in FORMS.items():
        made[name] = folder / f"{name}.toml"
        made[name].write_text(text + TABLES + tables)
    return made


def rows(recipe: Path, name: str) -> list[list[float]]:
    return [[row[tag] for tag in TAGS] for row in metrics(recipe.parent / "runs" / name)]


@pytest.mark.dist
@pytest.mark.parametrize("form", FORMS)
def test_ranks_engines_and_a_resume_change_nothing(recipes, form):
    recipe = recipes[form]
    wide = ["--train.micro_batch_sequences", "16"]
    whole, cut = f"{form}_zero0_w1", f"{form}_zero2_w2"
    launch(recipe, [{"name": whole, "engine": "zero0", "resume": "never", "options": wide}], world=1)
    launch(
        recipe,
        [
            {"name": cut, "engine": "zero2", "resume": "never"},
            {"name": f"{form}_zero3_w2", "engine": "zero3", "resume": "never"},
            {"name": f"{form}_again", "engine": "zero2", "resume": checkpoint(recipe, cut)},
            {"name": f"{form}_wider", "engine": "zero3", "resume": checkpoint(recipe, whole)},
        ],
        world=2,
    )
    golden = rows(recipe, whole)
    assert len(golden) == 6
    for name, expected in ((cut, golden), (f"{form}_zero3_w2", golden), (f"{form}_wider", golden[3:])):
        for found, row in zip(rows(recipe, name), expected, strict=True):
            assert found == pytest.approx(row, rel=1e-4, abs=1e-6), name
    assert rows(recipe, f"{form}_again") == rows(recipe, cut)[3:]
    last = [Path(checkpoint(recipe, name)).with_name("step_00000006") for name in (whole, cut, f"{form}_again")]
    files = [path / "objectives" / "align_sentences.safetensors" for path in last]
    assert [file.is_file() for file in files] == [form == "momentum"] * 3
    if form == "momentum":
        one, other, again = map(load_file, files)
        assert one["queue"].shape == (20, 8)
        assert all(other[key].equal(again[key]) for key in one), "bit for bit"
        assert all(other[key].allclose(one[key], rtol=1e-3, atol=1e-5) for key in one), "on any number of ranks"
