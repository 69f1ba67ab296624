"""The benchmarks of the step and of bf16 run, and the first finds both sides equal, at sizes that measure nothing."""

from benchmarks import bf16, distillation_step


def test_both_sides_have_the_same_losses_and_gradients():
    rows = distillation_step.main(["--quick"])
    assert [row[0] for row in rows[::3]] == ["step: masked LM + logits KL + attention KL"] * 2
    assert all(float(row[5]) > 0 and float(row[6]) > 0 for row in rows[::3])


def test_bf16_beside_fp32():
    rows = bf16.main(["--quick", "--repeats", "1"])
    assert len(rows) == 3 and all(float(row[5]) > 0 and float(row[6]) > 0 for row in rows)
    assert 0 < bf16.lost(16) < 0.1
