import json
import threading
from io import StringIO
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

from tests.unit.small_data import FACTS, recipe, write_shards
from unibert.data.batches import Stream
from unibert.data.inspect import show_pairs
from unibert.data.lines import write_json
from unibert.data.packing import first_fit
from unibert.data.pairs import FORMAT, VERSION, PairSet
from unibert.data.shards import ShardSet
from unibert.errors import ConfigError, DataError
from unibert.evaluate.heldout_batches import heldout_batches

LANGUAGES = ("en", "ar", "zh")
SAMPLES = {"en": 90, "ar": 30, "zh": 50}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batches")
    write_shards(folder / "shards", samples=SAMPLES)
    return folder


def stream(folder, *, rank=0, world=1, **tables):
    small = recipe(folder, languages=LANGUAGES, **tables)
    return Stream(small, ShardSet.open(folder / "shards", languages=LANGUAGES), rank=rank, world=world)


def documents(batch):
    """Each document's shown ids, places and language, read back from the packed rows."""
    flat, places, owner = batch.input_ids.flatten(), batch.position_ids.flatten(), batch.document.flatten()
    for d in range(batch.documents):
        where = torch.nonzero(owner == d).flatten()
        yield where, flat[where], places[where], int(batch.language[d])


def test_packed_documents_are_the_shards_documents(folder):
    here = stream(folder)
    for batch in here.step(3):
        draw = here.mixture.draw(int(batch.sample_ids[0]), int(batch.sample_ids[-1]) + 1)
        target_at = dict(zip(batch.target_positions.tolist(), batch.target_ids.tolist(), strict=True))
        for d, (where, ids, places, language) in enumerate(documents(batch)):
            original = here.shards.sample(language, int(draw.sample[d]))
            assert language == draw.language[d]
            assert places.tolist() == list(range(len(original)))
            assert (where.diff() == 1).all() and where[0] // 32 == where[-1] // 32, "whole, in one row"
            assert int(batch.cls_positions[d]) == int(where[0]) and int(ids[0]) == FACTS.special.cls
            restored = [target_at.get(int(w), int(i)) for w, i in zip(where, ids, strict=True)]
            assert restored == original.tolist()
        empty = batch.document == -1
        assert (batch.input_ids[empty] == FACTS.special.pad).all() and (batch.position_ids[empty] == 0).all()
        assert batch.tokens == int((~empty).sum())
        assert batch.padding_fraction == pytest.approx(float(empty.float().mean()))
        assert batch.targets == len(target_at) >= batch.documents == 4


def test_every_document_has_a_target_of_its_own(folder):
    for batch in stream(folder).step(0):
        owners = batch.document.flatten()[batch.target_positions]
        assert set(owners.tolist()) == set(range(batch.documents))


def test_ranks_share_a_step_and_nothing_is_lost(folder):
    whole = torch.cat([batch.sample_ids for batch in stream(folder).step(2)])
    assert whole.tolist() == list(range(32, 48))
    halves = [stream(folder, rank=r, world=2) for r in range(2)]
    assert [len(half.step(2)) for half in halves] == [2, 2]
    micros = [half.step(2)[m] for m in range(2) for half in halves]
    assert torch.cat([micro.sample_ids for micro in micros]).tolist() == whole.tolist()
    for one, other in zip(stream(folder).step(2), micros, strict=True):
        assert torch.equal(one.input_ids, other.input_ids) and torch.equal(one.target_ids, other.target_ids)


def test_going_on_from_a_step_gives_what_came_there(folder):
    steps = stream(folder).steps(0)
    first = [next(steps) for _ in range(4)]
    steps.close()
    again = stream(folder).steps(3)
    for one, other in zip(first[3], next(again), strict=True):
        for name in ("input_ids", "document", "target_positions", "target_ids", "sample_ids"):
            assert torch.equal(getattr(one, name), getattr(other, name))
    again.close()


