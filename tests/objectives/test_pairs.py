"""Objectives on translation pairs against NumPy twins, values and gradients, and the law of groups."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from unibert.data.batches import Batch, make_batch
from unibert.data.mixture import Documents
from unibert.data.pair_views import PairViews
from unibert.data.shard_format import SpecialIds
from unibert.data.words import WordPieces
from unibert.models.encoder import EncoderOutput
from unibert.models.wanted import Sizes
from unibert.objectives import MicroStep, Setting, kind_of
from unibert.objectives.align_momentum import text_hashes
from unibert.schema import Masking, Objectives, Recipe

HIDDEN, TEACHER, VOCABULARY, WIDTH = 6, 5, 40, 24
LANGUAGES = ("de", "en", "ru")
SPECIAL = SpecialIds(cls=0, sep=2, pad=1, mask=39, unk=3)
PIECES = WordPieces(np.arange(VOCABULARY) % 2 == 0, np.zeros(VOCABULARY, dtype=bool))
CASES = {
    "translation_lm": ({"translation_lm": {}}, HIDDEN),
    "info_nce": ({"align_sentences": {"form": "info_nce", "group_pairs": 2, "temperature": 0.5}}, HIDDEN),
    "info_nce, projected": (
        {"align_sentences": {"form": "info_nce", "group_pairs": 2, "projection_size": 4, "feature": "mean"}},
        HIDDEN,
    ),
    "momentum": ({"align_sentences": {"form": "momentum", "projection_size": 4, "temperature": 0.5}}, HIDDEN),
    "byol": ({"align_sentences": {"form": "byol", "group_pairs": 4, "projection_size": 4}}, TEACHER),
    "mse": ({"align_sentences": {"form": "mse", "feature": "mean"}}, HIDDEN),
    "mse, other width": ({"align_sentences": {"form": "mse"}}, TEACHER),
    "index": ({"align_words": {"form": "index"}}, HIDDEN),
    "index, other width": ({"align_words": {"form": "index"}}, TEACHER),
    "dictionary": ({"align_words": {"form": "dictionary", "temperature": 0.5}}, HIDDEN),
    "structure": ({"structure": {"group_pairs": 2, "projection_size": 4, "reading": "masked"}}, TEACHER),
}
# (languages of the documents, pairs); an odd number of pairs cuts the last group short.
EN_DE, EN_RU, RU_DE = (1, 0), (1, 2), (2, 0)
BATCHES = {
    "four pairs": [EN_DE, EN_RU, EN_DE, EN_RU],
    "English second, and one text alone": [0, (0, 1), (2, 1), EN_RU, EN_DE],
    "a pair without English": [EN_DE, RU_DE, EN_RU, EN_DE],
    "no English": [RU_DE, RU_DE],
    "uneven": [EN_DE, 1, EN_RU, 2, EN_DE],
    "one pair": [EN_RU],
    "no pair": [0, 1, 2],
}


class EveryThirdWord:
    """A dictionary for the test: of both sides, words 0 and 0, 3 and 3, ... are translations."""

    def matches(self, documents, ids_T, *, starts, ends):
        stops = np.searchsorted(starts, np.cumsum([len(text) for text in documents.texts]))
        first = np.concatenate([[0], stops])
        found = [
            (first[a] + i, first[b] + i)
            for a, b in documents.pairs.tolist()
            for i in range(0, min(stops[a] - first[a], stops[b] - first[b]), 3)
        ]
        return np.array(found, dtype=np.int64).reshape(-1, 2)


def read(shape, *, seed=0) -> Documents:
    random = np.random.default_rng(seed)
    texts, languages, pairs = [], [], []
    for item in shape:
        sides = item if isinstance(item, tuple) else (item,)
        if len(sides) == 2:
            pairs.append((len(texts), len(texts) + 1))
        for language in sides:
            body = random.integers(4, 39, size=random.integers(1, 10))
            texts.append(np.concatenate([[0], body, [2]]))
            languages.append(language)
    ids = random.integers(0, 1 << 62, size=len(texts)).astype(np.uint64)
    pairs_P2 = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return Documents(texts, ids, np.array(languages), np.zeros(len(texts), dtype=np.int64), pairs_P2)


def part(documents: Documents, wanted: slice) -> Documents:
    """The documents of some pairs alone."""
    pairs = documents.pairs[wanted]
    chosen = pairs.ravel()
    own = np.arange(len(chosen)).reshape(-1, 2)
    texts = [documents.texts[d] for d in chosen]
    return Documents(texts, documents.ids[chosen], documents.language[chosen], documents.epoch[chosen], own)


def batch_of(documents: Documents, recipe: Recipe) -> Batch:
    words = recipe.objectives.align_words
    dictionary = EveryThirdWord() if words is not None and words.form == "dictionary" else None
    return make_batch(
        documents,
        shards=SimpleNamespace(special=SPECIAL, vocabulary_size=VOCABULARY),
        positions=np.arange(len(documents.texts)),
        width=WIDTH,
        masking=Masking(),
        seed=1,
        views=PairViews(recipe.joined, PIECES if words else None, dictionary),
    )


def recipe_of(tables) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "small",
            "languages": LANGUAGES,
            "teacher": {},
            "data": {"parallel_ratio": 1.0},
            "train": {"micro_batch_sequences": 8, "global_batch_sequences": 8},
            "objectives": {"masked_lm": {}} | tables,
        }
    )


def objective_of(case):
    tables, width = CASES[case]
    recipe = recipe_of(tables)
    (name,) = tables
    sizes = [Sizes(layers=2, hidden=hidden, heads=1, vocabulary=VOCABULARY) for hidden in (HIDDEN, width)]
    table = getattr(recipe.objectives, name)
    return kind_of(name, table)(table, Setting(recipe, *sizes)), recipe, width


def states(text: np.ndarray, *, width: int, seed: int) -> np.ndarray:
    """Of the tokens of a document: a function of its ids alone, so that packing does not matter."""
    random = np.random.default_rng([seed, *text.tolist()])
    return random.normal(size=(len(text), width))


def outputs(batch: Batch | None, *, width: int, seed: int) -> EncoderOutput | None:
    if batch is None:
        return None
    hidden = torch.zeros(*batch.input_ids.shape, width, dtype=torch.float64)
    text = batch.unmasked
    for d in range(batch.documents):
        where = batch.document == d
        hidden[where] = torch.tensor(states(text.input_ids[where].numpy(), width=width, seed=seed))
    head = torch.tensor(np.random.default_rng(99).normal(size=(width, VOCABULARY)))
    hidden.requires_grad_()
    return EncoderOutput(hidden, (hidden.flatten(0, 1)[batch.target_positions].detach() @ head).requires_grad_())


def step_of(batch: Batch, objective, width: int) -> MicroStep:
    torch.manual_seed(5)
    module = objective.module()
    if module is not None:
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.7)
    student = outputs(batch, width=HIDDEN, seed=1)
    at = MicroStep(batch, student=student, student_unmasked=student)
    at.teacher_unmasked = outputs(batch, width=width, seed=2)
    at.joined = outputs(batch.joined, width=HIDDEN, seed=3)
    at.beside = {} if module is None else {objective.name: module}
    if hasattr(objective, "fresh"):  # the momentum copy: a stand-in for the encoder, and a queue
        objective.queue = torch.nn.functional.normalize(torch.randn(5, 4), dim=1)
        objective.messages = torch.zeros(5, 2, dtype=torch.int64)
        if len(batch.pairs):  # an entry of the first pair's other text, in another pair: the same message
            objective.messages[3, 0] = text_hashes(batch)[batch.pairs[0, 1]]
        objective._keys = lambda at: key_of(at.batch)
    return at


def key_of(batch: Batch) -> torch.Tensor:
    rows = [
        states(batch.unmasked.input_ids[batch.document == d].numpy(), width=4, seed=4)[0]
        for d in range(batch.documents)
    ]
    keys = torch.tensor(np.array(rows).reshape(-1, 4), dtype=torch.float32)
    return torch.nn.functional.normalize(keys, dim=1)


# --- twins ------------------------------------------------------------------------------------------------------------


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def w(parameter):
    return parameter.detach().numpy().astype(float)


def linear(layer, x):
    return x @ w(layer.weight).T + (0 if layer.bias is None else w(layer.bias))


def project(module, x):
    return linear(module.outer, np.maximum(linear(module.inner, x), 0))


def norm(x, layer):
    x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    return x if layer.weight is None else x * w(layer.weight) + w(layer.bias)


def normalised(module, x):
    out = linear(module.outer, np.maximum(norm(linear(module.inner, x), module.norm), 0))
    return out if module.last is None else norm(out, module.last)


def hidden_of(output: EncoderOutput) -> np.ndarray:
    return output.last_hidden.detach().numpy().reshape(-1, output.last_hidden.shape[-1])


def places(batch: Batch, d: int) -> np.ndarray:
    return np.flatnonzero(batch.document.numpy().ravel() == d)


def feature(output, batch, d, kind):
    rows = hidden_of(output)[places(batch, d)]
    return rows[0] if kind == "cls" else rows.mean(0)


def text_of(batch, d):
    return tuple(batch.unmasked.input_ids[batch.document == d].tolist())


def groups(batch, size=2):
    """Lists of (English side, other side) of each group; pairs without English are left out."""
    pairs, language = batch.pairs.tolist(), batch.language.tolist()
    for start in range(0, len(pairs), size):
        part = [
            (a, b) if language[a] == 1 else (b, a)
            for a, b in pairs[start : start + size]
            if 1 in (language[a], language[b])
        ]
        if part:
            yield part


def word_places(batch, d):
    mine = set(places(batch, d).tolist())
    return [p for p in batch.word_positions.tolist() if p in mine]


def twin(case, at, objective) -> float:
    batch, form = at.batch, case.partition(",")[0]
    module = at.beside.get(objective.name)
    if form == "translation_lm":
        return -log_softmax(at.joined.masked_logits.detach().numpy())[
            np.arange(batch.joined.targets), batch.joined.target_ids.numpy()
        ].sum()
    if form == "info_nce":
        total = 0.0
        for start in range(0, len(batch.pairs), 2):
            sides = [
                np.array(
                    [
                        feature(at.student, batch, d, objective.kind)
                        for d in batch.pairs[start : start + 2, side].tolist()
                    ]
                )
                for side in (0, 1)
            ]
            u, v = (unit(project(module, x) if module else x) for x in sides)
            c = u @ v.T / objective.temperature
            total -= (np.trace(log_softmax(c)) + np.trace(log_softmax(c.T))) / 2
        return total
    if form == "momentum":
        first = {text_of(batch, d) for d in batch.pairs[:1, 1].tolist()}
        total, keys, queue = 0.0, key_of(batch).numpy().astype(float), w(objective.queue)
        for pair, turned in zip(batch.pairs.tolist(), batch.flipped.tolist(), strict=True):
            q = unit(project(module, feature(at.student, batch, pair[turned], "cls")))
            others = queue[[i for i in range(5) if i != 3 or not {text_of(batch, d) for d in pair} & first]]
            total -= log_softmax(np.concatenate([[q @ keys[pair[1 - turned]]], others @ q]) / objective.temperature)[0]
        return total
    if form in ("byol", "structure"):
        total = 0.0
        for part in groups(batch, objective.size):
            if form == "byol" and len(part) < 3:
                continue
            t = np.array([feature(at.teacher_unmasked, batch, en, "cls") for en, _ in part])
            s = np.array([feature(at.student, batch, other, "cls") for _, other in part])
            if form == "byol":
                p = normalised(module.predictor, normalised(module.projector, s))
                target, size = normalised(objective.fixed, t), np.linalg.norm
                cos = (p * target).sum(1) / np.maximum(size(p, axis=1) * size(target, axis=1), 1e-12)
                total += (2 - 2 * cos).sum()
            else:
                t, s = unit(project(objective.fixed, t)), unit(project(module, s))
                log_t, log_s = log_softmax(t @ t.T), log_softmax(s @ s.T)
                total += (np.exp(log_t) * (log_t - log_s)).sum()
        return total
    if form == "mse":
        total = 0.0
        for en, other in [pair for part in groups(batch) for pair in part]:
            t = feature(at.teacher_unmasked, batch, en, objective.kind)
            for d in (en, other):
                s = feature(at.student, batch, d, objective.kind)
                total += (((linear(module, s) if module else s) - t) ** 2).mean()
        return total
    if form == "index":
        total = 0.0
        both = hidden_of(at.joined)
        for pair, (a, b) in enumerate(batch.pairs.tolist()):
            for side, d in enumerate((a, b)):
                if batch.language[d] != 1:
                    continue
                mine = word_places(batch, d)
                # A word of the joined text is found by its document and the ids, from its own end or beginning.
                flat = places(batch.joined, pair)
                own = places(batch, d)
                second = bool(batch.flipped[pair]) == (side == 0)
                shift = len(flat) - len(own) if second else 0
                t = hidden_of(at.teacher_unmasked)[mine]
                s = np.array([both[flat[shift + list(own).index(p)]] for p in mine]).reshape(len(mine), -1)
                s = linear(module, s) if module else s
                total -= np.trace(log_softmax(t @ s.T)) if mine else 0
        return total
    total, u, every = 0.0, unit(hidden_of(at.student) + 0.0), batch.word_positions.tolist()
    for i, j in batch.word_pairs.tolist():
        for one, other in ((every[i], every[j]), (every[j], every[i])):
            among = word_places(batch, int(batch.document.flatten()[other]))
            logits = u[among] @ u[one] / objective.temperature
            total -= log_softmax(logits)[among.index(other)] / 2
    return total


def moving(case, at) -> torch.Tensor:
    """What the student gives to a case."""
    if case == "translation_lm":
        return at.joined.masked_logits
    return at.joined.last_hidden if case.startswith("index") else at.student.last_hidden


# --- tests ------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("shape", BATCHES)
@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_equal_the_numpy_twin(case, shape):
    objective, recipe, width = objective_of(case)
    at = step_of(batch_of(read(BATCHES[shape]), recipe), objective, width)
    total = objective.term(at).total
    assert total.item() == pytest.approx(twin(case, at, objective), rel=1e-4, abs=1e-4)
    assert total.requires_grad, "a micro-batch without targets goes back all the same"
    total.backward()
    tensor = moving(case, at)
    gradient = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
    assert gradient.isfinite().all()
    flat, found = tensor.detach().view(-1), gradient.view(-1)
    strongest = found.abs().argsort(descending=True)[:4].tolist()
    for place in strongest + list(range(0, len(flat), max(len(flat) // 5, 1)))[:5]:
        before, step = flat[place].item(), 1e-5
        flat[place] = before + step
        up = twin(case, at, objective)
        flat[place] = before - step
        down = twin(case, at, objective)
        flat[place] = before
        assert found[place].item() == pytest.approx((up - down) / (2 * step), rel=5e-3, abs=2e-3)


@pytest.mark.parametrize("case", CASES)
def test_groups_in_separate_batches_add_up(case):
    """Eight pairs at once, and four and four: the same sum and count, however the rows were packed."""
    objective, recipe, width = objective_of(case)
    documents = read([EN_DE, EN_RU, RU_DE, (0, 1), EN_RU, EN_DE, EN_RU, EN_DE], seed=4)
    totals, counts = [], []
    for wanted in (slice(0, 8), slice(0, 4), slice(4, 8)):
        at = step_of(batch_of(part(documents, wanted), recipe), objective, width)
        objective.messages = torch.zeros(5, 2, dtype=torch.int64)  # the same queue for all
        totals.append(objective.term(at).total.item())
        counts.append(objective.count(at.batch))
    assert counts[0] == counts[1] + counts[2] > 0
    assert totals[0] == pytest.approx(totals[1] + totals[2], rel=1e-4)


def test_every_form_is_covered():
    from unibert.objectives import OBJECTIVES

    forms = {form for kind in OBJECTIVES.values() if isinstance(kind, dict) for form in kind}
    assert forms <= {case.partition(",")[0] for case in CASES}
    assert {"translation_lm", "structure"} <= set(CASES)
    assert set(forms) and set(Objectives.model_fields) >= {"translation_lm", "align_sentences", "align_words"}


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_the_joined_text(reset, shuffle):
    recipe = recipe_of({"translation_lm": {"reset_positions": reset, "shuffle_order": shuffle}})
    documents = read([EN_DE, 2, EN_RU, (2, 1), RU_DE, EN_DE, EN_RU], seed=2)
    batch = batch_of(documents, recipe)
    plain = batch_of(documents, recipe_of({}))
    assert plain.joined is None
    for name in ("input_ids", "document", "position_ids", "target_positions", "target_ids", "cls_positions", "pairs"):
        assert torch.equal(getattr(batch, name), getattr(plain, name)), "the single documents are as without it"
    joined = batch.joined
    assert joined is not None and joined.documents == 6
    clean, flipped = joined.unmasked, 0
    for p, (a, b) in enumerate(documents.pairs.tolist()):
        sides = (b, a) if shuffle and batch.flipped[p] else (a, b)
        flipped += sides == (b, a)
        where = joined.document == p
        first, second = (documents.texts[d].tolist() for d in sides)
        assert clean.input_ids[where].tolist() == first + second[1:]
        after = range(1, len(second)) if reset else range(len(first), len(first) + len(second) - 1)
        assert joined.position_ids[where].tolist() == [*range(len(first)), *after]
        targets = set(joined.target_positions.tolist())
        flat = torch.nonzero(where.flatten()).flatten().tolist()
        halves = (flat[: len(first)], flat[len(first) :])
        assert all(targets & set(half) for half in halves), "each side is masked for itself"
    assert (0 < flipped < 6) if shuffle else flipped == 0


@pytest.mark.parametrize(
    ("tables", "changes", "message"),
    [
        ({"translation_lm": {}}, {"data": {}}, "set data.parallel_ratio"),
        ({"structure": {"group_pairs": 3}}, {}, r"group_pairs = 3, but a micro-batch of 8 documents has 4 pairs"),
        ({"structure": {"group_pairs": 2}}, {"data": {"parallel_ratio": 0.3}}, "multiple of a power of 1/2"),
        ({"structure": {"group_pairs": 1}}, {}, "greater than or equal to 2"),
        ({"align_sentences": {"form": "byol", "group_pairs": 2}}, {}, "greater than or equal to 4"),
        (
            {"align_sentences": {"form": "mse"}},
            {"data": {"parallel_ratio": 1.0, "code_switch_fraction": 0.5}},
            r"\[objectives.align_sentences\] would take all of it for its first one",
        ),
        ({"align_sentences": {"form": "mse"}}, {"languages": ("de", "ru")}, "add 'en' to languages"),
    ],
)
def test_recipes_that_cannot_be_right(tables, changes, message):
    tree = recipe_of({"translation_lm": {}}).model_dump(exclude_none=True)
    tree |= {"objectives": {"masked_lm": {}} | tables, "student": {"start": "random"}} | changes
    with pytest.raises(ValueError, match=message):
        Recipe.model_validate(tree)
