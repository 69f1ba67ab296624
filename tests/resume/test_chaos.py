"""A short chaos; the long one is run by hand: python tests/resume/chaos.py --steps 200 --kills 15."""

import pytest

from tests.resume.chaos import Chaos, small_disk


@pytest.mark.dist
@pytest.mark.parametrize(
    "worlds", [pytest.param([2], marks=pytest.mark.slow), [1, 3, 2]], ids=["two ranks", "changing ranks"]
)
def test_a_disturbed_run_is_the_unbroken_one(tmp_path, worlds):
    with small_disk(tmp_path / "runs"):
        chaos = Chaos(tmp_path, steps=26, kills=2, seed=len(worlds), worlds=worlds)
        chaos.reference()
        chaos.play()
        figures = chaos.check()
    assert figures["starts"] == 3
