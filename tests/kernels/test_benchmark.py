"""The benchmark of the step runs, and finds both sides equal, at a size that measures nothing."""

from benchmarks import distillation_step


def test_both_sides_have_the_same_losses_and_gradients():
    rows = distillation_step.main(["--quick"])
    assert [row[0] for row in rows[::3]] == ["step: masked LM + logits KL + attention KL"] * 2
    assert all(float(row[5]) > 0 and float(row[6]) > 0 for row in rows[::3])
