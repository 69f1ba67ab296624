"""A streamed teacher gives what a resident one gives, and holds two of its layers and no more."""

import json
import subprocess
import sys

import pytest
import torch

from tests.runs import environment
from tests.teacher.small import KINDS, batch_of, make, save
from unibert.errors import ConfigError
from unibert.models.teacher import load_resident, rest
from unibert.models.teacher.offloaded import load_offloaded
from unibert.teacher_tables import Teacher as Table

CPU = torch.device("cpu")


def same(a, b, wanted, **close):
    torch.testing.assert_close(a.last_hidden, b.last_hidden, **close)
    for layer in wanted.hidden:
        torch.testing.assert_close(a.hidden[layer], b.hidden[layer], **close)
    for layer in wanted.attention:
        for mine, other in zip(a.attention[layer], b.attention[layer], strict=True):
            torch.testing.assert_close(mine, other, **close)
    for mine, other in ((a.masked_logits, b.masked_logits), (a.token_logits, b.token_logits)):
        assert (mine is None) == (other is None)
        if mine is not None:
            torch.testing.assert_close(mine, other, **close)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("offload", ["cpu", "nvme"])
@pytest.mark.parametrize("kind", KINDS)
def test_same_as_resident(kind, offload, dtype, tmp_path):
    folder = save(make(kind), tmp_path / kind)
    table = Table(path=folder, offload=offload, offload_folder=tmp_path / "rest", dtype=dtype)
    if offload == "nvme":  # as the process of its own does, whose start is long
        dtype_ = getattr(torch, {"fp32": "float32", "bf16": "bfloat16"}[dtype])
        rest._write(folder, dtype_, rest.place_of(folder, dtype_, tmp_path / "rest"))
    resident, teacher = load_resident(table, device=CPU), load_offloaded(table, device=CPU)
    assert teacher.gives == resident.gives and teacher.sizes == resident.sizes
    for seed in range(3):
        batch = batch_of(seed=seed)
        for wanted in (resident.gives, type(resident.gives)(), type(resident.gives)(masked_logits=True)):
            teacher.ask(batch, wanted)
            same(
                teacher.answer(),
                resident.forward(batch, wanted),
                wanted,
                rtol=0,
                atol=1e-6 if dtype == "fp32" else 0.04,
            )
    teacher.close()


def test_a_teacher_without_head_is_streamed_too_and_files_are_kept(tmp_path):
    save(make("bert").bert, tmp_path / "body")
    table = Table(path=tmp_path / "body", offload="nvme", offload_folder=tmp_path / "rest", dtype="fp32")
    teacher = load_offloaded(table, device=CPU)
    assert not teacher.gives.masked_logits and teacher.rest.units == 3
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "rest").rglob("*.bin")}
    again = load_offloaded(table, device=CPU)
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "rest").rglob("*.bin")}
    wanted = type(teacher.gives)()
    torch.testing.assert_close(
        again.forward(batch_of(), wanted).last_hidden,
        load_resident(table, device=CPU).forward(batch_of(), wanted).last_hidden,
    )
    for one in (teacher, again):
        one.close()


def test_a_head_of_other_precision_is_refused(tmp_path):
    folder = save(make("bert"), tmp_path / "bert")
    with pytest.raises(ConfigError, match="head_dtype"):
        load_offloaded(Table(path=folder, dtype="bf16", head_dtype="fp32"), device=CPU)


MEASURE = """
import json, sys
from pathlib import Path
import torch
from tests.teacher.small import batch_of
from unibert.models.teacher.offloaded import load_offloaded
from unibert.models.wanted import Wanted
from unibert.teacher_tables import Teacher as Table

def anonymous():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))

batch, wanted = batch_of(), Wanted(True, hidden=frozenset({0, 1}), attention=frozenset({1}))
def table(path):
    return Table(path=path, offload="nvme", offload_folder=Path(sys.argv[1]).parent / "rest", dtype="fp32")
warm = load_offloaded(table(sys.argv[2]), device=torch.device("cpu"))  # the libraries' own memory
warm.forward(batch, wanted)
warm.close()
before = anonymous()
teacher = load_offloaded(table(sys.argv[1]), device=torch.device("cpu"))
held = []
def look(layer, *_):
    whole = [l for l in teacher.rest.layer_modules(teacher.encoder.hf) if not next(l.parameters()).is_meta]
    held.append((len(whole), anonymous() - before))
for layer in teacher.rest.layer_modules(teacher.encoder.hf):
    layer.register_forward_pre_hook(look)
for _ in range(2):
    teacher.forward(batch, wanted)
    held.append((0, anonymous() - before))
layers = [teacher.rest.elements(n) * 4 for n in range(teacher.rest.layers)]
print(json.dumps({
    "layers": len(layers), "layer": max(layers), "whole": max(n for n, _ in held), "anonymous": max(m for _, m in held),
    "buffers": sum(b.numel() * 4 for b in teacher.conveyor.buffers),
    "others": sum(t.numel() * t.element_size() for t in teacher.rest.others.values()),
    "table": teacher.config.vocab_size * teacher.config.hidden_size * 4,
}))
teacher.close()
"""


@pytest.mark.dist
def test_memory_holds_two_layers_whatever_the_depth(tmp_path):
    """At two sizes: anonymous memory of the process, that is all but mapped files, grows by two layers and no more."""
    small, seen = save(make("bert"), tmp_path / "small"), {}
    for depth in (3, 8):
        sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": depth, "vocab_size": 5_000}
        folder = save(make("bert", **sizes), tmp_path / f"{depth}")
        for source in (small, folder):  # written here, as by the process of its own that a first start takes
            place = rest.place_of(source, torch.float32, tmp_path / "rest")
            if not place.exists():
                rest._write(source, torch.float32, place)
        words = [sys.executable, "-c", MEASURE, str(folder), str(small)]
        # A fixed threshold: glibc raises its own as blocks are freed, and then keeps up to half a layer, not always.
        env = environment(MALLOC_MMAP_THRESHOLD_="65536")
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr[-3000:]
        seen[depth] = json.loads(done.stdout.splitlines()[-1])
    for fact in seen.values():
        assert fact["whole"] == 1, "a layer beside the one that computes has weights"
        assert fact["buffers"] == 2 * fact["layer"]
        # Activations, logits and the allocator's rest are less than half a layer: a third one would show.
        assert fact["anonymous"] < 2.5 * fact["layer"] + fact["others"], seen
    assert abs(seen[8]["anonymous"] - seen[3]["anonymous"]) < seen[3]["layer"] / 2, seen
