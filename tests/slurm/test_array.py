"""launch_slurm/data.sbatch on three nodes prepares the bytes of one process."""

import pytest

from tests.resume import data_corpora
from tests.resume.data_chaos import STAGES, Preparation, same_files
from tests.slurm.survival import PATIENCE_SECONDS

pytestmark = [pytest.mark.slurm, pytest.mark.dist, pytest.mark.slow]


def test_an_array_of_three_nodes(cluster, tmp_path):
    recipe = data_corpora.write(tmp_path / "corpora", size=0.3)
    alone = Preparation(recipe, tmp_path / "expected", stages=STAGES[:5]).run()
    words = ("--array=0-2", "--exclusive", "--cpus-per-task=1", "--open-mode=append")
    made = ("launch_slurm/data.sbatch", str(recipe), "--data.folder", str(tmp_path / "array"))
    job = cluster.submit(*words, *made, log=tmp_path / "array.log")
    job.wait(lambda: sum(facts["JobState"] == "RUNNING" for facts in job.members()) == 3, seconds=60, what="3 members")
    assert {facts["NodeList"] for facts in job.members()} == {"node1", "node2", "node3"}
    job.finish(seconds=PATIENCE_SECONDS)
    assert same_files(tmp_path / "array", alone.data) > 100
