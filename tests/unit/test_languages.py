"""The language table and the reading of other projects' tags."""

import subprocess
import sys

import pytest

from unibert.data.cleaning import reason_to_drop
from unibert.errors import ConfigError
from unibert.languages import LANGUAGES, by_language, check, code_of, script_of


def test_the_table_has_107_languages_of_which_104_are_mberts() -> None:
    assert len(LANGUAGES) == 107
    assert sum(language.in_mbert for language in LANGUAGES.values()) == 104
    assert {code for code, language in LANGUAGES.items() if not language.in_mbert} == {"am", "km", "si"}
    # XLM-R's 100 without its 6 romanised or Zawgyi variants and the 15 languages that are not here
    assert sum(language.in_xlmr for language in LANGUAGES.values()) == 100 - 6 - 15


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
