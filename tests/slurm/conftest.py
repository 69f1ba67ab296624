"""The cluster of a test file: three nodes, grace of 20 s before pre-emption."""

from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster, why_not


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("slurm") / "lab", nodes=3, grace=20) as started:
        yield started


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("slurm") and (reason := why_not()):
        pytest.skip(reason)
