"""The languages UniBERT trains on, as a table: code, name, script, family, Wikipedia, membership in mBERT and XLM-R.

UniBERT's own list of 107 languages is not public. This one is our choice: the 104 of multilingual BERT, and
Amharic, Khmer and Sinhala, which XLM-R has and which add three scripts that mBERT lacks.

Codes are Wikipedia's, as in mBERT, with two exceptions: Norwegian Bokmål is `nb` and traditional Chinese `zh-hant`.
XLM-R's 100 are 94 languages and scripts plus six romanised or Zawgyi variants; 79 of the 94 are here. Membership is
that of BERT's own list (google-research/bert, multilingual.md, the cased model) and of the XLM-R paper's appendix A.
`family` is the branch for Indo-European (Germanic, Slavic, ...) and the family elsewhere. Pure python.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from unibert.errors import ConfigError


@dataclass(frozen=True)
class Language:
    """One language.

    `script` is the ISO 15924 code of its usual script; `aliases` are tags other projects write for it
    (lower case, with hyphens) that `code_of` cannot derive by dropping a region.
    """

    code: str
    name: str
    script: str
    family: str
    in_mbert: bool
    in_xlmr: bool
    aliases: tuple[str, ...] = ()

    @property
    def mediawiki(self) -> tuple[str, ...]:
        """File names MediaWiki uses for this language, the preferred one first."""
        return (self.code, *self.aliases)

    @property
    def wikipedia(self) -> str | None:
        """The code of its Wikipedia; None for traditional Chinese, which zh's has mixed with simplified."""
        return {"nb": "no", "zh-hant": None}.get(self.code, self.code)


# code | name | script | family | m: in mBERT, x: in XLM-R | aliases
_TABLE = """
af|Afrikaans|Latn|Germanic|mx|
am|Amharic|Ethi|Semitic|x|
an|Aragonese|Latn|Romance|m|
ar|Arabic|Arab|Semitic|mx|
ast|Asturian|Latn|Romance|m|
az|Azerbaijani|Latn|Turkic|mx|
azb|South Azerbaijani|Arab|Turkic|m|
ba|Bashkir|Cyrl|Turkic|m|
bar|Bavarian|Latn|Germanic|m|
be|Belarusian|Cyrl|Slavic|mx|
bg|Bulgarian|Cyrl|Slavic|mx|
bn|Bengali|Beng|Indo-Aryan|mx|
bpy|Bishnupriya Manipuri|Beng|Indo-Aryan|m|
br|Breton|Latn|Celtic|mx|
bs|Bosnian|Latn|Slavic|mx|
ca|Catalan|Latn|Romance|mx|
ce|Chechen|Cyrl|Nakh-Daghestanian|m|
ceb|Cebuano|Latn|Austronesian|m|
cs|Czech|Latn|Slavic|mx|
cv|Chuvash|Cyrl|Turkic|m|
cy|Welsh|Latn|Celtic|mx|
da|Danish|Latn|Germanic|mx|
de|German|Latn|Germanic|mx|
el|Greek|Grek|Greek|mx|
en|English|Latn|Germanic|mx|
es|Spanish|Latn|Romance|mx|
et|Estonian|Latn|Uralic|mx|
eu|Basque|Latn|Basque|mx|
fa|Persian|Arab|Iranian|mx|
fi|Finnish|Latn|Uralic|mx|
fr|French|Latn|Romance|mx|
fy|West Frisian|Latn|Germanic|mx|
ga|Irish|Latn|Celtic|mx|
gl|Galician|Latn|Romance|mx|
gu|Gujarati|Gujr|Indo-Aryan|mx|
he|Hebrew|Hebr|Semitic|mx|iw
hi|Hindi|Deva|Indo-Aryan|mx|
hr|Croatian|Latn|Slavic|mx|
ht|Haitian Creole|Latn|Romance|m|
hu|Hungarian|Latn|Uralic|mx|
hy|Armenian|Armn|Armenian|mx|
id|Indonesian|Latn|Austronesian|mx|in
io|Ido|Latn|Constructed|m|
is|Icelandic|Latn|Germanic|mx|
it|Italian|Latn|Romance|mx|
ja|Japanese|Jpan|Japonic|mx|
jv|Javanese|Latn|Austronesian|mx|
ka|Georgian|Geor|Kartvelian|mx|
kk|Kazakh|Cyrl|Turkic|mx|
km|Khmer|Khmr|Austroasiatic|x|
kn|Kannada|Knda|Dravidian|mx|
ko|Korean|Kore|Koreanic|mx|
ky|Kyrgyz|Cyrl|Turkic|mx|
la|Latin|Latn|Romance|mx|
lb|Luxembourgish|Latn|Germanic|m|
lmo|Lombard|Latn|Romance|m|
lt|Lithuanian|Latn|Baltic|mx|
lv|Latvian|Latn|Baltic|mx|
mg|Malagasy|Latn|Austronesian|mx|
min|Minangkabau|Latn|Austronesian|m|
mk|Macedonian|Cyrl|Slavic|mx|
ml|Malayalam|Mlym|Dravidian|mx|
mn|Mongolian|Cyrl|Mongolic|mx|
mr|Marathi|Deva|Indo-Aryan|mx|
ms|Malay|Latn|Austronesian|mx|
my|Burmese|Mymr|Sino-Tibetan|mx|
nb|Norwegian Bokmål|Latn|Germanic|mx|no
nds|Low German|Latn|Germanic|m|
ne|Nepali|Deva|Indo-Aryan|mx|
new|Newar|Deva|Sino-Tibetan|m|
nl|Dutch|Latn|Germanic|mx|
nn|Norwegian Nynorsk|Latn|Germanic|m|
oc|Occitan|Latn|Romance|m|
pa|Punjabi|Guru|Indo-Aryan|mx|
pl|Polish|Latn|Slavic|mx|
pms|Piedmontese|Latn|Romance|m|
pnb|Western Punjabi|Arab|Indo-Aryan|m|
pt|Portuguese|Latn|Romance|mx|
ro|Romanian|Latn|Romance|mx|
ru|Russian|Cyrl|Slavic|mx|
scn|Sicilian|Latn|Romance|m|
sco|Scots|Latn|Germanic|m|
sh|Serbo-Croatian|Latn|Slavic|m|
si|Sinhala|Sinh|Indo-Aryan|x|
sk|Slovak|Latn|Slavic|mx|
sl|Slovenian|Latn|Slavic|mx|
sq|Albanian|Latn|Albanian|mx|
sr|Serbian|Cyrl|Slavic|mx|sr-ec
su|Sundanese|Latn|Austronesian|mx|
sv|Swedish|Latn|Germanic|mx|
sw|Swahili|Latn|Niger-Congo|mx|
ta|Tamil|Taml|Dravidian|mx|
te|Telugu|Telu|Dravidian|mx|
tg|Tajik|Cyrl|Iranian|m|
th|Thai|Thai|Tai-Kadai|mx|
tl|Tagalog|Latn|Austronesian|mx|fil
tr|Turkish|Latn|Turkic|mx|
tt|Tatar|Cyrl|Turkic|m|
uk|Ukrainian|Cyrl|Slavic|mx|
ur|Urdu|Arab|Indo-Aryan|mx|
uz|Uzbek|Latn|Turkic|mx|
vi|Vietnamese|Latn|Austroasiatic|mx|
vo|Volapük|Latn|Constructed|m|
war|Waray|Latn|Austronesian|m|
yo|Yoruba|Latn|Niger-Congo|m|
zh|Chinese (simplified)|Hans|Sinitic|mx|zh-hans zh-cn zh-sg zh-my
zh-hant|Chinese (traditional)|Hant|Sinitic|mx|zh-tw zh-hk zh-mo
"""

