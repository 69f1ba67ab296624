"""Two ranks that ask one server train as two ranks with a teacher each; wrong or absent servers are told."""

import subprocess
import sys
import threading
from multiprocessing.connection import Client
from types import SimpleNamespace

import pytest

from tests.runs import environment, metrics, train
from tests.tiny import make_workspace
from unibert.config import load_recipe
from unibert.models.teacher.served import _meet, serve
from unibert.models.wanted import Wanted


@pytest.mark.dist
def test_two_ranks_and_a_server_equal_a_teacher_on_every_rank(tmp_path):
    recipe, socket = make_workspace(tmp_path), tmp_path / "s"
    words = [sys.executable, "-m", "unibert", "serve-teacher", str(recipe), "--teacher.socket", str(socket)]
    server = subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL)
    try:
        for kind in ("resident", "served"):
            own = ("--teacher.kind", kind, "--name", kind, "--teacher.socket", str(socket), "--train.steps", "4")
            train(recipe, *own, launcher="torchrun", world=2)
        folder = load_recipe(recipe).runs_folder
        served, resident = (
            [{tag: value for tag, value in row.items() if tag.startswith("loss/")} for row in metrics(folder / kind)]
            for kind in ("served", "resident")
        )
        assert served == resident and len(served) == 4
        assert {"loss/distill_logits", "loss/distill_hidden"} <= set(served[0])
        other = make_workspace(tmp_path / "other")
        (tmp_path / "other" / "teacher" / "config.json").write_text(
            (tmp_path / "teacher" / "config.json").read_text().replace('"hidden_act": "gelu"', '"hidden_act": "relu"')
        )
        said = train(other, "--teacher.kind", "served", "--teacher.socket", str(socket), expect=3)
        assert "another teacher is served" in said
    finally:
        server.terminate()
        server.wait()


def test_a_rank_that_leaves_at_once_takes_nobody_along(tmp_path):
    """It is gone when the server greets it; the next one is answered all the same."""
    socket = tmp_path / "teacher.socket"
    teacher = SimpleNamespace(config=None, gives=Wanted(), gives_unmasked=Wanted())
    told = {"fingerprint": "f", "socket": socket}
    threading.Thread(target=serve, args=(teacher,), kwargs=told, daemon=True).start()
    _meet(socket).close()
    for _ in range(30):
        with Client(str(socket), family="AF_UNIX"):
            pass
    with Client(str(socket), family="AF_UNIX") as line:
        assert line.poll(20), "the server is gone"
        assert line.recv()["fingerprint"] == "f"
