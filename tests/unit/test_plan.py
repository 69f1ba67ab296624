import json
import math
import subprocess
import sys

import numpy as np
import pytest

from tests.unit.small_data import recipe, write_shards
from unibert.data.batches import Stream
from unibert.data.shards import ShardSet
from unibert.errors import ConfigError, DataError
from unibert.plan import (
    Dimensions,
    accumulation_steps,
    check_batches,
    first_sample,
    global_batch,
    make_plan,
    turn_length,
)
from unibert.plan.shares import BLOCK, limited_shares, smoothed_shares

LANGUAGES = ("en", "ar", "zh")
SAMPLES = {"en": 90, "ar": 30, "zh": 50}
PLAYERS = {"discriminator": {"turns": 2, "hidden_size": 16}}
ADVERSARY = {"objectives": {"masked_lm": {}, "language_guess": {}, "language_confusion": {}}}


def small(folder, **tables):
    return recipe(folder, languages=LANGUAGES, **tables)


def test_arithmetic(tmp_path):
    plan = make_plan(small(tmp_path), world=2)
    assert (plan.accumulation, plan.global_batch, plan.steps, plan.sequences) == (2, 16, 10, 160)
    assert plan.tokens is None and not plan.languages
    assert "unibert data tokenize" in plan.text()


@pytest.mark.parametrize(
    ("train", "world", "words"),
    [
        (
            {"global_batch_sequences": 128, "micro_batch_sequences": 32},
            3,
            ["128", "32", "world 3", "96 or 192", "2 ranks"],
        ),
        (
            {"global_batch_sequences": 8, "micro_batch_sequences": 4},
            4,
            ["= 16", "micro_batch_sequences = 2", "2 ranks"],
        ),
        ({"global_batch_sequences": 100, "micro_batch_sequences": 32}, 2, ["64 or 128", "micro_batch_sequences = 25"]),
    ],
)
def test_a_batch_that_does_not_divide_names_what_would(tmp_path, train, world, words):
    with pytest.raises(ConfigError) as caught:
        make_plan(small(tmp_path, train=train), world=world)
    assert caught.value.exit_code == 2
    for word in words:
        assert word in str(caught.value)


def test_what_is_suggested_divides(tmp_path):
    for batch, micro, world in [(128, 32, 3), (100, 32, 2), (7, 3, 1), (48, 5, 4)]:
        with pytest.raises(ConfigError) as caught:
            accumulation_steps(
                small(tmp_path, train={"global_batch_sequences": batch, "micro_batch_sequences": micro}), world=world
            )
        offer = str(caught.value).split("micro_batch_sequences = ")
        if len(offer) > 1:
            assert batch % (int(offer[1].split(",")[0]) * world) == 0


def test_turns_must_divide_the_accumulation(tmp_path):
    tables = PLAYERS | ADVERSARY
    fits = small(tmp_path, **tables)
    check_batches(fits, world=2)
    assert turn_length(fits, accumulation=4) == 2
    assert accumulation_steps(fits, world=4) == 1
    with pytest.raises(ConfigError, match=r'turns = 2 does not divide the 1 .*choose one of 1, or "every_micro_batch"'):
        make_plan(fits, world=4)
    every = small(tmp_path, **tables | {"discriminator": {"turns": "every_micro_batch"}})
    check_batches(every, world=4)
    assert turn_length(every, accumulation=4) == 1


def climbing(folder, *, rungs=((2, 4), (5, 8)), **tables):
    """Batches of 4 up to step 2, of 8 up to step 5, of 16 up to step 10."""
    ladder = [{"until_step": until, "global_batch_sequences": batch} for until, batch in rungs]
    return small(folder, train={"ladder": ladder} | tables.pop("train", {}), **tables)


def test_the_ladder_step_by_step(tmp_path):
    climbs = climbing(tmp_path)
    batches = [4, 4, 8, 8, 8, 16, 16, 16, 16, 16]
    assert [global_batch(climbs, step) for step in range(1, 11)] == batches
    assert [first_sample(climbs, step) for step in range(1, 12)] == [sum(batches[:n]) for n in range(11)]
    assert [accumulation_steps(climbs, world=1, step=step) for step in (2, 3, 6)] == [1, 2, 4]
    assert accumulation_steps(climbs, world=1) == 4


