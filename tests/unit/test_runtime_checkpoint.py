"""Which checkpoints are kept, what counts as damaged, and what is read back from pieces."""

import json

import pytest
import torch
from safetensors.torch import save_file

from unibert.errors import CheckpointError
from unibert.runtime import checkpoint
from unibert.runtime.dist import Ranks
from unibert.runtime.engine_state import FACTS, Saved
from unibert.runtime.players import Players
from unibert.schema import Save


def make(folder, step, score=None):
    path = folder / checkpoint.step_name(step)
    (path / "rng").mkdir(parents=True)
    state = checkpoint.State(step, 8 * step, 64 * step, 1, {}, {}, score)
    (path / "state.json").write_text(json.dumps(vars(state)))
    (path / "rng" / "rank_00000.pt").write_bytes(bytes(range(100)))
    files = [path / "state.json", path / "rng" / "rank_00000.pt"]
    manifest = {str(file.relative_to(path)): checkpoint._to_disk(file) for file in files}
    (path / checkpoint.COMPLETE).write_text(json.dumps(manifest))
    return path


def kept(folder, **table):
    checkpoint.prune(folder, table=Save(**table))
    return [int(path.name.removeprefix("step_")) for path in checkpoint.complete_folders(folder)]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"keep_last": 2}, [60, 50]),
        ({"keep_last": 1, "keep_every_steps": 20}, [60, 40, 20]),
        ({"keep_last": 1, "keep_best": True}, [60, 30]),
        ({"keep_last": 1, "keep_every_steps": 50, "keep_best": True}, [60, 50, 30]),
        ({"keep_last": 9}, [60, 50, 40, 30, 20, 10]),
    ],
)
def test_retention(tmp_path, table, expected):
    for step, score in zip(range(10, 70, 10), (None, 6.0, 5.1, 5.4, 5.2, 5.3), strict=True):
        make(tmp_path, step, score)
    assert kept(tmp_path, **table) == expected


def test_a_stop_between_evaluations_is_not_the_best(tmp_path):
    for step, score in ((100, 2.0), (149, None), (200, 3.0), (300, 3.5)):
        make(tmp_path, step, score)
    assert kept(tmp_path, keep_last=1, keep_best=True) == [300, 100]


def test_what_a_run_that_goes_back_had_reached_is_put_aside(tmp_path):
    for step in (3, 6, 9):
        make(tmp_path / "checkpoints", step)
        make(tmp_path / "hf", step)
    make(tmp_path / "checkpoints", 10)
    assert checkpoint.abandon(tmp_path, after=10) == []
    aside = [str(path.relative_to(tmp_path)) for path in checkpoint.abandon(tmp_path, after=6)]
    assert sorted(aside) == [
        "checkpoints/abandoned_step_00000009",
        "checkpoints/abandoned_step_00000010",
        "hf/abandoned_step_00000009",
    ]
    make(tmp_path / "checkpoints", 7)
    assert kept(tmp_path / "checkpoints", keep_last=3) == [7, 6, 3]
    checkpoint.abandon(tmp_path, after=3)
    make(tmp_path / "checkpoints", 9)
    assert len(checkpoint.abandon(tmp_path, after=3)) == 1, "an earlier one of the same step makes room"
    assert kept(tmp_path / "checkpoints", keep_last=2) == [3]


@pytest.mark.parametrize("how", ["cut", "flip", "gone", "no manifest", "empty manifest"])
def test_damage_is_seen_and_the_one_before_is_taken(tmp_path, how):
    before, newest = make(tmp_path, 1), make(tmp_path, 2)
    assert checkpoint.newest_sound(tmp_path) == newest
    file = newest / "rng" / "rank_00000.pt"
    data = file.read_bytes()
    if how == "cut":
        file.write_bytes(data[:50])
    elif how == "flip":
        file.write_bytes(bytes([data[0] ^ 64]) + data[1:])
    elif how == "gone":
        file.unlink()
    else:
        (newest / checkpoint.COMPLETE).write_text("" if how == "no manifest" else "{}")
    assert checkpoint.damaged(newest)
    assert checkpoint.newest_sound(tmp_path) == before


def test_all_damaged_is_an_error_and_none_is_not(tmp_path):
    assert checkpoint.newest_sound(tmp_path) is None
    (make(tmp_path, 1) / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="every checkpoint"):
        checkpoint.newest_sound(tmp_path)


@pytest.fixture
def pieces(tmp_path):
    """A 4 x 5 parameter in three uneven pieces on two ranks, and a moment that lacks its middle."""
    whole = torch.arange(20, dtype=torch.float32)
    first = {"weight|0|a": whole[:7], "weight|15|a": whole[15:], "exp_avg|0|a": whole[:7]}
    save_file({key: value.clone() for key, value in first.items()}, tmp_path / "rank_00000.safetensors")
    save_file(
        {"weight|7|a": whole[7:15].clone(), "exp_avg|9|a": whole[9:].clone()}, tmp_path / "rank_00001.safetensors"
    )
    (tmp_path / FACTS).write_text(json.dumps({"shapes": {"a": [4, 5]}, "moving": ["a"]}))
    return tmp_path


def test_any_stretch_is_read_from_whoever_wrote_it(pieces):
    saved = Saved(pieces)
    torch.testing.assert_close(saved.whole("a"), torch.arange(20.0).view(4, 5), rtol=0, atol=0)
    for start in range(20):
        for numel in range(1, 21 - start):
            found = saved.read("weight", "a", start, numel)
            assert found.tolist() == list(range(start, start + numel))


def test_a_stretch_that_nobody_wrote_is_named(pieces):
    saved = Saved(pieces)
    assert saved.read("exp_avg", "a", 10, 5).tolist() == [10, 11, 12, 13, 14]
    with pytest.raises(CheckpointError, match=r"elements 7\.\.10 of a \(exp_avg\)"):
        saved.read("exp_avg", "a", 5, 5)
    with pytest.raises(CheckpointError, match="cannot be read"):
        Saved(pieces / "nowhere")


def test_the_start_that_began_last_writes_the_run(tmp_path):
    """A node that was cut off may go on with a run that its successor has begun."""
    ranks, state = Ranks(0, 1, 0, 1, "alone"), checkpoint.State(3, 24, 192, 1, {}, {})
    before = checkpoint.Saver(tmp_path, ranks=ranks, table=Save())
    before.begin(players=Players([]), state=state)
    after = checkpoint.Saver(tmp_path, ranks=ranks, table=Save())
    with pytest.raises(CheckpointError, match="taken over"):
        before.finish()
    after.begin(players=Players([]), state=state)
    assert after.finish().name == "step_00000003"
    with pytest.raises(CheckpointError, match="taken over"):
        before.begin(players=Players([]), state=state)
    assert checkpoint.newest_sound(tmp_path) == tmp_path / "step_00000003"
