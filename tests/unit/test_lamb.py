"""runtime/lamb.py and runtime/optimizers.py in one process; tests/dist/test_lamb.py has the sharded half."""

import copy
import logging
import math
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from unibert.runtime import optimizers
from unibert.runtime.lamb import BLOCK, Lamb
from unibert.runtime.shards import Fragment, Shard
from unibert.schema import Optimizer

SETTINGS = {"lr": 0.1, "betas": (0.5, 0.75), "eps": 5.0, "weight_decay": 0.25}


def matrix(*rows):
    return nn.Parameter(torch.tensor(rows))


def moved(parameter, gradient, **settings):
    """A parameter after one step, and the optimizer."""
    parameter.grad = torch.tensor(gradient)
    optimizer = Lamb([parameter], **SETTINGS | settings)
    optimizer.step()
    return parameter.detach(), optimizer


def assert_equal(found, expected):
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-6, atol=1e-7)


# --- the formula ------------------------------------------------------------------------------------------------------


def test_two_steps_worked_by_hand():
    # Step 1, w = (3, 4), g = (7, 0):
    #   m = 0.5 g = (3.5, 0), over 1 - 0.5 again (7, 0);  v = 0.25 g^2 = (12.25, 0), over 1 - 0.75 again (49, 0)
    #   u = (7 / (7 + 5), 0) + 0.25 (3, 4) = (7/12 + 3/4, 1) = (4/3, 1);  |w| = 5, |u| = 5/3, ratio 3
    #   w - 0.1 * 3 * u = (3 - 0.4, 4 - 0.3) = (2.6, 3.7)
    w, optimizer = moved(matrix([3.0, 4.0]), [[7.0, 0.0]])
    assert_equal(w, [[2.6, 3.7]])
    assert list(optimizer.trust_ratios().values()) == pytest.approx([3.0])
    # Step 2, the same g: m = 5.25 over 1 - 0.5^2 = 7;  v = 21.4375 over 1 - 0.75^2 = 49: again 7/12, since both are
    # corrected for their start at 0. u = (7/12 + 0.25 * 2.6, 0.25 * 3.7).
    optimizer.step()
    u = (7 / 12 + 0.65, 0.925)
    ratio = math.hypot(2.6, 3.7) / math.hypot(*u)
    assert_equal(w, [[2.6 - 0.1 * ratio * u[0], 3.7 - 0.1 * ratio * u[1]]])


def test_a_group_that_does_not_adapt_has_ratio_one():
    excluded, scaled = nn.Parameter(torch.tensor([3.0, 4.0])), matrix([3.0, 4.0])
    excluded.grad, scaled.grad = torch.tensor([7.0, 0.0]), torch.tensor([[7.0, 0.0]])
    optimizer = Lamb([{"params": [scaled]}, {"params": [excluded], "weight_decay": 0.0, "adapt": False}], **SETTINGS)
    optimizer.step()
    assert_equal(excluded.detach(), [3 - 0.1 * 7 / 12, 4.0])
    assert_equal(scaled.detach(), [[2.6, 3.7]])
    assert len(optimizer.trust_ratios()) == 1


def test_the_ratio_is_clipped_from_above():
    w, optimizer = moved(matrix([3.0, 4.0]), [[7.0, 0.0]], ratio_max=2.0)
    assert_equal(w, [[3 - 0.2 * 4 / 3, 4 - 0.2]])
    assert list(optimizer.trust_ratios().values()) == [2.0]
    w, _ = moved(matrix([3.0, 4.0]), [[7.0, 0.0]], ratio_max=3.5)
    assert_equal(w, [[2.6, 3.7]])


def test_without_weights_or_without_an_update_the_ratio_is_one():
    w, optimizer = moved(matrix([0.0, 0.0]), [[7.0, 0.0]])
    assert_equal(w, [[-0.1 * 7 / 12, 0.0]])
    assert list(optimizer.trust_ratios().values()) == [1.0]
    w, optimizer = moved(matrix([3.0, 4.0]), [[0.0, 0.0]], weight_decay=0.0)
    assert_equal(w, [[3.0, 4.0]])
    assert list(optimizer.trust_ratios().values()) == [1.0]


