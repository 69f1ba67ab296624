"""The recipes that come with unibert: all of them are whole, and a demo twin is the same system in small."""

import pytest

from unibert.config import RECIPES, load_recipe
from unibert.languages import LANGUAGES
from unibert.objectives import OBJECTIVES

SYSTEMS = sorted(path.stem.removesuffix("_demo") for path in RECIPES.glob("[!_]*_demo.toml"))
SIZES_AND_PATHS = {
    "name", "languages", "data.folder", "data.max_lines_per_language", "data.max_sequence_tokens",
    "data.smoothing_exponent", "data.sources", "data.parallel", "tokenizer.max_pieces",
    "teacher.source", "teacher.original", "teacher.trimmed", "teacher.path",
    "student.teacher_layers", "student.hidden_size", "student.num_layers", "student.num_heads",
    "student.intermediate_size", "optimizer.learning_rate", "train.steps", "train.global_batch_sequences",
    "train.micro_batch_sequences", "save.every_steps", "log.evaluate_every_steps",
    "objectives.distill_relations.relation_heads", "objectives.align_sentences.queue_size",
}  # fmt: skip


def leaves(tree, path=""):
    if isinstance(tree, dict) and tree:
        return {key: value for name, part in tree.items() for key, value in leaves(part, f"{path}.{name}").items()}
    return {path[1:]: tree}


def test_the_systems_of_the_papers_are_there():
    sizes = {"unibert_small", "unibert_xsmall", "unibert_xxsmall"}
    assert set(SYSTEMS) >= sizes | {"lightmbert", "mmkd", "ppa", "ssld", "distilmbert", "minilm", "mlm_only"}


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_demo_twin_differs_in_sizes_and_paths_alone(name):
    full, demo = (leaves(load_recipe(which).model_dump(mode="json")) for which in (name, f"{name}_demo"))
    changed = {key for key in full.keys() | demo.keys() if full.get(key) != demo.get(key)}
    assert changed <= SIZES_AND_PATHS
    assert len(full["languages"]) == len(LANGUAGES) == 107


def test_every_objective_is_in_a_recipe():
    used = {name for system in SYSTEMS for name in load_recipe(system).objectives.on()}
    assert used == set(OBJECTIVES)


def test_the_unibert_sizes_have_the_same_objectives():
    small, xsmall, xxsmall = (load_recipe(f"unibert_{size}").objectives for size in ("small", "xsmall", "xxsmall"))
    assert small == xsmall == xxsmall
