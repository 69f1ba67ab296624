"""launch_slurm/preflight.sh on nodes with real faults: they are named, and the job runs on the others."""

from pathlib import Path

import pytest

from tests.runs import ROOT
from tests.slurm import survival
from tests.slurm.cluster import Cluster, Job
from tests.tiny import make_workspace

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("preflight"))


@pytest.fixture
def local(tmp_path) -> Path:
    """What the nodes have as TMPDIR."""
    folder = tmp_path / "local"
    folder.mkdir()
    return folder


def fill_temporary_folder(cluster: Cluster, node: str, folder: Path) -> None:
    """Full, and not read-only: then SLURM itself would let jobs have /tmp instead."""
    cluster.lab("enter", node, "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder))


def look(cluster: Cluster, recipe: Path, folder: Path, *words: str, **environ: str) -> Job:
    """A job that only looks; the folder of each of its starts is there, with an old list of bad nodes."""
    for restart in ("", 1, 2):
        (folder / f"start{restart}").mkdir()
        (folder / f"start{restart}" / "bad_nodes").write_text("node1 of yesterday\n")
    script = f'bash launch_slurm/preflight.sh "{folder}/start$SLURM_RESTART_COUNT" {recipe}'
    script += "; code=$?; echo left with $code, on $(scontrol show hostnames | paste -sd,); exit $code"
    log = folder / "log"
    return cluster.submit("--open-mode=append", *words, "--wrap", script, log=log, **environ)


def test_bad_nodes_are_left_out(recipe, local, tmp_path):
    """node2 has a full TMPDIR, node4 has another checkout than the others; one may do without nodes."""
    changed = tmp_path / "errors.py"
    changed.write_text((ROOT / "unibert/errors.py").read_text() + "# changed\n")
    with Cluster(tmp_path / "lab", nodes=4) as cluster:
        fill_temporary_folder(cluster, "node2", local)
        cluster.lab("enter", "node4", "mount", "--bind", str(changed), str(ROOT / "unibert/errors.py"))
        job = look(cluster, recipe, tmp_path, "--nodes=2-4", TMPDIR=str(local))
        said = job.finish(seconds=survival.PATIENCE_SECONDS)
        assert job.restarts() == 1
    assert "bad node node2 TMPDIR" in said
    assert "bad node node4 other code than most nodes" in said
    assert "left with 0, on node1,node3" in said
    assert "all-reduce" in said


@pytest.mark.slow
def test_training_runs_elsewhere(recipe, local, tmp_path):
    with Cluster(tmp_path / "lab", nodes=3) as cluster:
        fill_temporary_folder(cluster, "node1", local)
        trial = survival.submit(cluster, recipe, "elsewhere", TMPDIR=str(local), UNIBERT_PREFLIGHT="1")
        said = trial.job.finish(seconds=survival.PATIENCE_SECONDS)
        assert trial.nodes() == ["node2", "node3"]
    assert "back into the queue without node1" in said
    assert survival.last_step(trial.run) == survival.STEPS
