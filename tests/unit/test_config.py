import pytest

from unibert.config import field_help, load_recipe, to_toml
from unibert.errors import ConfigError
from unibert.objective_tables import Ramp

MINIMAL = 'name = "x"\nlanguages = ["en", "no"]\n[student]\nstart = "random"\n[objectives.masked_lm]\n'


def write(folder, text=MINIMAL, name="x.toml"):
    path = folder / name
    path.write_text(text)
    return path


def test_layers_default_extends_file_flags(tmp_path):
    write(tmp_path, MINIMAL + "[train]\nsteps = 5\nseed = 9\n[optimizer]\nepsilon = 1e-8\n", "base.toml")
    path = write(tmp_path, 'extends = "base.toml"\nname = "y"\n[train]\nsteps = 6\n')
    recipe = load_recipe(path, ["--train.seed", "3", "--objectives.masked_lm.weight={ max = 0.5 }"])
    assert (recipe.name, recipe.train.steps, recipe.train.seed) == ("y", 6, 3)
    assert recipe.optimizer.epsilon == 1e-8
    assert recipe.train.micro_batch_sequences == 32
    assert recipe.objectives.masked_lm is not None
    assert recipe.objectives.masked_lm.weight == Ramp(max=0.5)
    assert recipe.languages == ("en", "no")


def test_extends_lays_files_over_each_other(tmp_path):
    write(tmp_path, MINIMAL + "[train]\nsteps = 5\nseed = 9\n", "a.toml")
    write(tmp_path, 'extends = "a.toml"\n[train]\nsteps = 6\n', "b.toml")
    write(tmp_path, "[train]\nsteps = 7\nmicro_batch_sequences = 2\n[optimizer]\nepsilon = 1e-8\n", "c.toml")
    train = load_recipe(write(tmp_path, 'extends = ["b.toml", "c.toml"]\n[train]\nmicro_batch_sequences = 4\n')).train
    assert (train.seed, train.steps, train.micro_batch_sequences) == (9, 7, 4)


def test_extends_in_a_circle_is_refused(tmp_path):
    write(tmp_path, 'extends = "b.toml"\n', "a.toml")
    with pytest.raises(ConfigError, match=r"b\.toml: extends itself, by way of .*a\.toml"):
        load_recipe(write(tmp_path, 'extends = "a.toml"\n', "b.toml"))


def test_every_wrong_key_is_named_at_once_with_a_suggestion(tmp_path):
    text = MINIMAL + '[train]\nstpes = 5\nsteps = 0\n[optimiser]\n[save]\nevery_steps = "often"\n'
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(tmp_path, text))
    said = str(caught.value)
    assert "4 thing(s)" in said
    assert "train.stpes: unknown key; perhaps you meant 'steps'" in said
    assert "optimiser: unknown key; perhaps you meant 'optimizer'" in said
    assert "train.steps = 0" in said
    assert "save.every_steps = 'often'" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MINIMAL + "[objectives.distill_hidden]\n", "needs a \\[teacher\\]"),
        (MINIMAL + "[objectives.language_guess]\n", "needs a \\[discriminator\\]"),
        (MINIMAL + "[discriminator]\n", "would never learn"),
        (MINIMAL.replace("[objectives.masked_lm]", ""), "no objective"),
        (MINIMAL.replace('"no"', '"en"'), "named twice: en"),
        (MINIMAL + "[masking]\nmask_fraction = 0.9\nrandom_fraction = 0.2\n", "at most 1"),
        (MINIMAL.replace("random", "teacher"), "start_from"),
        ("name = [", "not valid TOML"),
    ],
)
def test_what_cannot_be_right_is_refused(tmp_path, text, said):
    with pytest.raises(ConfigError, match=said):
        load_recipe(write(tmp_path, text))


def test_an_unknown_recipe_is_answered_with_the_known_ones():
    with pytest.raises(ConfigError, match="perhaps you meant 'demo'"):
        load_recipe("demp")


@pytest.mark.parametrize("name", ["demo", "demo_teacher"])
def test_a_resolved_recipe_is_a_recipe(tmp_path, name):
    recipe = load_recipe(name)
    assert load_recipe(write(tmp_path, to_toml(recipe))) == recipe


def test_flags_without_value_or_table_are_refused(tmp_path):
    path = write(tmp_path)
    with pytest.raises(ConfigError, match="has no value"):
        load_recipe(path, ["--train.steps"])
    with pytest.raises(ConfigError, match="is a value, not a table"):
        load_recipe(path, ["--name.x", "1"])
    with pytest.raises(ConfigError, match="what is 'oops'"):
        load_recipe(path, ["oops"])


def test_every_field_has_help():
    assert all(text for _, _, text in field_help())
