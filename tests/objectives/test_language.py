"""The discriminator's guess and the student's confusion, for every feature and form, against NumPy twins."""

from types import SimpleNamespace

import numpy as np
import torch

from tests.objectives.small import (
    HIDDEN,
    LANGUAGES,
    Case,
    array,
    make_batch,
    parameters,
    softmax,
)
from unibert.objective_tables import LanguageConfusion, LanguageGuess
from unibert.objectives.language_confusion import wrong_language


def judged(at):
    """Feature and document of everything that is judged."""
    hidden = array(at.student.last_hidden).reshape(-1, HIDDEN)
    flat = at.batch.document.numpy().ravel()
    if at.feature == "tokens":
        return hidden[flat >= 0], flat[flat >= 0]
    documents = np.arange(at.batch.documents)
    if at.feature == "cls":
        return hidden[at.batch.cls_positions.numpy()], documents
    return np.array([hidden[flat == d].mean(0) for d in documents]).reshape(-1, HIDDEN), documents


def guesses(at):
    features, documents = judged(at)
    p = softmax(at.discriminate(torch.tensor(features, dtype=torch.float32)).numpy().astype(float))
    return p, documents


def log_p_of(languages, at):
    p, documents = guesses(at)
    return np.log(p[np.arange(len(p)), languages[documents]]).sum()


def twin_guess(at, table):
    return -log_p_of(at.batch.language.numpy(), at)


def twin_confusion(at, table):
    if table.form == "reversal":
        return log_p_of(at.batch.language.numpy(), at)
    if table.form == "label_flip":
        wrong = [
            (language + 1 + ((sample * 0x9E3779B97F4A7C15 >> 32) & 0x7FFFFFFF) % (LANGUAGES - 1)) % LANGUAGES
            for sample, language in zip(at.batch.sample_ids.tolist(), at.batch.language.tolist(), strict=True)
        ]
        return -log_p_of(np.array(wrong, dtype=int), at)
    p, _ = guesses(at)
    if table.form == "entropy":
        return (np.log(LANGUAGES) + (p * np.log(p)).sum(-1)).sum()
    return (-np.log(LANGUAGES) - np.log(p).mean(-1)).sum()


FEATURES = ["cls", "mean", "tokens"]
CASES = parameters(
    [Case("language_guess", LanguageGuess(), twin_guess, feature=feature) for feature in FEATURES]
    + [
        Case("language_confusion", LanguageConfusion(form=form), twin_confusion, feature=feature)
        for form in ("uniform", "entropy", "reversal", "label_flip")
        for feature in FEATURES
    ]
)


def test_a_sure_discriminator_moves_the_student_by_uniform_alone():
    def gradient(form):
        features = torch.eye(LANGUAGES, requires_grad=True)
        objective = Case("language_confusion", LanguageConfusion(form=form), twin_confusion).objective()
        at = SimpleNamespace(features_FH=features, language_F=torch.arange(LANGUAGES), discriminate=lambda x: 30 * x)
        objective.term(at).total.backward()
        return features.grad.abs().max().item()

    assert gradient("uniform") > 10
    assert gradient("entropy") < 1e-6 and gradient("reversal") < 1e-6


def test_every_token_is_a_target():
    case = Case("language_guess", LanguageGuess(), twin_guess, feature="tokens")
    objective = case.objective()
    batch = make_batch()
    assert objective.count(batch) == batch.tokens == 9
    assert Case("language_guess", LanguageGuess(), twin_guess).objective().count(batch) == 3


def test_the_flipped_label_is_never_right_and_evenly_spread():
    samples, languages = torch.arange(30_000), 7
    own = torch.arange(30_000) % languages
    wrong = wrong_language(samples, own, languages=languages)
    assert not (wrong == own).any() and wrong.min() >= 0 and wrong.max() < languages
    table = torch.bincount(own * languages + wrong, minlength=languages**2).view(languages, languages)
    off = table[~torch.eye(languages, dtype=torch.bool)]
    expected = 30_000 / languages / (languages - 1)
    assert (off.double() / expected - 1).abs().max() < 0.05
    shuffled = torch.randperm(30_000)
    assert torch.equal(wrong_language(samples[shuffled], own[shuffled], languages=languages), wrong[shuffled])


def test_with_two_languages_the_flipped_label_is_the_other_one():
    assert wrong_language(torch.arange(4), torch.tensor([0, 1, 1, 0]), languages=2).tolist() == [1, 0, 0, 1]
