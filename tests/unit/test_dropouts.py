"""UniDrop: what each dropout leaves out, that evaluation and export know nothing of it, and that it is the seed's."""

import numpy as np
import pytest
import torch

from tests.tiny import make_workspace
from tests.unit.test_models_encoder import packed, tiny
from unibert.config import load_recipe
from unibert.data.batches import Stream
from unibert.data.dropout import drop_tokens
from unibert.data.mixture import Documents
from unibert.data.shards import ShardSet
from unibert.models.dropouts import add_dropouts
from unibert.models.student import build_student
from unibert.models.wanted import Wanted
from unibert.schema import Student

P = 0.3


def dropping(**table):
    encoder = tiny(num_hidden_layers=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    add_dropouts(encoder.hf, Student(**table))
    return encoder


def read(encoder, *, wanted=None):
    _, ids, places, owner = packed()
    return encoder(ids, places, owner, torch.tensor([1, 9]), wanted or Wanted(masked_logits=True))


def captured(module, run, *, before=False):
    """What goes into a module (or comes out of it), over several runs."""
    seen = []
    if before:
        handle = module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    else:
        handle = module.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    for _ in range(20):
        run()
    handle.remove()
    return torch.stack(seen)


def places_of(encoder):
    layer = encoder.hf.base_model.encoder.layer[1]
    own = layer.attention.self
    return {
        "activation_dropout": [(layer.output.dense, True)],
        "projection_dropout": [(own.query, False), (own.key, False), (own.value, False)],
        "output_dropout": [(encoder.hf.cls.predictions, True)],
    }


@pytest.mark.parametrize("kind", ["activation_dropout", "projection_dropout", "output_dropout"])
def test_a_feature_dropout_zeroes_its_share_of_its_features_alone(kind):
    encoder = dropping(**{kind: P}).train()
    torch.manual_seed(0)
    for other, spots in places_of(encoder).items():
        for module, before in spots:
            zero = (captured(module, lambda: read(encoder), before=before) == 0).double().mean().item()
            if other == kind:
                assert zero == pytest.approx(P, abs=0.03)
            elif other != "output_dropout":
                assert zero < 0.01


def test_what_a_feature_dropout_leaves_is_scaled_up():
    encoder = dropping(output_dropout=P).train()
    module, before = places_of(encoder)["output_dropout"][0]
    values = captured(module, lambda: read(encoder), before=before)
    whole = captured(module, lambda: read(encoder.eval()), before=before)[0]
    kept = values[0] != 0
    torch.testing.assert_close(values[0][kept] * (1 - P), whole[kept])


def test_the_four_feature_dropouts_and_bert_s_own_change_training_alone():
    plain = tiny(num_hidden_layers=2).eval()
    every = dict.fromkeys(("activation_dropout", "projection_dropout", "output_dropout", "layer_drop"), P)
    encoder = dropping(**every)
    for expected, found in zip(read(plain)[:2], read(encoder.eval())[:2], strict=True):
        assert torch.equal(expected, found)
    assert not torch.equal(read(encoder.train()).last_hidden, read(plain).last_hidden)
    assert encoder.state_dict().keys() == plain.state_dict().keys()


def test_masks_are_the_random_states():
    encoder = dropping(activation_dropout=P, projection_dropout=P, output_dropout=P, layer_drop=P).train()
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(read(encoder).masked_logits)
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])


def test_a_dropped_layer_passes_its_input_on_and_its_weights_get_zeros():
    encoder = dropping(layer_drop=1.0).train()
    out = read(encoder, wanted=Wanted(masked_logits=True, hidden=frozenset({0, 1})))
    assert torch.equal(out.hidden[0], out.hidden[1]) and torch.equal(out.hidden[1], out.last_hidden)
    out.masked_logits.square().sum().backward()
    for parameter in encoder.hf.base_model.encoder.parameters():
        assert parameter.grad is not None and not parameter.grad.any()
    assert encoder.hf.base_model.embeddings.word_embeddings.weight.grad.any()


