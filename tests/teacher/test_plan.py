"""What `plan` says of teachers, copies and activations, against the tensors of the real objects."""

import json

import pytest
import torch
import torch.nn.functional as F

from tests.tiny import make_workspace
from unibert import cache_teacher
from unibert.config import load_recipe
from unibert.data.batches import Stream
from unibert.data.shards import ShardSet
from unibert.models.encoder import encode, load_encoder
from unibert.models.heads import masked_lm_head, seeded
from unibert.models.student import build_student
from unibert.models.teacher import load_resident, load_teacher, rest
from unibert.models.teacher.several import SeveralTeachers
from unibert.models.wanted import Sizes, Wanted
from unibert.objectives import Setting, build
from unibert.plan import make_plan
from unibert.plan.activations import kept_numbers, readings
from unibert.plan.memory import student_dimensions
from unibert.resume import stream_fingerprints

CPU = torch.device("cpu")
PAIRS = ("--data.parallel_ratio", "1.0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("plan")
    make_workspace(made)
    return made


def recipe_of(folder, *words):
    own = ["--teacher.cache_folder", str(folder / "cache"), "--teacher.offload_folder", str(folder / "rest")]
    return load_recipe(folder / "tiny.toml", [*own, *words])


def planned(recipe, name="teacher"):
    (found,) = (engine for engine in make_plan(recipe, world=2).engines if engine.name.startswith(name))
    return found


def size(tensors) -> int:
    """Bytes of storages, each once, that are on the device."""
    found = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if not t.is_meta}
    return sum(found.values())


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("head", ["same", "fp32"])
def test_a_resident_teacher(folder, dtype, head):
    recipe = recipe_of(folder, "--teacher.dtype", dtype, "--teacher.head_dtype", head)
    encoder = load_resident(recipe.teacher, device=CPU).encoder
    exact = [] if encoder.exact_head is None else list(encoder.exact_head.parameters())
    assert planned(recipe).rank_bytes == size([*encoder.hf.parameters(), *exact])
    whole = masked_lm_head(load_encoder(recipe.teacher.path)[0].hf).parameters()
    assert not exact or all(map(torch.equal, exact, whole)), "not one that was rounded before"
    assert planned(recipe).parameters == sum(p.numel() for p in encoder.hf.parameters())


@pytest.mark.parametrize("offload", ["cpu", "nvme"])
def test_an_offloaded_teacher_has_two_layers_on_the_device(folder, offload):
    recipe = recipe_of(folder, "--teacher.kind", "offloaded", "--teacher.offload", offload)
    if offload == "nvme":  # as the process of its own does, whose start is long
        source, place = recipe.teacher.path, recipe.teacher.offload_folder
        rest._write(source, torch.float32, rest.place_of(source, torch.float32, place))
    teacher = load_teacher(recipe, device=CPU)
    plan, here = planned(recipe), size([*teacher.conveyor.buffers, *teacher.parameters()])
    assert plan.rank_bytes - plan.host_bytes == here
    if offload == "cpu":
        assert plan.host_bytes == size([*teacher.rest.flat, teacher.rest.table])
    else:
        files = teacher.rest.folder.glob("*.bin")
        decoder = 4 * sum(teacher.rest.elements(unit) for unit in range(teacher.rest.layers, teacher.rest.units))
        assert plan.host_bytes == sum(file.stat().st_size for file in files) - decoder  # of the table, written twice
    teacher.close()


@pytest.mark.parametrize(("cache", "dtype"), [("hidden_int8", "fp32"), ("hidden_bf16", "bf16"), ("topk", "fp32")])
def test_a_cached_teacher_is_its_head(folder, cache, dtype):
    words = ("--teacher.kind", "cached", "--teacher.cache", cache, "--teacher.dtype", dtype)
    recipe = recipe_of(folder, *words, "--teacher.cache_folder", str(folder / cache))
    cache_teacher.run(recipe)
    stream = Stream(recipe, ShardSet.open(recipe.data.folder / "shards", languages=recipe.languages), rank=0, world=1)
    teacher = load_teacher(recipe, device=CPU, fingerprints=stream_fingerprints(recipe, stream))
    assert planned(recipe, "teacher, cached").rank_bytes == size(teacher.parameters())
    teacher.close()


def test_a_served_teacher_is_a_process_of_its_own(folder):
    recipe = recipe_of(folder, "--teacher.kind", "served")
    alone = make_plan(recipe_of(folder), world=2)
    plan, server = make_plan(recipe, world=2), planned(recipe, "teacher's server")
    assert server.rank_bytes == 0 and server.total_bytes == alone.engines[-1].total_bytes > 0
    assert sum(engine.rank_bytes for engine in plan.engines) == sum(e.rank_bytes for e in alone.engines[:-1])
    assert "without the server, a process of its own" in plan.text() and "server" not in alone.text()