def test_plan_prints_the_ladder(tmp_path):
    write_shards(tmp_path / "shards", samples=SAMPLES)
    plan = make_plan(climbing(tmp_path), world=1)
    assert plan.sequences == 2 * 4 + 3 * 8 + 5 * 16
    assert [stretch.sequences for stretch in plan.ladder] == [8, 32, 112]
    assert [stretch.rate_factor for stretch in plan.ladder] == pytest.approx([0.5, math.sqrt(0.5), 1.0])
    assert sum(item.epochs * item.samples for item in plan.languages) == pytest.approx(112)
    row = next(line.split() for line in plan.text().splitlines() if "0.7071" in line)
    assert row == ["3", "to", "5", "8", "2", "0.7071", "32"]
    assert plan.to_json()["ladder"][1]["first_step"] == 3
    assert "ladder" not in make_plan(small(tmp_path), world=1).text()


@pytest.mark.parametrize(
    ("rungs", "train", "words"),
    [
        (((3, 4), (3, 8)), {}, "until_step 3 comes after 3"),
        (((3, 8), (5, 4)), {}, "the batch falls from 8 to 4 .until_step 5"),
        (((10, 4),), {}, "ends at step 10, but train.steps = 10"),
        (((3, 32),), {}, "the batch 32 .until_step 3. is above train.global_batch_sequences = 16"),
    ],
)
def test_a_ladder_that_does_not_rise_to_its_end(tmp_path, rungs, train, words):
    with pytest.raises(ValueError, match=words):
        climbing(tmp_path, rungs=rungs, train=train)


def test_a_rung_that_does_not_divide_is_named(tmp_path):
    climbs = climbing(tmp_path, rungs=((2, 4), (5, 12)))
    with pytest.raises(
        ConfigError, match=r"until_step 2: global_batch_sequences = 4 is not.*= 8, or .*= 2, or 1 ranks"
    ):
        check_batches(climbs, world=2)
    with pytest.raises(ConfigError, match=r"until_step 5: global_batch_sequences = 12 is not"):
        accumulation_steps(climbs, world=2, step=5)
    check_batches(climbs, world=1)
    suggested = climbing(tmp_path, rungs=((2, 4), (5, 12)), train={"micro_batch_sequences": 2})
    check_batches(suggested, world=2)


def test_turns_must_divide_the_accumulation_of_every_rung(tmp_path):
    climbs = climbing(tmp_path, **PLAYERS, **ADVERSARY)
    with pytest.raises(ConfigError, match=r"turns = 2 does not divide the 1 and 2 and 4 .*rung by rung.*one of 1, or"):
        check_batches(climbs, world=1)
    check_batches(climbing(tmp_path, train={"micro_batch_sequences": 2}, **PLAYERS, **ADVERSARY), world=1)


def test_a_ladder_to_65536(tmp_path):
    rungs = [(1000 * n, 1024 * n) for n in range(1, 64)]
    train = {"steps": 1_000_000, "global_batch_sequences": 65_536, "micro_batch_sequences": 32}
    climbs = climbing(tmp_path, rungs=rungs, train=train)
    plan = make_plan(climbs, world=8)
    assert (plan.accumulation, plan.ladder[0].accumulation, len(plan.ladder)) == (256, 4, 64)
    assert plan.sequences == 1000 * 1024 * 63 * 64 // 2 + (1_000_000 - 63_000) * 65_536


def test_shares_epochs_and_expected_tokens(tmp_path):
    written = write_shards(tmp_path / "shards", samples=SAMPLES)
    plan = make_plan(small(tmp_path, train={"steps": 200}), world=1)
    assert sum(item.share for item in plan.languages) == pytest.approx(1)
    tokens = {code: sum(map(len, written[code])) for code in LANGUAGES}
    root = sum(n**0.5 for n in tokens.values())
    expected = 0.0
    for item in plan.languages:
        assert item.tokens == tokens[item.code]
        assert item.share == pytest.approx(tokens[item.code] ** 0.5 / root, abs=1 / BLOCK)
        assert item.epochs == pytest.approx(3200 * item.share / SAMPLES[item.code])
        expected += 3200 * item.share * tokens[item.code] / SAMPLES[item.code]
    assert plan.tokens == pytest.approx(expected, abs=1)
    assert "repeated more than 20 times" in plan.text() and "ar" in plan.notes[0]


