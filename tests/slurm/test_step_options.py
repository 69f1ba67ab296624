"""What variables of `unibert slurm` make of launch_slurm/train.sbatch's step: a container, DeepSpeed's own launcher."""

import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tests.slurm.test_train_sbatch import Cluster

JOB = {"SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "4", "SLURM_NODEID": "1", "SLURM_JOB_NODELIST": "node[1-2]"}
SRUN = """
options=()
while [ "${1#--}" != "$1" ]; do options+=("$1"); shift; done
echo "${options[*]}" >> srun.log
INSIDE=1 exec "$@"
"""


@pytest.fixture
def watched(tmp_path: Path) -> Cluster:
    """A cluster that writes down what srun was asked for."""
    cluster = Cluster(tmp_path)
    cluster.command("srun", SRUN)
    return cluster


def steps(cluster: Cluster) -> list[list[str]]:
    """srun's own options, of each step."""
    path = cluster.folder / "srun.log"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def test_in_a_container_nothing_of_unibert_runs_outside(watched: Cluster):
    words = "--container-image=img --container-workdir=/here"
    (watched.bin / "python").unlink()
    watched.command("python", f'[ -n "${{INSIDE:-}}" ] || exit 9; exec {sys.executable} "$@"')
    code, said, _ = watched.end(watched.submit("quick", UNIBERT_SRUN=words, UNIBERT_PREFLIGHT="0"))
    assert code == 0, said
    assert len(steps(watched)) >= 2
    assert all(set(words.split()) <= set(step) for step in steps(watched))


def test_without_one_only_the_ranks_are_a_step(watched: Cluster):
    code, said, _ = watched.end(watched.submit("quick", UNIBERT_PREFLIGHT="0"))
    assert code == 0, said
    assert steps(watched) == [["--kill-on-bad-exit=1", "--label"]]


def test_deepspeeds_launcher_is_started_once_on_each_node(watched: Cluster):
    watched.command("scontrol", 'if [ "$1 $2" = "show hostnames" ]; then printf "node1\\nnode2\\n"; fi')
    watched.command(
        "deepspeed", 'echo "$*" > deepspeed.log; while [ "$1" != train ]; do shift; done; exec python -m unibert "$@"'
    )
    launcher = {"UNIBERT_LAUNCHER": "deepspeed", "SLURM_CPUS_PER_TASK": "3", "SLURM_RESTART_COUNT": "2"}
    watched.submit("quick", UNIBERT_PREFLIGHT="0", **JOB, **launcher).communicate(timeout=60)
    assert {"--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=6"} <= set(steps(watched)[-1])
    [hostfile] = watched.folder.glob("runs/quick/logs/*/hostfile")
    assert hostfile.read_text() == "node1 slots=2\nnode2 slots=2\n"
    said = (watched.folder / "deepspeed.log").read_text().split()
    options = dict(pairwise(said))
    assert options["--hostfile"] == str(hostfile.relative_to(watched.folder))
    assert (options["--node_rank"], options["--master_addr"]) == ("1", "node1")
    assert options["--master_port"] == str(20000 + 7 + 2 * 1009), "as the ranks have it without the launcher"
    assert "--no_ssh" in said and said[-4:] == ["--module", "unibert", "train", "quick"]
