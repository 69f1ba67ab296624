"""A teacher with another tokenizer reads the English sides of pairs in its own pieces, and nothing else."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.runs import metrics, train
from tests.tiny import make_pairs, make_teacher, make_workspace, sentences
from unibert.config import load_recipe
from unibert.data.batches import Stream
from unibert.data.foreign import TeacherText, reads_text
from unibert.data.mixture import Documents
from unibert.data.shards import ShardSet
from unibert.errors import ConfigError
from unibert.models.encoder import EncoderOutput
from unibert.models.heads import seeded
from unibert.models.teacher import load_one, load_teacher
from unibert.models.teacher.identity import teacher_fingerprint
from unibert.models.teacher.served import serve
from unibert.models.wanted import Sizes, Wanted
from unibert.objectives import MicroStep, Setting, build

CPU = torch.device("cpu")
SPECIAL = {"cls_token": "[CLS]", "pad_token": "[PAD]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
SPECIAL |= {"mask_token": "[MASK]"}
TABLES = {
    "byol": {"align_sentences": {"form": "byol", "group_pairs": 4, "projection_size": 4}},
    "mse": {"align_sentences": {"form": "mse", "feature": "mean"}},
    "index": {"align_words": {"form": "index"}},
    "structure": {"structure": {"group_pairs": 2, "projection_size": 4}},
}


def english_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer of BERT's kind that knows English alone, in few pieces."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=90, special_tokens=list(SPECIAL.values()), show_progress=False)
    tokenizer.train_from_iterator(sentences("en", count=120), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)
    fast.save_pretrained(folder)
    return fast


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("foreign")
    make_workspace(made)
    make_pairs(made / "data", PreTrainedTokenizerFast.from_pretrained(made / "data" / "tokenizer"))
    make_teacher(made / "english", english_tokenizer(made / "english_tokenizer"))
    return made


def recipe_of(folder: Path, tables: dict, *, teacher: str = "english", **settings):
    tree = load_recipe(
        folder / "tiny.toml", ["--data.parallel_ratio", "0.5", "--train.micro_batch_sequences", "16"]
    ).model_dump(mode="json")
    tree["objectives"], tree["discriminator"] = {"masked_lm": {}} | tables, None
    tree["teacher"] |= {"path": str(folder / teacher), "offload_folder": str(folder / "rest")} | settings
    tree["student"] |= {"start_from": str(folder / "teacher")}
    return type(load_recipe(folder / "tiny.toml")).model_validate(tree)


def stream_of(recipe) -> Stream:
    shards = ShardSet.open(recipe.data.folder / "shards", languages=recipe.languages)
    return Stream(recipe, shards, rank=0, world=1)


def terms(recipe, *, steps=2) -> list[float]:
    """What the objective on pairs says of the first steps' batches, with a student that is random and the same."""
    teacher = load_teacher(recipe, device=CPU)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    sizes = Sizes(layers=2, hidden=24, heads=4, vocabulary=300)
    _, objective = build(Setting(recipe, sizes, teacher.sizes))
    with seeded(3, purpose="test"):
        module = objective.module()
    out = []
    for step in range(steps):
        for batch in stream_of(recipe).step(step):
            generator = torch.Generator().manual_seed(step)
            states = [torch.randn(*b.input_ids.shape, 24, generator=generator) for b in (batch, batch.joined or batch)]
            read = teacher.forward(batch.unmasked, objective.needs.teacher_unmasked)
            at = MicroStep(batch, student_unmasked=EncoderOutput(states[0]), joined=EncoderOutput(states[1]))
            at.teacher_unmasked, at.beside = read, {objective.name: module}
            out += [objective.term(at).total.item(), float(objective.count(batch))]
    teacher.close()
    return out


@pytest.mark.parametrize("case", TABLES)
def test_with_our_tokenizer_it_is_the_teacher_of_our_pieces(folder, case):
    pieces, text = (recipe_of(folder, TABLES[case], teacher="teacher", reads=how) for how in ("pieces", "text"))
    assert (reads_text(pieces), reads_text(text)) == (False, True)
    own = terms(pieces)
    assert terms(text) == pytest.approx(own, rel=1e-5) and max(own) > 1
    batch = stream_of(text).step(0)[0]
    english = batch.language[batch.pairs] == text.languages.index("en")
    chosen = batch.pairs[english].tolist()
    assert len(chosen) == batch.foreign.documents > 0
    for place, document in enumerate(chosen):
        theirs = batch.foreign.input_ids[batch.foreign.document == place]
        assert theirs.tolist() == batch.unmasked.input_ids[batch.document == document].tolist()
    if case == "index":
        document_W = batch.document.flatten()[batch.word_positions]
        all_words = batch.word_positions[torch.isin(document_W, torch.tensor(chosen))]
        assert batch.foreign_words.tolist() == all_words.tolist()