def test_warnings(tmp_path):
    write_shards(tmp_path / "shards", samples=SAMPLES)
    notes = " | ".join(make_plan(small(tmp_path, train={"global_batch_sequences": 64}), world=1).notes)
    assert "padding: raise train.micro_batch_sequences" in notes
    assert "repeated" not in notes


def test_a_language_without_text(tmp_path):
    write_shards(tmp_path / "shards", samples={"en": 9, "ar": 0})
    with pytest.raises(DataError, match="no text of ar, zh"):
        make_plan(small(tmp_path), world=1)


def test_damaged_manifest(tmp_path):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"damaged.*--force"):
        make_plan(small(tmp_path), world=1)


@pytest.mark.parametrize("trainable", ["all", "all_but_embeddings", "head"])
def test_parameters_are_those_of_the_model(trainable):
    import torch
    from transformers import BertConfig, BertForMaskedLM

    from unibert.models.encoder import Encoder
    from unibert.models.student import freeze

    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40}
    with torch.device("meta"):
        encoder = Encoder(BertForMaskedLM(BertConfig(**sizes, vocab_size=500, max_position_embeddings=64)))
    freeze(encoder, trainable=trainable)
    dimensions = Dimensions(hidden=24, layers=3, intermediate=40, vocabulary=500, positions=64)
    assert dimensions.total == sum(p.numel() for p in encoder.parameters())
    assert dimensions.moving(trainable) == sum(p.numel() for p in encoder.parameters() if p.requires_grad)


def write_model(folder, **more):
    folder.mkdir(parents=True)
    sizes = {"hidden_size": 24, "num_hidden_layers": 4, "intermediate_size": 40, "vocab_size": 500}
    (folder / "config.json").write_text(
        json.dumps(sizes | {"max_position_embeddings": 64, "type_vocab_size": 2} | more)
    )


def test_sizes_come_from_the_model_the_student_starts_from(tmp_path):
    run = tmp_path / "run"
    write_model(run / "hf" / "step_00000002", num_hidden_layers=9)
    write_model(run / "hf" / "step_00000010")
    plan = make_plan(small(tmp_path, student={"start_from": run, "teacher_layers": (1, 3)}), world=1)
    assert plan.engines[0].parameters == Dimensions(24, 2, 40, 500, 64).total
    assert not plan.notes
    unknown = make_plan(small(tmp_path), world=1)
    assert "assumed" in unknown.notes[0]


def test_rows_longer_than_the_models_positions(tmp_path):
    write_model(tmp_path / "trimmed")
    with pytest.raises(ConfigError, match="max_sequence_tokens = 65, but the student's model has 64 positions"):
        make_plan(small(tmp_path, data={"max_sequence_tokens": 65}), world=1)


