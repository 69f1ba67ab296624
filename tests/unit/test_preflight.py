"""What nodes say of themselves, and which of them are bad by it; tests/slurm/test_preflight.py has real nodes."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from unibert.preflight import look
from unibert.preflight.judge import judge, read_answers

NODES = ["a1", "a2", "a3"]


def looked(wrong: dict[str, str] | None = None, **different: str) -> list[dict]:
    """Answers to the first look; `different` nodes see that code."""
    return [
        {
            "node": node,
            "stage": "look",
            "wrong": [wrong[node]] if wrong and node in wrong else [],
            "same": {"code": different.get(node, "c"), "packages": "p", "data": "d"},
        }
        for node in NODES
    ]


def met(*, clock: dict[str, float] | None = None, links: dict[str, float] | None = None) -> list[dict]:
    return [
        {
            "node": node,
            "stage": "meet",
            "reached": True,
            "clock": 1000.0 + (clock or {}).get(node, 0.0),
            "all_reduce_mb_s": 90.0,
            "links_mb_s": [100.0, (links or {}).get(node, 100.0)],
        }
        for node in NODES
    ]


def test_fine_nodes_are_fine():
    assert judge(looked(), NODES, stage="look").bad == {}
    verdict = judge([*looked(), *met()], NODES, stage="meet")
    assert (verdict.bad, verdict.unclear) == ({}, None)
    assert "all-reduce 90 MB/s" in verdict.facts


def test_a_node_is_bad_by_its_own_word_or_its_silence():
    assert judge(looked({"a2": "no disk"}), NODES, stage="look").bad == {"a2": "no disk"}
    assert list(judge(looked()[:2], NODES, stage="look").bad) == ["a3"]


def test_the_fewer_are_the_odd_ones():
    assert judge(looked(a2="other"), NODES, stage="look").bad == {"a2": "other code than most nodes"}
    two = judge(looked(a2="other")[:2], NODES[:2], stage="look")
    assert two.bad == {}
    assert "no side is the smaller" in (two.unclear or "")


def test_when_every_node_is_bad_it_is_not_the_nodes():
    verdict = judge(looked(dict.fromkeys(NODES, "full")), NODES, stage="look")
    assert verdict.bad == {}
    assert "every node is bad" in (verdict.unclear or "")


def test_a_clock_or_a_network_of_its_own():
    assert "off by 60" in judge(met(clock={"a3": 60.0}), NODES, stage="meet").bad["a3"]
    slow = met()
    slow[1]["links_mb_s"] = [2.0, 3.0]  # its neighbours have a good link each
    slow[0]["links_mb_s"][0] = 2.0
    assert list(judge(slow, NODES, stage="meet").bad) == ["a2"]


def test_who_is_not_reached():
    away = met()[:2]
    assert list(judge(away, NODES, stage="meet").bad) == ["a3"]
    alone = [met()[0], *({"node": node, "stage": "meet", "reached": False} for node in NODES[1:])]
    assert judge(alone, NODES, stage="meet").bad == {"a1": "no other node reached it"}
    assert "nobody can say" in (judge(met()[:1], NODES[:2], stage="meet").unclear or "")


def test_answers_are_found_among_other_words(tmp_path):
    file = tmp_path / "answers"
    file.write_text(f"a warning\n{json.dumps(looked()[0])}\n[1]\n" + '{"node": "a2", "sta', encoding="utf-8")
    assert [answer["node"] for answer in read_answers(file)] == ["a1"]


@pytest.fixture
def recipe(tmp_path) -> SimpleNamespace:
    shards = tmp_path / "data" / "shards"
    shards.mkdir(parents=True)
    (shards / "manifest.json").write_text("{}")
    return SimpleNamespace(run_folder=tmp_path / "run", data=SimpleNamespace(folder=tmp_path / "data"), teacher=None)


def test_a_node_that_cannot_write_says_so(recipe, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert look.look(recipe)["wrong"] == []
    assert not list(recipe.run_folder.iterdir()), "it leaves nothing"
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    assert look.look(recipe)["wrong"] == [f"TMPDIR {tmp_path / 'none'}: No such file or directory"]
    monkeypatch.setitem(look.FREE_GIB, "run folder", 1e9)
    assert any("GiB are free" in wrong for wrong in look.look(recipe)["wrong"])


def test_other_data_is_other_data(recipe):
    before = look.look(recipe)["same"]
    Path(recipe.data.folder / "shards" / "en.tokens").write_bytes(b"12")
    after = look.look(recipe)["same"]
    assert before["data"] != after["data"]
    assert before["code"] == after["code"]


def test_gpus_that_slurm_promised_and_are_not_there(recipe, monkeypatch):
    import torch

    monkeypatch.setenv("SLURM_GPUS_ON_NODE", str(torch.cuda.device_count() + 1))
    assert any("torch sees" in wrong for wrong in look.look(recipe)["wrong"])
