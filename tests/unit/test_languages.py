"""The language table and the reading of other projects' tags."""

import subprocess
import sys

import pytest

from unibert.data.cleaning import reason_to_drop
from unibert.errors import ConfigError
from unibert.languages import LANGUAGES, by_language, check, code_of, script_of, wikipedia_code


def test_the_table_has_107_languages_of_which_104_are_mberts() -> None:
    assert len(LANGUAGES) == 107
    assert sum(language.in_mbert for language in LANGUAGES.values()) == 104
    assert {code for code, language in LANGUAGES.items() if not language.in_mbert} == {"am", "km", "si"}
    # XLM-R's 100 without its 6 romanised or Zawgyi variants and the 15 languages that are not here
    assert sum(language.in_xlmr for language in LANGUAGES.values()) == 100 - 6 - 15


# Of the lists that were published with the models, in Wikipedia's codes: what mBERT has and XLM-R has not, and what
# XLM-R has besides our own languages.
ONLY_MBERT = "an ast azb ba bar bpy ce ceb cv ht io lb lmo min nds new nn oc pms pnb scn sco sh tg tt vo war yo".split()
ONLY_XLMR = "as eo gd ha ku lo om or ps sa sd so ug xh yi".split()


def test_membership_is_that_of_the_published_lists() -> None:
    assert {code for code, language in LANGUAGES.items() if not language.in_xlmr} == set(ONLY_MBERT)
    assert len(ONLY_XLMR) == 15 and not LANGUAGES.keys() & set(ONLY_XLMR)
    assert all(language.in_mbert or language.in_xlmr for language in LANGUAGES.values())


def test_every_language_has_a_wikipedia_of_its_own_but_traditional_chinese() -> None:
    codes = [language.wikipedia for language in LANGUAGES.values()]
    assert len(set(codes)) == 107 and codes.count(None) == 1
    assert (wikipedia_code("nb"), wikipedia_code("nn"), wikipedia_code("zh")) == ("no", "nn", "zh")
    assert wikipedia_code("zh-hant") is None and wikipedia_code("als") == "als"


def test_every_entry_is_complete_and_its_script_can_be_checked() -> None:
    for code, language in LANGUAGES.items():
        assert language.code == code and code == code.lower()
        assert language.name and language.family
        assert language.mediawiki[0] == code
        reason_to_drop("a text that has any letters at all", code)  # KeyError for a script without letters


@pytest.mark.parametrize(
    ("tag", "code"),
    [
        ("pt_BR", "pt"),
        ("es-419", "es"),
        ("no", "nb"),
        ("nb-NO", "nb"),
        ("zh_TW", "zh-hant"),
        ("zh-hans", "zh"),
        ("sr-ec", "sr"),
        ("sr_RS", "sr"),
        ("kk-Cyrl", "kk"),
        ("iw", "he"),
        ("fil", "tl"),
        ("en_GB.UTF-8", "en"),
        ("sr@latin", None),
        ("sr-el", None),
        ("be-tarask", None),
        ("ca-valencia", None),
        ("de_DE_formal", None),
        ("nds-nl", None),
        ("zh-classical", None),
        ("qqq", None),
    ],
)
def test_code_of(tag: str, code: str | None) -> None:
    assert code_of(tag) == code


def test_by_language_puts_english_and_the_plain_tag_first() -> None:
    groups = by_language(["de-at", "pt-br", "de", "en-gb", "pt", "xx", "zh-tw", "zh-hant"])
    assert list(groups) == ["en", "de", "pt", "zh-hant"]
    assert groups["de"] == ["de", "de-at"]
    assert groups["pt"] == ["pt", "pt-br"]
    assert groups["zh-hant"] == ["zh-hant", "zh-tw"]


def test_check_names_every_wrong_code_with_a_suggestion() -> None:
    assert check(["en", "de"]) == ("en", "de")
    with pytest.raises(ConfigError) as caught:
        check(["en", "pt_BR", "qq", "en"])
    message = str(caught.value)
    assert "'pt_BR' is not a known language (perhaps 'pt')" in message
    assert "'qq'" in message and "'en' is listed 2 times" in message


def test_script_of() -> None:
    assert (script_of("sr"), script_of("zh-hant"), script_of("ur")) == ("Cyrl", "Hant", "Arab")
    with pytest.raises(ConfigError, match="'tlh'"):
        script_of("tlh")


def test_the_table_needs_no_torch() -> None:
    code = "import sys, unibert.languages; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