@pytest.mark.parametrize(
    ("tree", "weights", "gradients", "optimizer"),
    [
        (None, 4, 4, 8),
        ({"zero_optimization": {"stage": 0}, "bf16": {"enabled": True}}, 2, 2, 12),
        ({"zero_optimization": {"stage": 1}}, 4, 4, 12 / 4),
        ({"zero_optimization": {"stage": 1}, "bf16": {"enabled": True}}, 2, 2, 12 / 4),
        ({"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}}, 2, 2 / 4, 12 / 4),
        ({"zero_optimization": {"stage": 3}, "bf16": {"enabled": True}}, 2 / 4, 2 / 4, 12 / 4),
    ],
)
def test_bytes_by_stage_and_precision(tmp_path, tree, weights, gradients, optimizer):
    write_model(tmp_path / "trimmed")
    plan = make_plan(small(tmp_path, student={"trainable": "all"}), world=4, student_engine=tree)
    student = plan.engines[0]
    for size, per_parameter in zip(
        (student.weights_bytes, student.gradients_bytes, student.optimizer_bytes),
        (weights, gradients, optimizer),
        strict=True,
    ):
        assert size == pytest.approx(per_parameter * student.parameters, rel=1e-3)
    assert student.host_bytes == 0


def test_offloaded_optimizer_is_on_the_host(tmp_path):
    tree = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}
    student = make_plan(small(tmp_path), world=1, student_engine=tree).engines[0]
    # Optimizer and gradients; tests/dist/test_measure.py holds the figures against a real engine.
    assert 16 * student.moving < student.optimizer_bytes < student.host_bytes < student.total_bytes


def test_every_player_is_counted(tmp_path):
    write_model(tmp_path / "trimmed")
    objectives = {"masked_lm": {}, "distill_hidden": {}, "language_guess": {}, "language_confusion": {}}
    plan = make_plan(small(tmp_path, objectives=objectives, **PLAYERS), world=2)
    assert [engine.name for engine in plan.engines] == ["student", "discriminator", "teacher"]
    assert plan.engines[1].parameters == 24 * 16 + 16 + 16 * 3 + 3
    assert plan.engines[2].gradients_bytes == 0 and plan.engines[2].weights_bytes == 4 * plan.engines[2].parameters


def test_json(tmp_path):
    write_shards(tmp_path / "shards", samples=SAMPLES)
    tree = json.loads(json.dumps(make_plan(small(tmp_path), world=1).to_json()))
    assert tree["languages"][0]["code"] == "en" and tree["engines"][0]["name"] == "student"


def test_no_torch():
    code = "import sys, unibert.plan; assert not {'torch', 'transformers', 'deepspeed'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def shares_of(plan):
    return {item.code: item.share for item in plan.languages}


def drawn(limited, *, documents):
    shards = ShardSet.open(limited.data.folder / "shards", languages=LANGUAGES)
    draw = Stream(limited, shards, rank=0, world=1).mixture.draw(0, documents)
    return dict(zip(LANGUAGES, np.bincount(draw.language, minlength=3).tolist(), strict=True))


def test_limited_shares():
    shares = np.array([0.5, 0.3, 0.15, 0.05])
    np.testing.assert_allclose(limited_shares(shares, np.array([0.2, 1, 1, 1])), [0.2, 0.48, 0.24, 0.08])
    # The second is over its limit only once it has what the first gives up.
    np.testing.assert_allclose(limited_shares(shares, np.array([0.2, 0.4, 1, 1])), [0.2, 0.4, 0.3, 0.1])
    np.testing.assert_allclose(limited_shares(shares, np.full(4, 0.25)), np.full(4, 0.25))
    assert limited_shares(shares, np.ones(4)) is shares, "the same numbers, bit for bit"


def test_equal_shares_with_a_limit_of_repeats_are_unimax():
    # Algorithm 1 of arXiv 2304.09151: from the smallest on, an equal part of what is left, or N passes.
    samples, budget, passes = np.array([10, 400, 50, 9000]), 8000, 4
    left, unimax = budget, np.zeros(4)
    for rank, language in enumerate(np.argsort(samples)):
        unimax[language] = min(left / (4 - rank), passes * samples[language])
        left -= unimax[language]
    found = limited_shares(np.full(4, 0.25), passes * samples / budget)
    np.testing.assert_allclose(found * budget, unimax)


def test_no_text_is_passed_over_more_often_than_allowed(tmp_path):
    write_shards(tmp_path / "shards", samples=SAMPLES)
    train = {"steps": 20_000}  # 320,000 documents of 170
    limited = small(tmp_path, data={"smoothing_exponent": 0.0, "max_repeats": 2000}, train=train)
    plan = make_plan(limited, world=1)
    assert [round(item.epochs) for item in plan.languages] == [1778, 2000, 2000]
    found = drawn(limited, documents=320_000)
    for item in plan.languages:
        assert found[item.code] == pytest.approx(item.share * 320_000, rel=0.01)
    assert "no text passed over more than 2000 times" in plan.text()


def test_a_language_is_held_under_its_share(tmp_path):
    write_shards(tmp_path / "shards", samples=SAMPLES)
    plain = shares_of(make_plan(small(tmp_path), world=1))
    held = shares_of(make_plan(small(tmp_path, data={"share_limits": {"en": 0.05}}), world=1))
    assert held["en"] == pytest.approx(0.05, abs=1 / BLOCK)
    assert held["ar"] / held["zh"] == pytest.approx(plain["ar"] / plain["zh"], rel=1e-3)
    even = shares_of(make_plan(small(tmp_path, data={"max_share": 0.34}), world=1))
    assert max(even.values()) == pytest.approx(0.34, abs=1 / BLOCK)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"max_share": 0.2}, "add up to 0.6 of the stream for all 3 languages"),
        (
            {"max_repeats": 0.5},
            "allows 85 of the run's 160 documents: raise it .the mean .* 0.941 passes",
        ),
    ],
)
def test_limits_that_leave_something_to_nobody(tmp_path, data, words):
    write_shards(tmp_path / "shards", samples=SAMPLES)
    with pytest.raises(ConfigError, match=words):
        make_plan(small(tmp_path, data=data), world=1)


