"""What a model answers as it is: planted embeddings give planted answers; LIR's rows stand beside the plain ones."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import make_teacher, make_tokenizer, sentences, words

from tests.unit.small_labelled import make_labelled
from unibert.errors import DataError
from unibert.evaluate.compare.report import write_report
from unibert.evaluate.finetune.frozen import Frozen, side_languages, texts_to_fit
from unibert.evaluate.finetune.run import judge
from unibert.evaluate.finetune.settings import Settings
from unibert.evaluate.finetune.subject import find_model
from unibert.evaluate.finetune.untuned import BY_EMBEDDING, UNTUNED
from unibert.evaluate.language_removal import fit_parts, remove_parts
from unibert.evaluate.probe import language_probe
from unibert.evaluate.results_file import Results
from unibert.evaluate.tasks import TASKS
from unibert.evaluate.tasks.nli import Pair
from unibert.evaluate.tasks.texts import Text, read_texts
from unibert.evaluate.tasks.words import Word

SETTINGS = Settings(max_tokens=48)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("untuned")
    make_teacher(folder / "model", make_tokenizer(folder / "tokenizer"), layers=1)
    make_labelled(folder / "data")
    return folder


@pytest.fixture(scope="module")
def frozen(place):
    return Frozen(find_model(str(place / "model")), settings=SETTINGS, device=torch.device("cpu"))


def planted(frozen, monkeypatch, vectors):
    monkeypatch.setattr(frozen, "_embed", lambda texts: torch.tensor([vectors[text] for text in texts]))


def test_words_find_any_of_their_translations(frozen, monkeypatch):
    vectors = {"Hund": [1.0, 0.0], "dog": [0.9, 0.1], "hound": [0.5, 0.6], "Katze": [0.0, 1.0], "cat": [0.1, 0.9]}
    planted(frozen, monkeypatch, {text: [*vector, 0.0] for text, vector in vectors.items()})
    entries = [Word("1", "1", "Hund", ("hound", "dog")), Word("2", "2", "Katze", ("dog",))]
    (found,) = frozen.answers("word_translation", [("words", "test", "de", entries)])
    assert found[0] == (1.0, 0.5), "dog is nearest to Hund, and hound to Katze, which it does not mean"
    assert found[1] == (0.0, 1.0), "dog is nearest to Hund, which it means too"


def test_a_language_that_hides_the_meaning_is_taken_away(frozen, monkeypatch):
    """Every German text lies far along one direction: plainly all have one nearest, without it their own."""
    chance = np.random.default_rng(0)
    meaning = chance.normal(size=(30, 8))
    away = 20 * np.eye(8)[0]
    sides = {f"en{i}": meaning[i] for i in range(30)} | {f"de{i}": meaning[i] + away for i in range(30)}
    planted(frozen, monkeypatch, {text: vector.astype(np.float32).tolist() for text, vector in sides.items()})
    pairs = [Pair(str(i), str(i), f"de{i}", f"en{i}", "") for i in range(30)]
    where = ("tatoeba", "test", "de", pairs)
    parts = frozen.parts({"de": [f"de{i}" for i in range(30)]}, rank=1) | {"en": torch.zeros(8, 1)}
    plain, left = (frozen.answers("retrieval", [where], parts=one)[0] for one in (None, parts))
    assert np.mean([ranks[0] == 1 for ranks in left]) > 0.8 > 0.3 > np.mean([ranks[0] == 1 for ranks in plain])


def test_masked_sums_are_those_of_transformers(place, frozen):
    from transformers import AutoModelForMaskedLM

    texts = sentences("de", count=70, seed=9)
    (found,) = frozen.answers("masked", [("text", "test", "de", [Text(str(i), "", t) for i, t in enumerate(texts)])])
    model = AutoModelForMaskedLM.from_pretrained(place / "model").eval()
    for batch in frozen._batches(texts):
        for number, document in zip(batch.language.tolist(), range(batch.documents), strict=True):
            places = (batch.document.flatten() == document).nonzero().squeeze(1)
            labels = torch.full((len(places),), -100)
            for position, target in zip(batch.target_positions, batch.target_ids, strict=True):
                labels[places == position] = target
            with torch.no_grad():
                out = model(input_ids=batch.input_ids.flatten()[places][None], labels=labels[None])
            count = int((labels != -100).sum())
            assert found[number][2] == count > 0
            assert found[number][0] == pytest.approx(out.loss.item() * count, rel=1e-4)


def test_the_probe_is_that_of_a_recipes_evaluation(frozen):
    codes = ("en", "de", "ru")
    texts = {code: sentences(code, count=60, seed=5) for code in codes}
    places = [("text", "test", code, [Text(str(i), "", t) for i, t in enumerate(texts[code])]) for code in codes]
    flat, labels = [t for rows in texts.values() for t in rows], [code for code in codes for _ in texts[code]]
    features_NH = frozen._embedder.mean(flat)
    expected = language_probe(features_NH, texts=flat, languages=labels)
    for rank in (0, 1):
        found = frozen.answers("language_probe", places, rank=rank)
        hits = [one["accuracy"] for rows in found for one in rows if one is not None]
        assert len(hits) == expected.test
        if not rank:
            assert np.mean(hits) == pytest.approx(expected.accuracy)
            for code, rows in zip(codes, found, strict=True):
                judged = [one for one in rows if one]
                assert np.mean([one["accuracy"] for one in judged]) == pytest.approx(expected.recall[code])
                assert judged[0]["chance"] == pytest.approx(1 / 3) and judged[0]["majority"] == expected.majority


def test_directions_are_fitted_on_other_text_where_there_is_some():
    pairs = [Pair(str(i), str(i), f"ein Satz {i}", f"a sentence {i}", "") for i in range(25)]
    heldout = {"de": [f"ein Satz {i}." for i in range(40)], "en": [f"a sentence {i}" for i in range(10)]}
    texts = texts_to_fit("retrieval", ("tatoeba", "test", "de", pairs), heldout)
    assert texts["de"] == [f"ein Satz {i}" for i in range(25)], "without the judged ones too few are left"
    more = heldout | {"de": [f"ein Satz {i}." for i in range(50)]}
    assert texts_to_fit("retrieval", ("t", "test", "de", pairs), more)["de"] == [
        f"ein Satz {i}." for i in range(25, 50)
    ]
    assert texts["en"] == [f"a sentence {i}" for i in range(25)]
    assert side_languages("sts", "de") == ("de", "de") and side_languages("sts", "es+en") == ("es", "en")


def test_rows_without_the_language_have_their_own_name(place, tmp_path):
    settings, model = SETTINGS, str(place / "model")
    tasks = [name for name in UNTUNED if name != "sts"]
    plain = judge([model], tasks, place / "data", tmp_path / "r.jsonl", settings=settings).rows
    before = {(row.place): row.values for row in plain}
    assert {row.way for row in plain} == {"untuned"} and {row.task for row in plain} == set(tasks)
    after = judge(
        [model], tasks, place / "data", tmp_path / "r.jsonl", settings=replace(settings, remove_language=1)
    ).rows
    assert {row.place: row.values for row in after[: len(plain)]} == before
    new = after[len(plain) :]
    assert {row.way for row in new} == {"untuned, language removed (rank 1)"}
    assert {row.task for row in new} == {*BY_EMBEDDING} - {"sts"}
    probes = [row for row in new if row.task == "language_probe"]
    assert np.mean([row.values["accuracy"] for row in probes]) < np.mean(
        [row.values["accuracy"] for row in plain if row.task == "language_probe"]
    )


def test_removal_is_that_of_its_formula(place, frozen):
    (plan,) = [TASKS["retrieval"].read(place / "data").of("test")["de"]]
    texts = texts_to_fit("retrieval", ("tatoeba", "test", "de", plan), read_texts(place / "data")["text"])
    parts = frozen.parts(texts, rank=2)
    own = fit_parts(frozen._embedder.mean(texts["de"]), languages=["de"] * len(texts["de"]), rank=2)["de"]
    e = frozen._embedder.mean([plan[0].first])
    expected = remove_parts(e, languages=["de"], parts={"de": own})
    got = frozen._vectors([plan[0].first], "de", parts)
    assert torch.allclose(got, torch.nn.functional.normalize(expected.double(), dim=-1), atol=1e-4)


def test_a_model_without_a_head_is_refused_before_any_work(place, tmp_path):
    from transformers import AutoModel, AutoTokenizer

    AutoModel.from_pretrained(place / "model").save_pretrained(tmp_path / "bare")
    AutoTokenizer.from_pretrained(place / "model").save_pretrained(tmp_path / "bare")
    with pytest.raises(DataError, match="bare: no masked-LM head to ask: leave masked out"):
        judge([str(tmp_path / "bare")], ["retrieval", "masked"], place / "data", tmp_path / "r.jsonl")
    assert not (tmp_path / "r.jsonl").exists()


def test_text_of_translations_serves_where_there_is_no_other(tmp_path):
    make_labelled(tmp_path)
    for path in (tmp_path / "text").iterdir():
        path.unlink()
    found = TASKS["language_probe"].read(tmp_path).of("test")
    assert set(found) == {"de", "en", "ru"} and found["de"][0].text == " ".join(words("de")[:3])


def test_a_first_look_and_then_all_into_one_file_make_a_report(place, tmp_path):
    """And what was stopped between the two does not."""
    file, model = tmp_path / "r.jsonl", str(place / "model")
    for limit in (20, None):
        judge([model], ["retrieval", "masked"], place / "data", file, settings=replace(SETTINGS, limit=limit))
    lines = file.read_text().splitlines(keepends=True)
    assert [row.settings.get("limit") for row in Results(file).rows] == [20] * 5 + [None] * 5
    found = write_report([file], tmp_path / "report", resamples=20)
    assert [line.partition(": ")[2] for line in found.left_out] == [
        "retrieval tatoeba (untuned): 2 older rows are replaced by newer ones (limit 20 and None)",
        "masked text (untuned): 3 older rows are replaced by newer ones (limit 20 and None)",
    ]
    file.write_text("".join(lines[:6]))
    with pytest.raises(DataError, match=r"ru and de have 20 and 40 examples, one of them by --limit 20"):
        write_report([file], tmp_path / "report", resamples=20)


def test_one_language_more_to_tell_apart_measures_all_anew(place, tmp_path):
    shutil.copytree(place / "data" / "text", tmp_path / "data" / "text")
    file, model = tmp_path / "r.jsonl", str(place / "model")
    judge([model], ["language_probe"], tmp_path / "data", file, settings=SETTINGS)
    (tmp_path / "data" / "text" / "ar.txt").write_text("\n".join(sentences("ar", count=60, seed=5)) + "\n")
    judge([model], ["language_probe"], tmp_path / "data", file, settings=SETTINGS)
    found = write_report([file], tmp_path / "report", resamples=20)
    assert found.languages == {"language_probe text untuned": ["ar", "de", "en", "ru"]}
    assert len(found.left_out) == 1 and "3 older rows are replaced by newer ones" in found.left_out[0]