def test_norms_of_many_elements_are_not_sums_in_fp32():
    # |w| and |u| of so many elements, added up in fp32, are wrong by more than 1e-5, and not alike.
    generator = torch.Generator().manual_seed(0)
    w, g = torch.randn(1, 60 * BLOCK + 7, generator=generator), torch.full((1, 60 * BLOCK + 7), 7.0)
    norm = math.sqrt(sum(float(block.double().square().sum()) for block in w.split(BLOCK, dim=1)))
    _, optimizer = moved(nn.Parameter(w), g.tolist(), weight_decay=0.0)
    assert list(optimizer.trust_ratios().values()) == pytest.approx([norm / (7 / 12 * math.sqrt(w.numel()))], rel=2e-7)


def test_a_checkpoint_s_state_can_be_put_back():
    straight, optimizer = moved(matrix([3.0, 4.0]), [[7.0, 1.0]])
    saved, kept = straight.clone(), copy.deepcopy(optimizer.state_dict()["state"][0])
    assert set(kept) == {"step", "exp_avg", "exp_avg_sq"}
    optimizer.step()
    again = nn.Parameter(saved)
    again.grad = torch.tensor([[7.0, 1.0]])
    resumed = Lamb([again], **SETTINGS)
    resumed.state[again] = kept
    resumed.step()
    assert torch.equal(again.detach(), straight)
    assert resumed.state[again]["step"] == 2


# --- tensors that are made of several parameters ----------------------------------------------------------------------

A, B = [[3.0, 4.0]], [[1.0, 0.0], [2.0, -1.0]]
GRADIENTS = [[7.0, 0.0]], [[0.5, 1.0], [0.0, -3.0]]
NAN = float("nan")


def flat_shard(*, group=None, of_a=2):
    """A and B end to end with padding between and behind, as ZeRO's tensors have it."""
    a, b = matrix(*A), matrix(*B)
    flat = torch.tensor([3.0, 4.0, 99.0, 1.0, 0.0, 2.0, -1.0, NAN])
    flat.grad = torch.tensor([7.0, 0.0, 0.0, 0.5, 1.0, 0.0, -3.0, 0.0])
    return Shard(flat, ("a", "b"), (Fragment("a", a, 0, of_a, 0), Fragment("b", b, 0, 4, 3)), group)


def test_a_flat_tensor_moves_as_its_parameters_would():
    shard = flat_shard()
    optimizer = Lamb([shard.flat], **SETTINGS)
    optimizer.attach([shard])
    assert optimizer.ratio_summary() == {}
    optimizer.step()
    ratios = []
    for fragment, whole, gradient in zip(shard.fragments, (A, B), GRADIENTS, strict=True):
        expected, alone = moved(matrix(*whole), gradient)
        torch.testing.assert_close(shard.part(fragment), expected.flatten())
        ratios += alone.trust_ratios().values()
    assert optimizer.trust_ratios() == pytest.approx(dict(zip("ab", ratios, strict=True)))
    assert optimizer.ratio_summary() == pytest.approx(
        {
            "optim/trust_ratio_min": min(ratios),
            "optim/trust_ratio_median": sum(ratios) / 2,
            "optim/trust_ratio_max": max(ratios),
        }
    )
    assert shard.flat[2] == 99 and shard.flat[7].isnan()


def test_one_all_reduce_of_two_numbers_per_adapted_parameter(monkeypatch):
    ranks, sent = object(), []

    def all_reduce(values, *, group):
        assert group is ranks
        sent.append(values.clone())
        if values.dtype == torch.float64:
            values.mul_(4)  # as if three more ranks held just as much: norms double, the ratio stays

    monkeypatch.setattr("torch.distributed.all_reduce", all_reduce)
    monkeypatch.setattr("torch.distributed.get_backend", lambda group: "gloo")
    shard, plain = flat_shard(group=ranks), flat_shard(group=ranks)
    plain = Shard(plain.flat, ("c", "d"), (), ranks)
    optimizer = Lamb([{"params": [shard.flat]}, {"params": [plain.flat], "adapt": False}], **SETTINGS)
    optimizer.attach([shard, plain])
    assert len(sent) == 1
    optimizer.step()
    assert [(tuple(values.shape), values.dtype) for values in sent[1:]] == [((2, 2), torch.float64)]
    assert_equal(shard.part(shard.fragments[0]), [2.6, 3.7])


