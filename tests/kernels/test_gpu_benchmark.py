"""The GPU's benchmark runs on a CPU, at a size that measures nothing; its check of bf16 is the real one."""

import pytest
import torch

from benchmarks import gpu_kernels


def test_every_kernel_is_checked_and_timed():
    rows = gpu_kernels.main(["--quick"])
    errors = {row[0]: float(row[5]) for row in rows if row[1] == "float64"}
    assert list(errors) == ["K1 head, CE and KL", "K2 attention KL", "K3 raw-score MSE"]
    assert all(0 < error <= gpu_kernels.MOST_APART for error in errors.values())
    timed = [row for row in rows if "ms" in row[4]]
    assert len(timed) == 5 and all(float(row[5]) > 0 and float(row[6]) > 0 for row in timed)


def test_a_kernel_that_is_wrong_ends_the_run(monkeypatch):
    case = gpu_kernels.Attention(gpu_kernels.Device(), "kl", rows=1, length=8)
    gpu_kernels.check(case)
    right = gpu_kernels.attention_distance
    monkeypatch.setattr(gpu_kernels, "attention_distance", lambda *args, **kw: 1.05 * right(*args, **kw))
    with pytest.raises(AssertionError, match="from float64"):
        gpu_kernels.check(case)


@pytest.mark.gpu
def test_a_gpu_takes_triton():
    from kernels.distill_attention import is_fused

    query = torch.zeros(4, 2, 16, dtype=torch.bfloat16, device="cuda")
    assert is_fused(query, query)