def test_layers_are_dropped_at_their_rate_and_one_by_one():
    encoder = dropping(layer_drop=P).train()
    torch.manual_seed(0)
    kept = []
    with torch.no_grad():
        for _ in range(400):
            out = read(encoder, wanted=Wanted(hidden=frozenset({0, 1})))
            kept.append(
                (not torch.equal(out.hidden[0], out.hidden[1]), not torch.equal(out.hidden[1], out.last_hidden))
            )
    first, second = np.array(kept).T
    assert first.mean() == pytest.approx(1 - P, abs=0.06) and second.mean() == pytest.approx(1 - P, abs=0.06)
    assert (first & second).mean() == pytest.approx((1 - P) ** 2, abs=0.08)


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("dropouts"))


def test_recomputed_activations_draw_the_same_masks(recipe_file):
    gradients = []
    for recompute in (False, True):
        words = [f"--student.{name} 0.3".split() for name in ("activation_dropout", "projection_dropout", "layer_drop")]
        student = build_student(load_recipe(recipe_file, [word for pair in words for word in pair])).train()
        if recompute:
            student.hf.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        torch.manual_seed(3)
        _, ids, places, owner = packed()
        student(ids, places, owner, torch.tensor([1, 9])).masked_logits.square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[0], gradients[1])


def documents(*, lengths, epoch=0, pairs=()):
    texts = [np.arange(length, dtype=np.uint16) + 100 * (number % 600) for number, length in enumerate(lengths)]
    count = len(texts)
    return Documents(
        texts,
        np.arange(count, dtype=np.uint64) * np.uint64(977),
        np.zeros(count, dtype=np.int64),
        np.full(count, epoch),
        np.array(pairs, dtype=np.int64).reshape(-1, 2),
    )


def test_two_stage_data_dropout_keeps_its_share_whole_and_drops_its_share_of_the_rest():
    before = documents(lengths=[60] * 2000)
    after = drop_tokens(before, fraction=0.2, keep_whole=0.4, seed=1)
    left = np.array([len(text) for text in after.texts])
    assert (left == 60).mean() == pytest.approx(0.4, abs=0.03)
    assert 1 - (left[left < 60] - 2).mean() / 58 == pytest.approx(0.2, abs=0.01)
    for old, new in zip(before.texts, after.texts, strict=True):
        assert new[0] == old[0] and new[-1] == old[-1] and new.dtype == old.dtype
        assert np.isin(new, old).all() and (np.diff(new.astype(int)) > 0).all(), "what stays keeps its order"


def test_every_document_keeps_something_between_its_first_and_last_token():
    before = documents(lengths=[2, 3, 4, 50, 1])
    after = drop_tokens(before, fraction=1.0, keep_whole=0.0, seed=1)
    assert [len(text) for text in after.texts] == [2, 3, 3, 3, 1]


def test_data_dropout_is_the_documents_own_and_leaves_pairs_whole():
    before = documents(lengths=[40] * 6, pairs=[(2, 3)])
    whole = drop_tokens(before, fraction=0.5, keep_whole=0.0, seed=1)
    assert [len(text) == 40 for text in whole.texts] == [False, False, True, True, False, False]
    alone = Documents(before.texts[4:], before.ids[4:], before.language[4:], before.epoch[4:], before.pairs[:0])
    for one, other in zip(drop_tokens(alone, fraction=0.5, keep_whole=0.0, seed=1).texts, whole.texts[4:], strict=True):
        assert np.array_equal(one, other)
    later = drop_tokens(documents(lengths=[40] * 6, epoch=1), fraction=0.5, keep_whole=0.0, seed=1)
    assert any(not np.array_equal(a, b) for a, b in zip(later.texts, whole.texts, strict=True))


def test_the_stream_reads_shorter_documents_and_everything_else_as_before(recipe_file):
    recipe = load_recipe(recipe_file, [])
    shards = ShardSet.open(recipe.data.folder / "shards", languages=recipe.languages)
    cut = load_recipe(recipe_file, ["--data.drop_tokens", "0.3", "--data.keep_whole", "0"])
    before, after = (Stream(r, shards, rank=0, world=1).step(0)[0] for r in (recipe, cut))
    assert torch.equal(before.language, after.language) and torch.equal(before.sample_ids, after.sample_ids)
    assert after.tokens < 0.85 * before.tokens
    assert torch.equal(before.input_ids.view(-1)[before.cls_positions], after.input_ids.view(-1)[after.cls_positions])
