"""One rank of test_lamb.py: trains the same small BERT under every ZeRO stage and saves what became of it.

Also the home of what both sides share: the model, the data, and which parameters are excluded.
"""

import sys
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from unibert.runtime.shards import Shard

STEPS, PER_RANK, LENGTH, VOCABULARY = 20, 4, 16, 101
BETAS, EPSILON, DECAY, RATE, CLIP, RATIO_MAX = (0.9, 0.98), 1e-5, 0.01, 2e-3, 1.0, 0.1
ZERO: dict[str, dict] = {
    "zero1": {"stage": 1},
    "zero2": {"stage": 2},
    "zero2_offload": {"stage": 2, "offload_optimizer": {"device": "cpu"}},
    "zero3": {"stage": 3, "stage3_param_persistence_threshold": 0, "sub_group_size": 5000},
}
FLAT = "zero1_flat"


def model() -> nn.Module:
    """A 4-layer BERT as if on its way, its biases not at 0.

    From 0 a bias is its first steps' signs alone, and those of gradients near 0 are rounding: a plain fp32 loop then
    is 2e-5 off the same loop in float64. With biases of 0.1 and EPSILON 1e-5 it is 3e-7 to 6e-7 off (8 seeds).
    """
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=LENGTH, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    module = BertForMaskedLM(config)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() < 2:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def batch(step: int, *, world: int) -> Tensor:
    """Document ids of a step, all ranks' below one another [world * PER_RANK, LENGTH]."""
    return torch.randint(VOCABULARY, (world * PER_RANK, LENGTH), generator=torch.Generator().manual_seed(step))


class FlatLamb(torch.optim.Optimizer):
    """The counter-example: an ordinary LAMB, one ratio for each tensor it is given, which is DeepSpeed's shard."""

    def __init__(self, params):
        super().__init__(params, {"lr": RATE, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for w in group["params"]:
                state = self.state[w]
                state.setdefault("exp_avg", torch.zeros_like(w))
                state.setdefault("exp_avg_sq", torch.zeros_like(w))
                state["step"] = t = state.get("step", 0) + 1
                m, v = state["exp_avg"], state["exp_avg_sq"]
                m.mul_(BETAS[0]).add_(w.grad, alpha=1 - BETAS[0])
                v.mul_(BETAS[1]).addcmul_(w.grad, w.grad, value=1 - BETAS[1])
                u = m / (1 - BETAS[0] ** t) / ((v / (1 - BETAS[1] ** t)).sqrt() + EPSILON) + group["weight_decay"] * w
                ratio = min(float(w.norm() / u.norm()), RATIO_MAX) if group["weight_decay"] else 1.0
                w.sub_(u, alpha=group["lr"] * ratio)


def moments(optimizer: torch.optim.Optimizer, shard: Shard) -> list[Tensor]:
    return [optimizer.state[shard.flat][name] for name in ("exp_avg", "exp_avg_sq")]


def padding(shard: Shard, of: Tensor) -> Tensor:
    """What a tensor of the shard's size holds beside the parameters' pieces."""
    beside = torch.ones(of.numel(), dtype=torch.bool)
    for fragment in shard.fragments:
        shard.part(fragment, of=beside).fill_(False)
    return of.detach().flatten()[beside]


def train(case: str, *, rank: int, world: int) -> dict:
    """Train a case; its weights, trust ratios, the smallest share of a parameter on this rank, and the padding."""
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    from unibert.runtime import optimizers
    from unibert.runtime.shards import inner_optimizer, shards_of
    from unibert.schema import Optimizer

    module = model()
    table = Optimizer(
        name="lamb", learning_rate=RATE, betas=BETAS, epsilon=EPSILON, weight_decay=DECAY, trust_ratio_max=RATIO_MAX
    )
    if case == FLAT:
        optimizer = FlatLamb(optimizers.parameter_groups(module, weight_decay=DECAY))
    else:
        optimizer = optimizers.build(module, table=table, stage=ZERO[case]["stage"])
    config = {
        "train_micro_batch_size_per_gpu": PER_RANK, "gradient_accumulation_steps": 1, "gradient_clipping": CLIP,
        "zero_optimization": ZERO.get(case, ZERO["zero1"]), "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False, "steps_per_print": 10**9,
    }  # fmt: skip
    with optimizers.at_rest(optimizer):
        engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
    shards = shards_of(engine)
    beside = [padding(shard, shard.flat) for shard in shards]
    if case != FLAT:
        optimizer.attach(shards)
    for step in range(STEPS):
        ids = batch(step, world=world)[rank * PER_RANK :][:PER_RANK]
        engine.backward(engine(input_ids=ids, labels=ids).loss)
        engine.step()
    assert inner_optimizer(engine) is optimizer
    pieces = list(chain.from_iterable(shard.fragments for shard in shards))
    shares = [p.numel / getattr(p.parameter, "ds_numel", p.parameter.numel()) for p in pieces]
    found = {
        "weights": {name: safe_get_full_fp32_param(p).clone() for name, p in module.named_parameters()},
        "ratios": {} if case == FLAT else optimizer.trust_ratios(),
        "summary": {} if case == FLAT else optimizer.ratio_summary(),
        "smallest_share": min(shares),
        "padding": (torch.cat(beside), torch.cat([padding(shard, shard.flat) for shard in shards])),
        "moments_padding": torch.cat([padding(shard, of) for shard in shards for of in moments(optimizer, shard)]),
    }
    engine.destroy()
    return found


def as_built() -> dict[str, tuple[Tensor, Tensor]]:
    """(fp32 master, weight before) of every parameter in ZeRO-0 with bf16, where DeepSpeed steps while it builds."""
    import deepspeed

    from unibert.runtime import optimizers
    from unibert.runtime.shards import shards_of
    from unibert.schema import Optimizer

    module = model()
    before = {name: p.detach().bfloat16().float() for name, p in module.named_parameters()}
    optimizer = optimizers.build(module, table=Optimizer(name="lamb", learning_rate=RATE))
    config = {"train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": True}, "zero_allow_untested_optimizer": True}
    with optimizers.at_rest(optimizer):
        engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
    assert not optimizer.state
    return {shard.names[0]: (shard.flat.detach(), before[shard.names[0]]) for shard in shards_of(engine)}


def main(folder: Path) -> None:
    from unibert.runtime import dist

    ranks = dist.start(threads=1)
    found = {case: train(case, rank=ranks.rank, world=ranks.world) for case in [*ZERO, FLAT]}
    found["as_built"] = as_built()
    torch.save(found, folder / f"rank{ranks.rank}.pt")
    dist.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
