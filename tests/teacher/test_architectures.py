"""Any Hugging Face encoder reads packed rows as it reads one document at a time, and says truly what it gives."""

import pytest
import torch

from tests.teacher.small import KINDS, batch_of, make, save
from unibert.models.encoder import load_encoder
from unibert.models.teacher import ResidentTeacher
from unibert.models.wanted import Sizes


def load(kind, tmp_path):
    model = make(kind)
    encoder, has_head = load_encoder(save(model, tmp_path / kind))
    assert has_head
    return model, ResidentTeacher(encoder)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_equals_one_document_at_a_time(kind, tmp_path):
    """Against the plain Hugging Face model, with its own positions and masks, document by document."""
    model, teacher = load(kind, tmp_path)
    batch = batch_of()
    out = teacher.forward(batch, teacher.gives)
    flat, ids = batch.document.flatten(), batch.input_ids.flatten()
    target = 0
    for number in range(batch.documents):
        here = (flat == number).nonzero().squeeze(1)
        with torch.no_grad():
            alone = model(input_ids=ids[here][None], output_hidden_states=True)
        close = {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(out.last_hidden.flatten(0, 1)[here], alone.hidden_states[-1][0], **close)
        for layer in teacher.gives.hidden:
            torch.testing.assert_close(out.hidden[layer].flatten(0, 1)[here], alone.hidden_states[layer][0], **close)
        places = torch.isin(batch.token_positions, here)
        torch.testing.assert_close(out.token_logits[places], alone.logits[0], **close)
        own = [int((here == place).nonzero()) for place in batch.target_positions if place in here]
        torch.testing.assert_close(out.masked_logits[target : target + len(own)], alone.logits[0, own], **close)
        target += len(own)
    assert target == batch.targets


@pytest.mark.parametrize("kind", KINDS)
def test_it_gives_what_it_says(kind, tmp_path):
    _, teacher = load(kind, tmp_path)
    everything = Sizes.of(teacher.config).everything
    assert teacher.gives.hidden == everything.hidden
    out = teacher.forward(batch_of(), teacher.gives)
    assert set(out.attention) == set(teacher.gives.attention)
    assert teacher.gives.attention == (frozenset() if "deberta" in kind else everything.attention)
    for attended in out.attention.values():  # they are what its attention worked with, not zeros or another layer's
        assert all(tensor.shape == (3, 4, 20, 8) and tensor.std() > 0.01 for tensor in attended)
    if len(out.attention) > 1:
        assert not torch.equal(out.attention[1].query, out.attention[2].query)


def test_dropout_of_a_teachers_folder_is_off_when_it_reads(tmp_path):
    for kind in KINDS:
        _, teacher = load(kind, tmp_path)
        assert not teacher.encoder.training
        first, second = (teacher.forward(batch_of(), teacher.gives).masked_logits for _ in range(2))
        assert torch.equal(first, second)