def test_a_rank_that_holds_nothing_but_padding_joins_in(monkeypatch):
    monkeypatch.setattr("torch.distributed.all_reduce", lambda values, group: values.add_(1))  # the others' norms
    monkeypatch.setattr("torch.distributed.get_backend", lambda group: "gloo")
    flat = torch.tensor([99.0, NAN])
    flat.grad = torch.zeros(2)
    optimizer = Lamb([flat], **SETTINGS)
    optimizer.attach([Shard(flat, ("a", "b"), (), object())])
    optimizer.step()
    assert optimizer.trust_ratios() == {"a": 1.0, "b": 1.0}
    assert flat[0] == 99 and flat[1].isnan()


def test_a_flat_tensor_that_nobody_explained_is_refused():
    flat = flat_shard().flat
    with pytest.raises(AssertionError, match=r"shape \[8\].*attach\(shards_of\(engine\)\)"):
        Lamb([flat], **SETTINGS).step()
    for unknown in (flat, flat.view(2, 4).detach()):  # attached to others, it takes not even a matrix for whole
        unknown.grad = torch.zeros_like(unknown)
        optimizer = Lamb([unknown], **SETTINGS)
        optimizer.attach([flat_shard()])
        with pytest.raises(AssertionError, match="attach"):
            optimizer.step()


def test_pieces_that_do_not_add_up_are_refused():
    shard = flat_shard(of_a=1)
    with pytest.raises(AssertionError, match=r"a \(1 of 2\)"):
        Lamb([shard.flat], **SETTINGS).attach([shard])


# --- which optimizer is built -----------------------------------------------------------------------------------------


def module():
    return nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))


def table(**fields):
    return Optimizer(name="lamb", learning_rate=0.2, betas=(0.8, 0.9), epsilon=1e-3, **fields)


@pytest.fixture
def on_a_gpu(monkeypatch):
    monkeypatch.setattr(optimizers, "_device_type", lambda module: "cuda")


@pytest.fixture
def apex(monkeypatch):
    """A stand-in for NVIDIA's package that remembers what it was given."""

    class FusedLAMB(torch.optim.Optimizer):
        def __init__(self, params, **settings):
            super().__init__(params, {"lr": settings["lr"], "grad_averaging": True})
            self.settings = settings

    fake = ModuleType("apex.optimizers")
    fake.FusedLAMB = FusedLAMB
    monkeypatch.setitem(sys.modules, "apex", ModuleType("apex"))
    monkeypatch.setitem(sys.modules, "apex.optimizers", fake)
    return fake


def test_matrices_decay_and_adapt_vectors_do_not():
    net = module()
    optimizer = optimizers.build(net, table=table(weight_decay=0.3, trust_ratio_max=4), rate=0.7)
    assert isinstance(optimizer, Lamb) and optimizer.ratio_max == 4
    matrices, vectors = optimizer.param_groups
    assert [id(p) for p in matrices["params"]] == [id(net[0].weight)]
    assert (matrices["weight_decay"], matrices["adapt"], matrices["lr"], matrices["eps"]) == (0.3, True, 0.7, 1e-3)
    assert (len(vectors["params"]), vectors["weight_decay"], vectors["adapt"]) == (3, 0.0, False)


