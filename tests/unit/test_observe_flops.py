"""observe/flops.py against torch's own count of a real model's products."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForMaskedLM

from unibert.observe.flops import (
    Dimensions,
    forward_flops_per_token,
    peak_flops,
    peak_flops_of,
    training_flops_per_token,
)

ROWS, WIDTH = 2, 16


@pytest.fixture(scope="module")
def model():
    config = BertConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=80, vocab_size=200,
        attn_implementation="eager",
    )  # fmt: skip
    return BertForMaskedLM(config)


def counted(model, *, backward: bool) -> float:
    ids = torch.randint(0, 200, (ROWS, WIDTH))
    with FlopCounterMode(display=False) as counter:
        loss = model(input_ids=ids, labels=ids).loss
        if backward:
            loss.backward()
    return counter.get_total_flops() / (ROWS * WIDTH)


def test_forward_is_what_torch_counts(model):
    sizes = Dimensions.of(model.config)
    mine = forward_flops_per_token(sizes, row_tokens=WIDTH, target_fraction=1.0)
    assert mine == pytest.approx(counted(model, backward=False))


@pytest.mark.parametrize("trainable", ["all", "all_but_embeddings", "head"])
def test_training_is_what_torch_counts(model, trainable):
    for name, parameter in model.named_parameters():
        embeddings = "embeddings" in name or "decoder" in name
        head = name.startswith("cls") and not embeddings
        parameter.requires_grad_(trainable == "all" or head or (trainable == "all_but_embeddings" and not embeddings))
    sizes = Dimensions.of(model.config)
    mine = training_flops_per_token(sizes, row_tokens=WIDTH, target_fraction=1.0, trainable=trainable)
    # Where nothing below moves, the lowest product needs no gradient of its input (q, k, v; or the transform).
    saved = {"all": 0, "all_but_embeddings": 3 * 2 * 32**2, "head": 2 * 32**2}[trainable]
    assert mine - saved == pytest.approx(counted(model, backward=True))


def test_teacher_adds_its_forward_and_its_head_only_where_asked():
    student, teacher = Dimensions(32, 2, 64, 100), Dimensions(64, 4, 128, 100)
    kinds = {"row_tokens": 8, "target_fraction": 0.15}
    alone = training_flops_per_token(student, **kinds)
    body = training_flops_per_token(student, teacher=teacher, **kinds) - alone
    full = training_flops_per_token(student, teacher=teacher, teacher_target_fraction=0.15, **kinds) - alone
    assert body == pytest.approx(teacher.body(8))
    assert full - body == pytest.approx(0.15 * (2 * 64**2 + 2 * 64 * 100))


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA A100-SXM4-80GB", 311.9),
        ("NVIDIA L4", 121),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", None),
        ("Some other card", None),
    ],
)
def test_peak_by_name(name, tera):
    assert peak_flops_of(name) == (pytest.approx(tera * 1e12) if tera else None)


def test_a_cpu_has_no_peak():
    assert peak_flops(torch.device("cpu")) is None
