"""LAMB under ZeRO 1, 2 and 3 on two ranks is LAMB: the same weights and trust ratios as a plain loop's."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.dist import lamb_worker as worker
from tests.runs import ROOT, TIMEOUT_SECONDS, environment, free_port

WORLD = 2
NOISE = "attention.self.key.bias"  # its gradient is zero in exact arithmetic: it moves by rounding alone


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each rank saved, by case."""
    folder = tmp_path_factory.mktemp("lamb")
    torchrun = Path(sys.executable).parent / "torchrun"
    words = [str(torchrun), "--nproc_per_node", str(WORLD), "--master_port", str(free_port())]
    done = subprocess.run(
        [*words, str(Path(worker.__file__)), str(folder)],
        env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(WORLD)]


@pytest.fixture(scope="module")
def reference():
    """A plain loop in float64 over whole batches and whole parameters: (weights, the last step's ratios)."""
    module = worker.model().double()
    (b1, b2), moments = worker.BETAS, {}
    for step in range(worker.STEPS):
        ids = worker.batch(step, world=WORLD)
        module.zero_grad()
        module(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), worker.CLIP)
        ratios = {}
        for name, parameter in module.named_parameters():
            w, g = parameter.data, parameter.grad
            m, v = moments.get(name, (torch.zeros_like(w), torch.zeros_like(w)))
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            moments[name] = m, v
            u = m / (1 - b1 ** (step + 1)) / ((v / (1 - b2 ** (step + 1))).sqrt() + worker.EPSILON)
            if w.dim() >= 2:
                u += worker.DECAY * w
                ratios[name] = min(float(w.norm() / u.norm()), worker.RATIO_MAX)
            parameter.data -= worker.RATE * ratios.get(name, 1.0) * u
    return dict(module.named_parameters()), ratios


def differences(found, expected):
    """Largest difference of each parameter, relative to its largest element."""
    return {
        name: float((found[name] - w.detach()).abs().max() / w.detach().abs().max())
        for name, w in expected.items()
        if NOISE not in name
    }


@pytest.mark.dist
@pytest.mark.parametrize("case", worker.ZERO)
def test_sharded_equals_whole(ranks, reference, case):
    weights, ratios = reference
    for found in (rank[case] for rank in ranks):
        off = differences(found["weights"], weights)
        assert max(off.values()) <= 1e-6, sorted(off.items(), key=lambda item: -item[1])[:5]
        assert found["ratios"] == pytest.approx(ratios, rel=1e-5)
        assert not found["moments_padding"].any()
        # Under ZeRO-3 DeepSpeed's padding holds whatever the memory held: no norm may see it, nothing may move it.
        torch.testing.assert_close(*found["padding"], rtol=0, atol=0, equal_nan=True)
    assert ranks[0][case]["ratios"] == ranks[1][case]["ratios"]


@pytest.mark.dist
def test_the_cases_cut_parameters_and_pad(ranks):
    """Else the equalities above would say nothing."""
    for case in worker.ZERO:
        assert min(rank[case]["smallest_share"] for rank in ranks) < 1, case
    assert any(rank["zero3"]["moments_padding"].numel() for rank in ranks)


@pytest.mark.dist
def test_an_ordinary_lamb_on_zero_s_shards_differs(ranks, reference):
    assert max(differences(ranks[0][worker.FLAT]["weights"], reference[0]).values()) > 1e-3


@pytest.mark.dist
def test_the_tags_sum_up_the_ratios(ranks, reference):
    ratios = reference[1].values()
    assert min(ratios) < statistics.median(ratios) < max(ratios) == worker.RATIO_MAX
    assert ranks[0]["zero1"]["summary"] == pytest.approx(
        {
            "optim/trust_ratio_min": min(ratios),
            "optim/trust_ratio_median": statistics.median(ratios),
            "optim/trust_ratio_max": max(ratios),
        },
        rel=1e-5,
    )


@pytest.mark.dist
def test_an_engine_of_zero_0_in_bf16_begins_with_the_weights_it_was_given(ranks):
    for name, (master, before) in ranks[0]["as_built"].items():
        assert torch.equal(master, before), name


@pytest.mark.dist
def test_apex_resumes_with_its_count_of_steps(tmp_path):
    words = [sys.executable, str(Path(__file__).with_name("apex_worker.py")), str(tmp_path / "saved")]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"equal": True, "moved": True}
