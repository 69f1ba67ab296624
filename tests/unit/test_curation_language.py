"""The language check: sure of what is foreign, silent on what is short, alike or beyond it, offline."""

import pickle
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from unibert.data.curation import language
from unibert.data.curation.language import Identifier, alone_in_script, same
from unibert.languages import LANGUAGES

SENTENCES = {
    "en": "The river rises in the mountains and flows through the old town before it reaches the sea.",
    "de": "Der Fluss entspringt in den Bergen und fließt durch die Altstadt, bevor er das Meer erreicht.",
    "fr": "La rivière prend sa source dans les montagnes et traverse la vieille ville avant d'atteindre la mer.",
    "tr": "Nehir dağlarda doğar ve denize ulaşmadan önce eski şehrin içinden geçer.",
    "ru": "Река берёт начало в горах и протекает через старый город, прежде чем достигнуть моря.",
    "uk": "Річка бере початок у горах і протікає через старе місто, перш ніж досягти моря.",
    "hi": "नदी पहाड़ों से निकलती है और समुद्र तक पहुँचने से पहले पुराने शहर से होकर बहती है।",
    "mr": "नदी डोंगरात उगम पावते आणि समुद्राला मिळण्यापूर्वी जुन्या शहरातून वाहते.",
    "ar": "ينبع النهر من الجبال ويجري عبر المدينة القديمة قبل أن يصل إلى البحر.",
    "fa": "رودخانه از کوه‌ها سرچشمه می‌گیرد و پیش از رسیدن به دریا از شهر قدیمی می‌گذرد.",
    "zh": "这条河发源于山中，流经老城，最后注入大海，全长约三百公里。沿岸有许多村庄，居民以捕鱼为生。",
    "ja": "この川は山に源を発し、旧市街を流れて海に注いでいる。長さは三百キロほどで、沿岸には小さな村が多い。",
}
ALIKE = {
    "nb": "Elva har sitt utspring i fjellene og renner gjennom gamlebyen før den når havet.",
    "hr": "Rijeka izvire u planinama i teče kroz stari grad prije nego što dođe do mora.",
    "id": "Sungai itu berhulu di pegunungan dan mengalir melalui kota tua sebelum mencapai laut.",
}


@pytest.fixture(scope="module")
def identifier() -> Identifier:
    return Identifier()


@pytest.mark.parametrize("code", SENTENCES)
def test_a_sentence_passes_in_its_language_and_goes_in_unlike_ones(code: str, identifier: Identifier) -> None:
    assert identifier.reasons([SENTENCES[code]], code) == [None]
    for other in ("en", "de", "fr", "ru", "ar", "hi", "zh"):
        fine = code in same(other) or other in alone_in_script()  # a rule of its own has judged the latter's script
        expected = None if fine else "language"
        assert identifier.reasons([SENTENCES[code]], other) == [expected], other


def test_confusable_languages_count_as_one(identifier: Identifier) -> None:
    for code, others in {"nb": ("nn", "da"), "hr": ("bs", "sh"), "id": ("ms",), "zh": ("zh-hant",)}.items():
        for other in others:
            assert identifier.reasons([{**SENTENCES, **ALIKE}[code]], other) == [None], other
    assert same("zh-hant") == same("zh") and "no" in same("nn") and same("fr") == {"fr"}


def test_what_is_short_or_cannot_be_judged_passes(identifier: Identifier) -> None:
    assert identifier.reasons(["The river rises in the mountains", SENTENCES["en"], ""], "ru") == [
        None,
        "language",
        None,
    ]
    assert {"gl", "nds"} <= language.UNJUDGED <= LANGUAGES.keys()
    assert identifier.reasons([SENTENCES["en"]] * 2, "gl") == [None, None]
    assert identifier.reasons([], "de") == []


def test_every_language_has_a_label_of_the_model(identifier: Identifier) -> None:
    everything = identifier._loaded().detect("abc", model="lite", k=200, threshold=-1)
    labels = {entry["lang"] for entry in everything}
    assert all(labels & same(code) for code in LANGUAGES)


def test_it_works_offline_in_threads_and_after_pickling(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    fresh = pickle.loads(pickle.dumps(Identifier()))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda text: fresh.reasons([text], "en")[0], list(SENTENCES.values()) * 4))
    assert found == [None, *["language"] * (len(SENTENCES) - 1)] * 4
    assert pickle.loads(pickle.dumps(fresh)).reasons([SENTENCES["de"]], "en") == ["language"]


def test_a_long_line_is_judged_by_its_beginning(identifier: Identifier) -> None:
    assert identifier.reasons([SENTENCES["de"] * 4 + SENTENCES["en"] * 50], "de") == [None]
    assert identifier.reasons([(SENTENCES["en"] + "\n") * 4], "de") == ["language"]


def test_of_many_lines_a_sample_decides_whether_all_are_judged(identifier: Identifier) -> None:
    many = 2 * language.MANY
    assert identifier.reasons([SENTENCES["en"]] * many, "en") == [None] * many
    stray = [SENTENCES["en"]] * many
    stray[3] = SENTENCES["ru"]  # one of four thousand, not among those looked at first
    assert identifier.reasons(stray, "en") == [None] * many
    mixed = [SENTENCES["ru" if place % 7 == 3 else "en"] for place in range(many)]
    expected = ["language" if place % 7 == 3 else None for place in range(many)]
    assert identifier.reasons(mixed, "en") == expected