def test_apex_is_taken_on_a_gpu_with_settings_that_make_it_ours(on_a_gpu, apex):
    optimizer = optimizers.build(module(), table=table(trust_ratio_max=0, weight_decay=0.01), stage=0)
    assert isinstance(optimizer, apex.FusedLAMB)
    assert optimizer.settings == {
        "lr": 0.2, "betas": (0.8, 0.9), "eps": 1e-3, "bias_correction": True, "grad_averaging": True,
        "adam_w_mode": True, "use_nvlamb": False, "max_grad_norm": math.inf,
    }  # fmt: skip
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0]


@pytest.mark.parametrize("fields", [{"trust_ratio_max": 10}, {"trust_ratio_max": 0, "weight_decay": 0}])
def test_apex_is_not_taken_where_it_computes_something_else(on_a_gpu, apex, fields):
    assert isinstance(optimizers.build(module(), table=table(**fields)), Lamb)


def test_apex_is_not_taken_for_shards_or_on_a_cpu(apex, monkeypatch):
    assert isinstance(optimizers.build(module(), table=table(trust_ratio_max=0)), Lamb)
    monkeypatch.setattr(optimizers, "_device_type", lambda module: "cuda")
    assert isinstance(optimizers.build(module(), table=table(trust_ratio_max=0), stage=1), Lamb)


@pytest.mark.parametrize("error", [ImportError("no amp_C"), RuntimeError("requires cuda extensions")])
def test_apex_without_its_extensions_is_ours(on_a_gpu, apex, monkeypatch, caplog, error):
    def broken(params, **settings):
        torch.optim.SGD(params, lr=1.0)  # a constructor fills its defaults in before it fails
        raise error

    monkeypatch.setattr(apex, "FusedLAMB", broken)
    caplog.set_level(logging.INFO)
    optimizer = optimizers.build(module(), table=table(trust_ratio_max=0))
    assert isinstance(optimizer, Lamb) and "momentum" not in optimizer.param_groups[0]
    assert str(error) in caplog.text


def test_adamw_is_torch_s_and_fused_on_a_gpu(monkeypatch):
    plain = Optimizer(name="adamw", weight_decay=0.3)
    for offloaded in (False, True):
        optimizer = optimizers.build(module(), table=plain, offloaded=offloaded)
        assert type(optimizer) is torch.optim.AdamW and not optimizer.defaults["fused"]
    monkeypatch.setattr(optimizers, "_device_type", lambda module: "cuda")
    assert optimizers.build(module(), table=plain).defaults["fused"]


def test_offloaded_adamw_is_deepspeed_s_when_its_operator_builds(on_a_gpu, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    given = []

    def cpu_adam(params, **settings):
        given.append(settings)
        return torch.optim.SGD(params, lr=settings["lr"])

    monkeypatch.setitem(sys.modules, "deepspeed.ops.adam", SimpleNamespace(DeepSpeedCPUAdam=cpu_adam))
    plain = Optimizer(name="adamw")
    assert isinstance(optimizers.build(module(), table=plain, offloaded=True), torch.optim.SGD)
    assert given[0]["adamw_mode"] and given[0]["betas"] == plain.betas
    assert len(caplog.records) == 1 and "DeepSpeedCPUAdam" in caplog.text
    caplog.clear()

    def unbuildable(params, **settings):
        raise RuntimeError("the cpu_adam op failed to build") from OSError("no compiler")

    monkeypatch.setitem(sys.modules, "deepspeed.ops.adam", SimpleNamespace(DeepSpeedCPUAdam=unbuildable))
    assert type(optimizers.build(module(), table=plain, offloaded=True)) is torch.optim.AdamW
    assert len(caplog.records) == 1 and "no compiler" in caplog.text


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_a_step_at_rest_leaves_no_trace(name):
    net = module()
    optimizer = optimizers.build(net, table=Optimizer(name=name, learning_rate=0.2))
    before = [p.detach().clone() for p in net.parameters()]
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    with optimizers.at_rest(optimizer):
        optimizer.step()
    assert all(map(torch.equal, net.parameters(), before))
    assert not optimizer.state and [group["lr"] for group in optimizer.param_groups] == [0.2, 0.2]
    optimizer.step()
    assert not torch.equal(net[0].weight, before[0])  # decay, the rate being back