LADDER = [{"until_step": 2, "global_batch_sequences": 4}, {"until_step": 4, "global_batch_sequences": 12}]
CLIMBING = [4, 4, 12, 12, 16, 16]


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("first_step", [0, 3])
def test_a_ladder_leaves_no_gap_and_repeats_nothing(folder, world, first_step):
    train = {"micro_batch_sequences": 4 // world, "ladder": LADDER}
    ranks = [stream(folder, rank=r, world=world, train=train).steps(first_step) for r in range(world)]
    position = sum(CLIMBING[:first_step])
    for batch in CLIMBING[first_step:]:
        micros = [micro for same in zip(*map(next, ranks), strict=True) for micro in same]
        ids = torch.cat([micro.sample_ids for micro in micros])
        assert ids.tolist() == list(range(position, position + batch))
        position += batch
    for rank in ranks:
        rank.close()


def test_a_ladder_only_cuts_the_same_stream_elsewhere(folder):
    def texts(here, steps):
        return [ids.tolist() for k in range(steps) for batch in here.step(k) for _, ids, _, _ in documents(batch)]

    assert texts(stream(folder, train={"ladder": LADDER}), 5) == texts(stream(folder), 3)


def test_a_document_is_masked_anew_in_each_epoch(folder):
    here = stream(folder)
    draw = here.mixture.draw(0, 1000)
    same = np.flatnonzero((draw.language == 1) & (draw.sample == 5))
    assert len(same) > 5
    seen = set()
    for position in same[:6]:
        batch = next(b for b in here.step(int(position) // 16) if int(position) in b.sample_ids)
        d = int(position) - int(batch.sample_ids[0])
        _, ids, _, _ = list(documents(batch))[d]
        seen.add(tuple(ids.tolist()))
    assert len(seen) > 1


def batch_threads():
    return [thread for thread in threading.enumerate() if thread.name == "batches"]


def test_the_thread_ends_with_its_iterator(folder):
    steps = stream(folder).steps(0)
    next(steps)
    assert len(batch_threads()) == 1
    steps.close()
    assert not batch_threads()


def test_the_thread_does_not_run_far_ahead(folder, monkeypatch):
    here = stream(folder)
    prepared = []
    monkeypatch.setattr(here.maker, "make", prepared.append)
    steps = here.steps(0)
    next(steps)
    worker = batch_threads()[0]
    worker.join(timeout=0.3)
    assert worker.is_alive() and len(prepared) <= 4 * 4
    steps.close()


def test_an_error_in_the_thread_is_raised_here(folder, monkeypatch):
    here = stream(folder)
    original = here.shards.sample
    calls = iter(range(10**6))

    def failing(language, index):
        if next(calls) > 20:
            raise DataError("shard of en: disk gone")
        return original(language, index)

    monkeypatch.setattr(here.shards, "sample", failing)
    steps = here.steps(0)
    next(steps)
    with pytest.raises(DataError, match="disk gone"):
        for _ in range(5):
            next(steps)
    assert not batch_threads()


def test_first_fit():
    lengths = np.array([10, 32, 20, 12, 22, 1])
    starts, rows = first_fit(lengths, width=32)
    taken = np.zeros(rows * 32, dtype=int)
    for start, length in zip(starts, lengths, strict=True):
        assert start // 32 == (start + length - 1) // 32
        taken[start : start + length] += 1
    assert taken.max() == 1 and rows == 4
    assert first_fit(np.array([5]), width=32)[0].tolist() == [0]


def test_packing_leaves_little_empty(folder):
    batches = stream(folder, train={"micro_batch_sequences": 32, "global_batch_sequences": 128}).step(0)
    assert all(batch.padding_fraction < 0.2 for batch in batches)


def test_to_moves_every_tensor(folder):
    batch = stream(folder).step(0)[0]
    moved = batch.to("meta")
    assert all(value.device.type == "meta" for value in vars(moved).values() if isinstance(value, torch.Tensor))
    assert moved.tokens == batch.tokens


def test_a_batch_that_does_not_divide(folder):
    with pytest.raises(ConfigError, match=r"16 is not a multiple of .* 4 x world 3"):
        stream(folder, world=3)


def test_more_asked_in_a_step_than_there_is(folder):
    with pytest.raises(DataError, match=r"170 documents in all, fewer than .*= 256"):
        stream(folder, world=64, train={"global_batch_sequences": 256})


def test_rows_narrower_than_the_shards(folder):
    with pytest.raises(ConfigError, match=r"max_sequence_tokens = 16.*tokenize small --force"):
        stream(folder, data={"max_sequence_tokens": 16})


def test_shards_of_other_languages(folder):
    small = recipe(folder, languages=("en", "ar"))
    with pytest.raises(DataError, match="the recipe has"):
        Stream(small, ShardSet.open(folder / "shards"), rank=0, world=1)


def heldout(folder, *, languages=LANGUAGES, lines=20, sequences=16, **tables):
    small = recipe(folder, languages=languages, **tables)
    shards = ShardSet.open(folder / "shards", languages=languages)
    return list(heldout_batches(small, shards, lines_per_language=lines, sequences=sequences))


def test_heldout_is_the_same_for_everybody(folder):
    batches = heldout(folder)
    counts = torch.bincount(torch.cat([batch.language for batch in batches]), minlength=3)
    assert counts.tolist() == [20, 20, 20]
    assert [batch.documents for batch in batches] == [16, 16, 16, 12]
    other = heldout(folder, masking={"fraction": 0.4}, train={"seed": 9, "steps": 3})
    for one, two in zip(batches, other, strict=True):
        assert torch.equal(one.input_ids, two.input_ids) and torch.equal(one.target_ids, two.target_ids)


def test_heldout_of_fewer_languages_asks_the_same_of_them(folder):
    def asked(batches, language):
        return [
            (ids.tolist(), batch.target_ids[batch.document.flatten()[batch.target_positions] == d].tolist())
            for batch in batches
            for d, (_, ids, _, at) in enumerate(documents(batch))
            if at == language
        ]

    assert asked(heldout(folder), 2) == asked(heldout(folder, languages=("zh",)), 0)


def test_heldout_takes_what_there_is(folder):
    batches = heldout(folder, lines=1000)
    counts = torch.bincount(torch.cat([batch.language for batch in batches]), minlength=3)
    assert counts.tolist() == list(SAMPLES.values())


PAIRS = {("en", "ar"): 40, ("en", "zh"): 300}


@pytest.fixture(scope="module")
def paired(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paired")
    write_shards(folder / "shards", samples=SAMPLES)
    entries = {}
    for (a, b), count in PAIRS.items():
        write_shards(folder / "shards_parallel" / f"{a}-{b}", samples={a: count, b: count}, longest=16)
        entries[f"{a}-{b}"] = {"languages": [a, b], "pairs": count}
    facts = {"format": FORMAT, "version": VERSION, "tokenizer": FACTS.fingerprint, "language_pairs": entries}
    write_json(folder / "shards_parallel" / "manifest.json", facts)
    return folder


RATIO = {"parallel_ratio": 0.3}


def test_translation_pairs_come_by_ratio_and_stay_together(paired):
    here = stream(paired, data=RATIO)
    batches = [batch for k in range(40) for batch in here.step(k)]
    count = sum(len(batch.pairs) for batch in batches)
    assert count == int(0.3 * 40 * 16 / 2)
    for batch in batches:
        names = here.mixture.names(int(batch.sample_ids[0]), int(batch.sample_ids[-1]) + 1)
        target_at = dict(zip(batch.target_positions.tolist(), batch.target_ids.tolist(), strict=True))
        read = [
            (language, [target_at.get(int(w), int(i)) for w, i in zip(where, ids, strict=True)])
            for where, ids, _, language in documents(batch)
        ]
        for a, b in batch.pairs.tolist():
            assert b == a + 1 and names[a] == names[b]
            codes, number = names[a].split(":")
            assert [LANGUAGES[read[side][0]] for side in (a, b)] == codes.split("-")
            pair = list(PAIRS).index(tuple(codes.split("-")))
            both = here.mixture.pairs.sample(pair, int(number))
            assert [read[side][1] for side in (a, b)] == [ids.tolist() for ids in both]
        alone = set(range(batch.documents)) - set(batch.pairs.flatten().tolist())
        for d in alone:
            code, number = names[d].split(":")
            assert read[d] == (LANGUAGES.index(code), here.shards.sample(read[d][0], int(number)).tolist())


def test_pairs_pass_over_each_language_pair_without_repeat(paired):
    here = stream(paired, data=RATIO)
    places = here.mixture.draw(0, 4000)
    for pair, size in enumerate(PAIRS.values()):
        one_side = np.flatnonzero(places.pair == pair)[::2]
        np.testing.assert_array_equal(places.epoch[one_side], np.arange(len(one_side)) // size)
        first = places.sample[one_side][:size]
        assert len(np.unique(first)) == len(first)
    share = (places.pair == 0).sum() / (places.pair >= 0).sum()
    assert share == pytest.approx(40**0.5 / (40**0.5 + 300**0.5), abs=0.05)


def test_the_rest_of_a_stream_with_pairs_is_the_stream_without(paired):
    places = stream(paired, data=RATIO).mixture.draw(0, 2000)
    alone = places.pair < 0
    plain = stream(paired).mixture.draw(0, int(alone.sum()))
    np.testing.assert_array_equal(places.sample[alone], plain.sample)
    np.testing.assert_array_equal(places.language[alone], plain.language)


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.999, 1.0])
def test_any_window_of_a_stream_with_pairs(paired, ratio):
    mixture = stream(paired, data={"parallel_ratio": ratio, "parallel_english_fraction": 0.3}).mixture
    for start in (0, 10**9):
        whole = mixture.draw(start, start + 400)
        parts = [mixture.draw(start + i, start + i + 20) for i in range(0, 400, 20)]
        for name in ("language", "sample", "epoch", "pair", "side"):
            together = np.concatenate([getattr(part, name) for part in parts])
            np.testing.assert_array_equal(getattr(whole, name), together)
        assert (whole.pair >= 0).mean() == pytest.approx(ratio, abs=0.01)


@pytest.mark.parametrize("english", [0.0, 0.5])
def test_ranks_share_a_step_with_pairs(paired, english):
    data = RATIO | {"parallel_english_fraction": english}
    whole = stream(paired, data=data).step(2)
    micros = [stream(paired, rank=r, world=2, data=data).step(2)[m] for m in range(2) for r in range(2)]
    for one, other in zip(whole, micros, strict=True):
        assert torch.equal(one.input_ids, other.input_ids) and torch.equal(one.pairs, other.pairs)


def test_both_sides_are_masked_for_themselves_and_anew_in_each_epoch(paired):
    mixture = stream(paired, data={"parallel_ratio": 1.0}).mixture
    ids = mixture.read(0, 3000).ids
    assert len(np.unique(ids)) == 2 * sum(PAIRS.values())


@pytest.mark.parametrize("fraction", [0.125, 1.0])
def test_a_share_of_the_pairs_is_english_on_both_sides(paired, fraction):
    """The same pairs in the same places; the copies are one text, and masked in two ways."""
    data = {"parallel_ratio": 1.0}
    plain = stream(paired, data=data).mixture
    here = stream(paired, data=data | {"parallel_english_fraction": fraction})
    before, after = plain.draw(0, 4000), here.mixture.draw(0, 4000)
    twice = (after.language.reshape(-1, 2) == LANGUAGES.index("en")).all(axis=1)
    assert twice.mean() == pytest.approx(fraction, abs=0.02)
    np.testing.assert_array_equal(before.sample, after.sample)
    assert not (before.language != after.language)[~np.repeat(twice, 2)].any()
    was, is_now = plain.read(0, 80), here.mixture.read(0, 80)
    np.testing.assert_array_equal(was.ids, is_now.ids)
    english = (was.language.reshape(-1, 2) == LANGUAGES.index("en")).argmax(axis=1)
    for slot, both in enumerate(twice[:40].tolist()):
        first = 2 * slot
        expected = [first + english[slot]] * 2 if both else [first, first + 1]
        assert [is_now.texts[first + side].tolist() for side in (0, 1)] == [was.texts[d].tolist() for d in expected]
    names = here.mixture.names(0, 80)
    assert names == plain.names(0, 80)
    if fraction == 1.0:
        masked = [batch.input_ids[batch.document == d].tolist() for batch in here.step(0) for d in batch.pairs[0]]
        assert any(a != b for a, b in zip(masked[::2], masked[1::2], strict=True))
        with pytest.raises(ValueError, match="is of pairs with English"):
            stream(paired, data={"parallel_english_fraction": 0.5})


def test_without_pairs_a_batch_has_none(folder):
    batch = stream(folder).step(0)[0]
    assert batch.pairs.shape == (0, 2) and batch.pairs.dtype == torch.int64
    assert stream(folder).mixture.fingerprint == stream(folder).shards.fingerprint


def test_pairs_are_part_of_the_fingerprint(paired):
    mixture = stream(paired, data=RATIO).mixture
    assert mixture.fingerprint == f"{mixture.shards.fingerprint}+{mixture.pairs.fingerprint}"


def test_a_ratio_of_pairs_without_pairs(folder):
    with pytest.raises(DataError, match=r"parallel_ratio = 0.3 needs .*unibert data pairs RECIPE"):
        stream(folder, data=RATIO)


def test_pairs_do_not_go_into_an_odd_micro_batch(paired):
    with pytest.raises(ValueError, match="micro_batch_sequences be even, not 1"):
        stream(paired, data=RATIO, train={"micro_batch_sequences": 1})


def test_pairs_of_another_tokenizer(paired, monkeypatch):
    monkeypatch.setattr(PairSet, "open", lambda *_, **__: SimpleNamespace(tokenizer_fingerprint="other"))
    with pytest.raises(DataError, match="made with another tokenizer"):
        stream(paired, data=RATIO)


def test_inspect_shows_translation_pairs(paired):
    pairs = stream(paired, data=RATIO).mixture.pairs
    console = Console(file=StringIO(), width=200)
    decoder = SimpleNamespace(decode=lambda ids: " ".join(map(str, ids)))
    show_pairs(pairs, decoder, samples=3, console=console)
    shown = console.file.getvalue()
    assert "en - zh  300 translation pairs" in shown and shown.count("\u2068") == 2 * 2 * 3
    for ids in pairs.sample(1, 100):
        assert f"\u2068{' '.join(map(str, ids.tolist()))}\u2069" in shown


@pytest.mark.parametrize(("documents", "bound"), [(32, 0.08), (256, 0.02)])
def test_padding_is_small_on_lengths_as_text_has_them(documents, bound):
    random = np.random.default_rng(1)
    padding = []
    for _ in range(60):
        lengths = np.clip(random.lognormal(np.log(32), 0.9, documents).astype(int), 3, 128)
        _, rows = first_fit(lengths, width=128)
        padding.append(1 - lengths.sum() / (rows * 128))
    assert np.mean(padding) < bound and max(padding) < 2 * bound


def test_padding_is_below_a_half_whatever_the_lengths():
    random = np.random.default_rng(2)
    for _ in range(300):
        low, high = np.sort(random.integers(1, 33, size=2))
        lengths = random.integers(low, high + 1, size=random.integers(1, 40))
        starts, rows = first_fit(lengths, width=32)
        taken = np.zeros(rows * 32, dtype=int)
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
            assert start // 32 == (start + length - 1) // 32
            taken[start : start + length] += 1
        assert taken.max() == 1
        assert rows == 1 or lengths.sum() > rows * 16


def test_older_checkpoints_go_on_and_new_fields_do_not_go_unseen(folder):
    from unibert.resume import stream_fingerprints

    def facts(**tables):
        here = stream(folder, **tables)
        return json.loads(stream_fingerprints(here.recipe, here)["stream"])

    plain = facts()
    assert set(plain) == {  # what a checkpoint of before these fields holds
        *("languages", "data.max_sequence_tokens", "data.smoothing_exponent", "masking", "train.seed"),
        *("train.global_batch_sequences", "train.ladder"),
    }
    assert set(plain["masking"]) == {"fraction", "mask_fraction", "random_fraction"}
    assert facts(train={"steps": 99}) == plain
    changed = {
        "data.max_share": {"max_share": 0.9},
        "data.max_repeats": {"max_repeats": 90},
        "data.share_limits": {"share_limits": {"en": 0.4}},
        "data.curriculum": {"curriculum": [{"until_fraction": 1.0, "smoothing_exponent": 0.1}]},
    }
    for name, data in changed.items():
        assert name in facts(data=data)
    limited = {"max_repeats": 90}
    assert facts(data=limited) != facts(data=limited, train={"steps": 99}), "shares that depend on the run's length"
    assert facts(data={"temperature": 2}) == plain