CURRICULUM = [{"until_fraction": 0.25, "smoothing_exponent": 0.0}, {"until_fraction": 1.0, "temperature": 1.0}]


def test_a_curriculum_in_the_plan_is_what_the_stream_does(tmp_path):
    written = write_shards(tmp_path / "shards", samples=SAMPLES)
    climbs = small(tmp_path, data={"curriculum": CURRICULUM}, train={"steps": 40_000})
    plan = make_plan(climbs, world=1)
    tokens = np.array([sum(map(len, written[code])) for code in LANGUAGES])
    for item, share in zip(plan.languages, tokens / tokens.sum(), strict=True):
        assert item.phase_shares == pytest.approx((1 / 3, share), abs=1 / BLOCK)
        assert item.share == pytest.approx(0.25 / 3 + 0.75 * share, abs=1 / BLOCK)
        assert item.epochs == pytest.approx(640_000 * item.share / SAMPLES[item.code])
    found = drawn(climbs, documents=640_000)
    assert [found[item.code] for item in plan.languages] == pytest.approx(
        [640_000 * item.share for item in plan.languages], rel=5e-3
    )
    row = next(line.split() for line in plan.text().splitlines() if line.split()[:1] == ["ar"])
    assert row[-2:] == [f"{100 * share:.3f}" for share in plan.languages[1].phase_shares]
    assert "power of 0 until 25%, 1 until 100% of the run" in plan.text()


def test_a_language_repeated_inside_one_batch(tmp_path):
    write_shards(tmp_path / "shards", samples={"en": 200, "ar": 5, "zh": 200})
    equal = {"smoothing_exponent": 0.0}
    plan = make_plan(small(tmp_path, data=equal, train={"steps": 1, "global_batch_sequences": 64}), world=1)
    assert any("more than once in one global batch (64): ar" in note for note in plan.notes)
    assert "more than once" not in make_plan(small(tmp_path, train={"steps": 1}), world=1).text()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"temperature": 2.0, "smoothing_exponent": 0.3}, "two names of one number"),
        ({"temperature": 0.5}, "greater than or equal to 1"),
        ({"share_limits": {"xx": 0.1}}, "share_limits names xx"),
        ({"curriculum": [{"until_fraction": 0.5, "smoothing_exponent": 1}]}, "last until_fraction is 0.5"),
        ({"curriculum": [CURRICULUM[1], CURRICULUM[0]]}, "until_fraction must rise, not 1.0, 0.25"),
        ({"curriculum": [{"until_fraction": 1.0}]}, "smoothing_exponent"),
    ],
)
def test_shares_that_contradict_themselves(tmp_path, data, words):
    with pytest.raises(ValueError, match=words):
        small(tmp_path, data=data)


def test_temperature_is_the_exponent_by_another_name(tmp_path):
    warm = small(tmp_path, data={"temperature": 4})
    assert warm.data.smoothing_exponent == 0.25
    assert smoothed_shares(np.array([1, 16]), warm.data.smoothing_exponent).tolist() == [1 / 3, 2 / 3]


def test_translation_pairs(tmp_path):
    write_shards(tmp_path / "shards", samples=SAMPLES)
    mixed = small(tmp_path, data={"parallel_ratio": 0.25}, train={"steps": 200})
    plan = make_plan(mixed, world=1)
    assert plan.translation_pairs == 400 and "400 translation pairs" in plan.text()
    assert sum(item.epochs * item.samples for item in plan.languages) == pytest.approx(3200 - 800)
    assert "needs translation pairs: unibert data pairs RECIPE" in plan.notes[-1]
    entries = {name: {"languages": name.split("-"), "pairs": n} for name, n in (("en-ar", 4), ("en-zh", 400))}
    entries["en-de"] = {"languages": ["en", "de"], "pairs": 3}
    (tmp_path / "shards_parallel").mkdir()
    (tmp_path / "shards_parallel" / "manifest.json").write_text(json.dumps({"language_pairs": entries}))
    assert not any("pairs" in note for note in make_plan(mixed, world=1).notes)
    often = small(tmp_path, data={"parallel_ratio": 1.0}, train={"steps": 200})
    assert "translation pairs repeated more than 20 times: en-ar 36x;" in make_plan(often, world=1).text()