def test_several_teachers_are_all_there(folder):
    file = folder / "several.toml"
    text = (folder / "tiny.toml").read_text()
    more = f'[[teacher.more]]\npath = "{folder}/teacher"\n\n[student]'
    file.write_text(text.replace("[student]", more))
    recipe = load_recipe(file)
    teachers = load_teacher(recipe, device=CPU)
    assert isinstance(teachers, SeveralTeachers)
    names = [engine.name for engine in make_plan(recipe, world=1).engines]
    assert names == ["student", "discriminator", "teacher", "teacher 2"]
    both = planned(recipe, "teacher 2").rank_bytes + make_plan(recipe, world=1).engines[2].rank_bytes
    assert both == size(teachers.parameters())


def test_nobody_reads_a_teacher(folder):
    objectives = recipe_of(folder).objectives.model_copy(update={"distill_hidden": None, "distill_logits": None})
    plan = make_plan(recipe_of(folder).model_copy(update={"objectives": objectives}), world=1)
    assert [engine.name for engine in plan.engines] == ["student", "discriminator"]


def with_objectives(folder, tables):
    """The workspace's recipe on pairs with these objectives alone."""
    tree = recipe_of(folder, *PAIRS).model_dump(mode="json", exclude_none=True)
    tree |= {"objectives": tables}
    tree.pop("discriminator")
    return type(recipe_of(folder)).model_validate(tree)


def test_a_momentum_copy(folder):
    table = {"form": "momentum", "queue_size": 40, "projection_size": 6}
    recipe = with_objectives(folder, {"align_sentences": table})
    student = build_student(recipe)
    (objective,) = build(Setting(recipe, Sizes.of(student.hf.config)))
    with seeded(1, purpose="test"):
        student.beside[objective.name] = objective.module()
    objective.begin(student)
    held = [*objective.encoder.parameters(), *objective.head.parameters(), torch.empty(40, 6)]
    assert planned(recipe, "momentum copy").rank_bytes == size(held)


CASES = {
    "masked_lm": {"masked_lm": {}},
    "byol": {"align_sentences": {"form": "byol", "group_pairs": 4}},
    "mse, masked": {"align_sentences": {"form": "mse", "reading": "masked"}},
    "momentum and tlm": {"align_sentences": {"form": "momentum"}, "translation_lm": {}},
    "index": {"align_words": {"form": "index"}, "distill_logits": {}},
    "dictionary": {"align_words": {"form": "dictionary"}},
    "structure": {"structure": {"group_pairs": 4, "reading": "masked"}, "translation_lm": {}},
}


@pytest.mark.parametrize("case", CASES)
def test_readings_are_what_the_objectives_need(folder, case):
    recipe = with_objectives(folder, CASES[case])
    sizes = Sizes(layers=2, hidden=32, heads=4, vocabulary=300)
    needs = [objective.needs for objective in build(Setting(recipe, sizes, sizes))]
    names = {"masked": "student", "unmasked": "student_unmasked", "joined": "joined"}
    wanted = {reading for reading, name in names.items() if any(getattr(need, name) is not None for need in needs)}
    assert set(readings(recipe)) == wanted
    teaches = any(need.of_teacher is not None for need in needs)
    assert teaches == any(engine.name == "teacher" for engine in make_plan(recipe, world=1).engines)
    found = {item.reading: item for item in make_plan(recipe, world=1).activations}
    assert set(found) == wanted and all(item.kept_bytes > 0 for item in found.values())


@pytest.mark.parametrize("trainable", ["all", "all_but_embeddings", "head"])
@pytest.mark.parametrize("layers", ["[1]", "[0, 1]"])
def test_what_a_forward_keeps(folder, trainable, layers):
    """Tensors that autograd saves in a real forward and its loss, and the logits that objectives hold."""
    recipe = recipe_of(folder, "--student.trainable", trainable, "--student.teacher_layers", layers)
    shards = ShardSet.open(recipe.data.folder / "shards", languages=recipe.languages)
    batch, student = Stream(recipe, shards, rank=0, world=1).step(0)[0], build_student(recipe)
    own = {p.untyped_storage().data_ptr() for p in student.parameters()}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        out = encode(student, batch, Wanted(masked_logits=True))
        F.cross_entropy(out.masked_logits, batch.target_ids)
    held = [
        t for t in [*kept, out.masked_logits] if t.untyped_storage().data_ptr() not in own and t.is_floating_point()
    ]
    dimensions, _ = student_dimensions(recipe, json.loads((recipe.data.folder / "shards/manifest.json").read_text()))
    numbers = kept_numbers(recipe, student=dimensions, places=batch.input_ids.numel(), targets=batch.targets)
    assert size(held) == pytest.approx(4 * numbers, rel=0.04)