# Tags that look like `language-region` and are something else: another variety, script or register.
_OTHER_VARIETIES = frozenset({"nds-nl", "sr-el", "kk-cn", "kk-tr", "ku-latn", "be-x-old"})


def _read_table() -> dict[str, Language]:
    table = {}
    for line in _TABLE.strip().splitlines():
        code, name, script, family, flags, aliases = line.split("|")
        table[code] = Language(code, name, script, family, "m" in flags, "x" in flags, tuple(aliases.split()))
    return table


LANGUAGES: Mapping[str, Language] = MappingProxyType(_read_table())
"""The 107 languages by code."""

_ALIASES = {alias: language.code for language in LANGUAGES.values() for alias in language.aliases}


def code_of(tag: str) -> str | None:
    """Our code for a language tag as MediaWiki, gettext, CLDR or BCP 47 write it; None when it is not in the table.

    A region is dropped (`pt_BR` -> pt), and so is the language's own script (`kk-Cyrl` -> kk). A tag with any other
    script, variant or register (`sr-Latn`, `ca-valencia`, `de-formal`) is not the language and gives None.
    """
    tag = tag.split(".", maxsplit=1)[0].replace("@", "-").replace("_", "-").lower()
    if tag in LANGUAGES:
        return tag
    if tag in _ALIASES:
        return _ALIASES[tag]
    if tag in _OTHER_VARIETIES:
        return None
    base, _, rest = tag.partition("-")
    base = _ALIASES.get(base, base)
    language = LANGUAGES.get(base)
    if language is None or "-" in rest:
        return None
    is_region = (len(rest) == 2 and rest.isalpha()) or (len(rest) == 3 and rest.isdigit())
    return base if is_region or rest == language.script.lower() else None


def wikipedia_code(code: str) -> str | None:
    """`Language.wikipedia` of a code; a code that is not in the table is its own."""
    return LANGUAGES[code].wikipedia if code in LANGUAGES else code


def by_language(tags: Iterable[str]) -> dict[str, list[str]]:
    """Group the tags a source has by our code, English first, then by code.

    Of one language's tags the one equal to the code comes first, then its aliases, then the others.
    """
    groups: dict[str, list[str]] = {}
    for tag in tags:
        if (code := code_of(tag)) is not None:
            groups.setdefault(code, []).append(tag)
    for code, found in groups.items():
        names = LANGUAGES[code].mediawiki
        found.sort(key=lambda tag: (names.index(tag) if tag in names else len(names), tag))
    return {code: groups[code] for code in sorted(groups, key=lambda code: (code != "en", code))}


def check(codes: Iterable[str]) -> tuple[str, ...]:
    """The codes, when every one is in the table and none is double; else ConfigError naming all that are wrong."""
    codes = tuple(codes)
    wrong = []
    for code in dict.fromkeys(codes):
        if code not in LANGUAGES:
            near = code_of(code) or next(iter(difflib.get_close_matches(code, LANGUAGES, n=1)), None)
            wrong.append(f"{code!r} is not a known language" + (f" (perhaps {near!r})" if near else ""))
        elif codes.count(code) > 1:
            wrong.append(f"{code!r} is listed {codes.count(code)} times")
    if wrong:
        raise ConfigError("languages: " + "; ".join(wrong) + ". The table is in unibert/languages.py.")
    return codes


def script_of(code: str) -> str:
    """ISO 15924 code of the language's usual script; ConfigError for a code that is not in the table."""
    if code not in LANGUAGES:
        check((code,))
    return LANGUAGES[code].script