def test_words_are_matched_by_their_place_in_the_text(folder):
    """The made-up text has words between spaces: word i is word i, however many pieces each tokenizer makes of it."""
    recipe = recipe_of(folder, TABLES["index"])
    ours, theirs = (PreTrainedTokenizerFast.from_pretrained(folder / name) for name in ("teacher", "english_tokenizer"))
    matched, several = 0, 0
    for batch in stream_of(recipe).step(0):
        text, rows = batch.unmasked.input_ids.flatten(), batch.foreign.input_ids.flatten()
        first = {"own": [], "theirs": []}
        english = batch.language[batch.pairs] == recipe.languages.index("en")
        for place, document in enumerate(batch.pairs[english].tolist()):
            places = (batch.document.flatten() == document).nonzero().squeeze(1)
            other = (batch.foreign.document.flatten() == place).nonzero().squeeze(1)
            words = ours.decode(text[places][1:-1]).split()
            assert theirs.decode(rows[other][1:-1]).split() == words
            for name, tokenizer, where in (("own", ours, places), ("theirs", theirs, other)):
                lengths = [len(tokenizer(word, add_special_tokens=False)["input_ids"]) for word in words]
                first[name] += (where[1].item() + np.cumsum([0, *lengths[:-1]])).tolist()
                several += name == "theirs" and max(lengths) > 1
        assert (batch.foreign_words.tolist(), batch.foreign.word_positions.tolist()) == (first["own"], first["theirs"])
        matched += len(batch.foreign_words)
    assert matched > 10 and several > 3, "words of several pieces"


def test_a_text_that_its_pieces_do_not_give_back_is_read_but_has_no_words(folder):
    recipe = recipe_of(folder, TABLES["index"])
    text, english = TeacherText.of(recipe), recipe.languages.index("en")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "teacher")
    clean = np.array(tokenizer("".join(sentences("en", count=1)))["input_ids"])
    broken = np.insert(clean, 2, tokenizer.unk_token_id)
    for row, words in ((clean, True), (broken, False)):
        documents = Documents(
            [row, clean[:3]], np.arange(2, dtype=np.uint64), np.array([english, 1]), np.zeros(2), np.array([[0, 1]])
        )
        sides = text.read(documents, own_spans=np.arange(1, len(row) - 1)[:, None] + [0, 1])
        assert sides.documents_E.tolist() == [0] and sides.texts.lengths[0] > 2
        assert bool(len(sides.own_words_W)) == words


def test_an_offloaded_and_a_served_one_give_what_the_resident_one_gives(folder):
    resident, offloaded = (recipe_of(folder, TABLES["index"], kind=kind) for kind in ("resident", "offloaded"))
    exact = terms(resident)
    assert terms(offloaded) == pytest.approx(exact, rel=1e-5)
    socket = folder / "teacher.socket"
    served = recipe_of(folder, TABLES["index"], kind="served", socket=str(socket))
    teacher, source = load_one(served.teacher, device=CPU), folder / "english"
    told = {"fingerprint": teacher_fingerprint(source), "socket": socket}
    threading.Thread(target=serve, args=(teacher,), kwargs=told, daemon=True).start()
    assert terms(served) == pytest.approx(exact, rel=1e-5)


def test_what_needs_our_pieces_is_refused(folder):
    both = TABLES["byol"] | {"distill_logits": {}}
    with pytest.raises(ValueError, match=r"distill_logits\] is about our tokens"):
        recipe_of(folder, both, reads="text")
    teacher = load_teacher(recipe_of(folder, both), device=CPU)
    assert not teacher.gives and teacher.gives_unmasked == Wanted() and "one vocabulary" in teacher.why
    with pytest.raises(ConfigError, match="its vocabulary is another one"):
        load_teacher(recipe_of(folder, {"distill_logits": {}}), device=CPU)
    with pytest.raises(ConfigError, match="reads text of its own"):
        load_teacher(recipe_of(folder, TABLES["byol"], kind="cached"), device=CPU)


MMKD = """
[objectives.masked_lm]
[objectives.translation_lm]
[objectives.align_sentences]
form = "byol"
group_pairs = 4
projection_size = 8
[objectives.align_words]
form = "index"
[objectives.structure]
weight = 10.0
group_pairs = 2
projection_size = 8
"""


@pytest.fixture(scope="module")
def mmkd(folder) -> Path:
    text = (folder / "tiny.toml").read_text()
    text = text[: text.index("[objectives.masked_lm]")].replace('feature = "mean"\nhidden_size = 16\n', "")
    text = text.replace("[discriminator]\n", "").replace(f'path = "{folder}/teacher"', f'path = "{folder}/english"')
    text = text.replace("[student]\n", f'[student]\nstart_from = "{folder}/teacher"\n')
    text = text.replace("[data]\n", "[data]\nparallel_ratio = 1.0\n")
    file = folder / "mmkd.toml"
    file.write_text(text + MMKD)
    return file


@pytest.mark.dist
@pytest.mark.slow
def test_a_run_is_the_same_on_two_ranks(mmkd):
    exact = "--engines.student=zero1_fp32"
    train(mmkd, "--name", "one", exact)
    train(mmkd, "--name", "two", exact, launcher="torchrun", world=2)
    one, two = (metrics(load_recipe(mmkd).runs_folder / name) for name in ("one", "two"))
    names = [name for name in one[0] if name.startswith("loss/")]
    assert {"loss/align_sentences", "loss/align_words", "loss/structure"} <= set(names) and len(one) == 6
    # Batch normalisation over two pairs is almost a sign: rounding grows tenfold a step.
    for mine, other in zip(one[:2], two[:2], strict=True):
        expected = {name: other[name] for name in names}
        assert {name: mine[name] for name in names} == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert one[-1]["loss/align_words"] < one[0]["loss/align_words"]


@pytest.mark.dist
def test_a_run_with_distillation_says_why_not(mmkd):
    said = train(mmkd, "--objectives.distill_logits.weight", "1", "--name", "no", expect=2)
    assert "296 pieces and the teacher 90" in said and "unibert teacher trim" in said
