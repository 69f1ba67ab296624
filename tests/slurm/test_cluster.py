"""The tests' own cluster is a cluster: machines with names of their own, that can be lost and come back."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.slurm


def test_nodes_are_machines(cluster, tmp_path):
    names = cluster.ask("srun", "--nodes=3", "hostname")
    assert sorted(names.split()) == ["node1", "node2", "node3"]
    job = cluster.submit("--wrap", "exit 7", log=tmp_path / "log")
    job.finish(seconds=30, expect="FAILED", code=7)
    cluster.lab("enter", "node2", "mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path))
    write = ("srun", "--label", "--nodes=3", "touch", str(tmp_path / "here"))
    assert "read-only" in cluster.ask(*write, expect=1).lower(), "on node2 alone"
    assert (tmp_path / "here").exists()


def test_a_lost_node_takes_its_processes_along(cluster, tmp_path):
    job = cluster.submit("--nodelist=node3", "--wrap", "echo $$ > pid; sleep 1000", f"--chdir={tmp_path}")
    pid = tmp_path / "pid"
    job.wait(lambda: pid.exists() and pid.read_text(), seconds=30, what="the job's process")
    cluster.lab("crash", "node3")
    assert not Path("/proc", pid.read_text().strip(), "exe").exists()
    job.signal()
    cluster.lab("boot", "node3")
    assert cluster.ask("srun", "--quiet", "--nodelist=node3", "hostname") == "node3\n"
