"""The encoder on packed rows, what of it moves, and how a student is started."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM, BertConfig, BertForMaskedLM

from kernels import attention
from tests.kernels.test_attention import by_loop
from tests.tiny import make_workspace
from unibert.config import load_recipe
from unibert.errors import ConfigError, DataError
from unibert.models import architectures
from unibert.models.encoder import Encoder, load_encoder
from unibert.models.folders import newest_export
from unibert.models.student import build_student, freeze, keep_layers, student_config
from unibert.models.wanted import Wanted

PAD = 1


def tiny(**options) -> Encoder:
    torch.manual_seed(3)
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BertConfig(**(sizes | {"intermediate_size": 64, "pad_token_id": PAD} | options))
    hf = BertForMaskedLM(config)
    with torch.no_grad():  # Hugging Face's start leaves biases at zero, where a lost bias would not be seen
        for parameter in hf.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return Encoder(hf).eval()


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("encoder"))


def packed():
    """Documents of 5, 3 and 6 tokens in two rows of 9, with 4 places of padding."""
    generator = torch.Generator().manual_seed(0)
    documents = [torch.randint(5, 50, (n,), generator=generator) for n in (5, 3, 6)]
    ids, places, owner = torch.full((2, 9), PAD), torch.zeros(2, 9, dtype=torch.long), torch.full((2, 9), -1)
    for number, (row, start) in enumerate([(0, 0), (0, 5), (1, 0)]):
        end = start + len(documents[number])
        ids[row, start:end], owner[row, start:end] = documents[number], number
        places[row, start:end] = torch.arange(end - start)
    return documents, ids, places, owner


def test_packed_rows_equal_one_padded_document_a_row():
    encoder = tiny()
    documents, ids, places, owner = packed()
    targets = torch.tensor([15, 1, 7, 9])
    with torch.no_grad():
        out = encoder(ids, places, owner, targets)
        alone = torch.full((3, 6), PAD)
        for row, document in enumerate(documents):
            alone[row, : len(document)] = document
        seen = torch.stack([torch.arange(6) < len(document) for document in documents]).long()
        plain = encoder.hf(input_ids=alone, attention_mask=seen, output_hidden_states=True)
    states = [plain.hidden_states[-1][row, : len(document)] for row, document in enumerate(documents)]
    torch.testing.assert_close(out.last_hidden[owner >= 0], torch.cat(states), rtol=0, atol=1e-5)
    # flattened place 15 is row 1, token 6 - beyond document 2: padding; 1, 7, 9 are tokens 1 / 2 / 0 of 0, 1, 2
    expected = torch.stack([plain.logits[0, 1], plain.logits[1, 2], plain.logits[2, 0]])
    torch.testing.assert_close(out.masked_logits[1:], expected, rtol=0, atol=1e-5)
    assert out.masked_logits.shape == (4, 50) and out.masked_logits[0].isfinite().all()


def saved(kind, folder, **options):
    torch.manual_seed(3)
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 64, "max_position_embeddings": 66, "pad_token_id": PAD}
    hf = AutoModelForMaskedLM.from_config(AutoConfig.for_model(kind, **sizes, **options)).eval()
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    hf.save_pretrained(folder)
    return hf


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("mpnet", {}),
        ("rembert", {"input_embedding_size": 16, "output_embedding_size": 16}),
        ("megatron-bert", {}),
        ("roformer", {"embedding_size": 32}),
        ("big_bird", {"attention_type": "original_full"}),
        ("squeezebert", {"embedding_size": 32}),
        ("luke", {"entity_vocab_size": 10}),
        ("longformer", {"attention_window": 16}),
    ],
)
def test_an_attention_of_its_own_sees_one_document(kind, options, tmp_path):
    """transformers only warns where it cannot set an attention; neighbours and padding must not be seen anyway."""
    hf = saved(kind, tmp_path, **options)
    encoder, _ = load_encoder(tmp_path)
    assert not encoder.packs and not encoder.gives.attention and encoder.gives.hidden
    documents, ids, places, owner = packed()
    out = encoder(ids, places, owner, torch.tensor([9, 1, 7]), Wanted(masked_logits=True, hidden=frozenset({1})))
    with torch.no_grad():
        alone = [hf(input_ids=document[None], output_hidden_states=True) for document in documents]
    close = {"rtol": 1e-4, "atol": 1e-5}
    for layer, found in ((1, out.hidden[1]), (2, out.last_hidden)):
        expected = torch.cat([one.hidden_states[layer][0] for one in alone])
        torch.testing.assert_close(found[owner >= 0], expected, **close)
    expected = torch.stack([alone[2].logits[0, 0], alone[0].logits[0, 1], alone[1].logits[0, 2]])
    torch.testing.assert_close(out.masked_logits, expected, **close)
    out.last_hidden.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters() if parameter.grad is not None)


def test_positions_may_begin_anew_within_a_text(tmp_path):
    """As translation_lm.reset_positions has them; each text is read alone, whatever its positions are."""
    hf = saved("mpnet", tmp_path)
    encoder, _ = load_encoder(tmp_path)
    documents, ids, places, owner = packed()
    anew = places % 3
    out = encoder(ids, anew, owner)
    with torch.no_grad():
        alone = [
            hf.base_model(document[None], position_ids=encoder.first_position + torch.arange(len(document))[None] % 3)
            for document in documents
        ]
    expected = torch.cat([one.last_hidden_state[0] for one in alone])
    torch.testing.assert_close(out.last_hidden[owner >= 0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("fnet", {}, "in a fnet what is said of a text depends on padding"),
        ("convbert", {"embedding_size": 32}, "in a convbert what is said of a text depends on padding"),
        ("nystromformer", {"num_landmarks": 8, "segment_means_seq_len": 64}, "nystromformer does not take the rows"),
    ],
)
def test_architectures_that_cannot_be_read_are_refused(kind, options, said, tmp_path):
    saved(kind, tmp_path, **options)
    with pytest.raises(DataError, match=said):
        load_encoder(tmp_path)


@pytest.mark.parametrize("recompute", [False, True])
def test_documents_without_a_mask_equal_rows_with_one(monkeypatch, recompute):
    """A GPU's way, with a CPU's kernel in it; the documents reach layers that are computed again too."""
    encoder, seen = tiny(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train(), []
    _, ids, places, owner = packed()
    found = []
    for here in (False, True):
        monkeypatch.setattr(
            architectures, "by_documents", lambda *_, width, dropout, here=here: here and width == 8 and not dropout
        )
        monkeypatch.setattr(attention, "_varlen", lambda *x, **words: seen.append(1) or by_loop(*x, **words))
        if recompute:
            encoder.hf.gradient_checkpointing_enable({"use_reentrant": False})
        out = encoder(ids, places, owner, torch.tensor([1, 9]))
        encoder.zero_grad()
        (out.last_hidden[owner >= 0].square().sum() + out.masked_logits.logsumexp(-1).sum()).backward()
        found.append([out.masked_logits, *(parameter.grad.clone() for parameter in encoder.parameters())])
    assert len(seen) == (2 if recompute else 1) * encoder.num_layers
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_head_runs_only_where_asked():
    encoder = tiny()
    _, ids, places, owner = packed()
    assert encoder(ids, places, owner).masked_logits is None
    assert encoder(ids, places, owner, torch.tensor([], dtype=torch.long)).masked_logits.shape == (0, 50)


def test_padding_gives_no_nan():
    encoder = tiny().train()
    _, ids, places, owner = packed()
    out = encoder(ids, places, owner, torch.tensor([1, 9]))
    assert out.last_hidden.isfinite().all()
    (out.last_hidden[owner >= 0].square().sum() + out.masked_logits.logsumexp(-1).sum()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


def test_bf16_gives_bf16_near_fp32():
    encoder = tiny()
    _, ids, places, owner = packed()
    exact = encoder(ids, places, owner, torch.tensor([1]))
    low = encoder.to(torch.bfloat16)(ids, places, owner, torch.tensor([1]))
    assert low.last_hidden.dtype == low.masked_logits.dtype == torch.bfloat16
    assert (low.last_hidden.float() - exact.last_hidden)[owner >= 0].abs().mean() < 0.03


TABLES = {f"hf.bert.embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type")}
HEAD = {
    "hf.cls.predictions.bias",
    *(f"hf.cls.predictions.transform.{part}.{kind}" for part in ("dense", "LayerNorm") for kind in ("weight", "bias")),
}


@pytest.mark.parametrize("trainable", ["all", "all_but_embeddings", "head"])
def test_exactly_what_is_trainable_moves(trainable):
    encoder = tiny().train()
    freeze(encoder, trainable=trainable)
    _, ids, places, owner = packed()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    optimizer = torch.optim.AdamW((p for p in encoder.parameters() if p.requires_grad), lr=1e-2, weight_decay=0.1)
    out = encoder(ids, places, owner, torch.tensor([1, 9]))
    assert out.last_hidden.requires_grad is (trainable != "head")
    (out.masked_logits.float().logsumexp(-1) - out.masked_logits[:, 7]).sum().backward()
    optimizer.step()
    state = encoder.state_dict()
    moved = {name for name in state if not torch.equal(state[name], before[name])}
    every = {name for name, _ in encoder.named_parameters()}
    # the output matrix is the word table, the output bias has two names: each pair moves together
    decoder = {"hf.cls.predictions.decoder.bias"} | (
        {"hf.cls.predictions.decoder.weight"} if trainable == "all" else set()
    )
    assert moved == {"all": every, "all_but_embeddings": every - TABLES, "head": HEAD}[trainable] | decoder
    assert encoder.hf.cls.predictions.decoder.weight is encoder.hf.bert.embeddings.word_embeddings.weight
    assert encoder.hf.cls.predictions.decoder.bias is encoder.hf.cls.predictions.bias


def test_a_student_has_the_layers_it_was_given(recipe_file):
    recipe = load_recipe(recipe_file, ["--student.dropout", "0.2", "--student.attention_dropout", "0.3"])
    teacher = AutoModelForMaskedLM.from_pretrained(recipe.teacher.path)
    student = build_student(recipe)
    assert student.training and student.num_layers == 1
    own, other = student.hf.bert.encoder.layer[0].state_dict(), teacher.bert.encoder.layer[1].state_dict()
    assert own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)
    assert torch.equal(
        student.hf.bert.embeddings.word_embeddings.weight, teacher.bert.embeddings.word_embeddings.weight
    )
    assert torch.equal(
        student.hf.cls.predictions.transform.dense.weight, teacher.cls.predictions.transform.dense.weight
    )
    layer = student.hf.bert.encoder.layer[0]
    assert (layer.output.dropout.p, layer.attention.self.dropout.p, layer.attention.self.layer_idx) == (0.2, 0.3, 0)
    assert student.hf.config.num_hidden_layers == 1


def test_a_student_depends_on_the_seed_alone(recipe_file):
    def weights(seed):
        options = ["--student.start=random", "--student.hidden_size=32", "--student.num_heads=4"]
        recipe = load_recipe(recipe_file, [*options, "--student.num_layers=1", f"--train.seed={seed}"])
        return torch.cat([p.detach().flatten() for p in build_student(recipe).parameters()])

    state = torch.get_rng_state()
    first = weights(1)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(99)
    assert torch.equal(first, weights(1))
    assert not torch.equal(first, weights(2))


@pytest.mark.parametrize(
    "options", [[], ["--student.start=random", "--student.hidden_size=48", "--student.num_layers=3"]]
)
def test_the_configuration_is_known_without_the_weights(recipe_file, options):
    recipe = load_recipe(recipe_file, options)
    built = build_student(recipe).hf.config.to_dict()
    known = student_config(recipe).to_dict()
    ignored = {"transformers_version", "dtype", "_name_or_path"}
    assert {key: built[key] for key in built if key not in ignored} == {
        key: known[key] for key in known if key not in ignored
    }


@pytest.mark.parametrize("layers", [(0, 2), (1, 1), ()])
def test_layers_that_are_not_there_are_refused(layers):
    with pytest.raises(ConfigError, match=r"0\.\.1"):
        keep_layers(tiny(), layers)


def test_a_folder_without_head_is_told_apart_and_one_without_layers_refused(tmp_path):
    encoder = tiny()
    encoder.hf.bert.save_pretrained(tmp_path / "body")
    loaded, has_head = load_encoder(tmp_path / "body")
    assert not has_head
    assert torch.equal(
        loaded.hf.bert.embeddings.word_embeddings.weight, encoder.hf.bert.embeddings.word_embeddings.weight
    )
    encoder.hf.save_pretrained(tmp_path / "whole")
    assert load_encoder(tmp_path / "whole")[1]
    config = (
        (tmp_path / "whole" / "config.json").read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3')
    )
    (tmp_path / "whole" / "config.json").write_text(config)
    with pytest.raises(DataError, match=r"bert\.encoder\.layer\.2"):
        load_encoder(tmp_path / "whole")
    (tmp_path / "body" / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(DataError, match="body"):
        load_encoder(tmp_path / "body")


def test_the_newest_export_of_a_run_is_found(tmp_path):
    for step in (0, 90, 100):
        (tmp_path / "hf" / f"step_{step:08d}").mkdir(parents=True)
        (tmp_path / "hf" / f"step_{step:08d}" / "config.json").write_text("{}")
    (tmp_path / "hf" / "step_00000200").mkdir()  # begun elsewhere, without a model
    newest = tmp_path / "hf" / "step_00000100"
    assert newest_export(tmp_path) == newest == newest_export(newest)
    with pytest.raises(DataError, match="nowhere"):
        newest_export(tmp_path / "nowhere")


def test_hidden_states_and_attention_of_the_layers_that_are_wanted():
    encoder = tiny().eval()
    _, ids, places, owner = packed()
    wanted = Wanted(hidden=frozenset({0, 1}), attention=frozenset({1, 2}))
    out = encoder(ids, places, owner, wanted=wanted)
    assert out.masked_logits is None and set(out.hidden) == {0, 1} and set(out.attention) == {1, 2}
    torch.testing.assert_close(out.states(2, layers=2), out.last_hidden, rtol=0, atol=0)
    layer = encoder.hf.base_model.encoder.layer[1].attention.self
    heads = encoder.hf.config.num_attention_heads
    for name, found in zip(("query", "key", "value"), out.attention[2], strict=True):
        expected = getattr(layer, name)(out.hidden[1])
        expected = expected.unflatten(-1, (heads, -1)).transpose(1, 2)
        torch.testing.assert_close(found, expected)
    plain = encoder(ids, places, owner)
    assert torch.equal(plain.last_hidden, out.last_hidden) and not plain.attention and not plain.hidden


def test_a_factorised_start_has_the_rank_and_is_the_best_of_it(recipe_file, tmp_path):
    whole = build_student(load_recipe(recipe_file, []))
    reduced = build_student(load_recipe(recipe_file, ["--student.embedding_rank", "8"]))
    tables = [encoder.hf.get_input_embeddings().weight.detach().double() for encoder in (whole, reduced)]
    values = torch.linalg.svdvals(tables[0])
    assert torch.linalg.matrix_rank(tables[1], rtol=1e-5) == 8
    assert (tables[1] - tables[0]).norm().item() == pytest.approx(values[8:].norm().item(), rel=1e-4)
    reduced.hf.save_pretrained(tmp_path)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert torch.equal(again.get_input_embeddings().weight, reduced.hf.get_input_embeddings().weight)
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    with pytest.raises(ConfigError, match=r"embedding_rank = 32 reduces nothing"):
        build_student(load_recipe(recipe_file, ["--student.embedding_rank", "32"]))


def test_a_head_alone_is_refused_objectives_that_move_only_what_is_below(recipe_file):
    from unibert import objectives
    from unibert.models.teacher import teacher_sizes
    from unibert.models.wanted import Sizes

    recipe = load_recipe(recipe_file, ["--student.trainable", "head"])
    setting = objectives.Setting(recipe, Sizes.of(student_config(recipe)), teacher_sizes(recipe))
    with pytest.raises(ConfigError, match=r"distill_hidden\] could move.*language_confusion\] could move") as caught:
        objectives.build(setting)
    assert "masked_lm]" not in str(caught.value) and "distill_logits]" not in str(caught.value)
