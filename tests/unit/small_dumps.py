"""Wikipedia dumps in the true format (export schema 0.11), small, in four languages and scripts."""

from __future__ import annotations

import bz2
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape


@dataclass(frozen=True)
class Edition:
    """What a language's Wikipedia calls things, and sentences in it."""

    file: str
    category: str
    template: str
    redirect: str
    disambiguation: str
    references: str
    sentences: tuple[str, ...]


EDITIONS = {
    "en": Edition(
        "File",
        "Category",
        "Template",
        "#REDIRECT",
        "{{Disambiguation}}",
        "References",
        (
            "The city lies on both banks of a wide river in the north of the country.",
            "Its harbour was built in the nineteenth century and enlarged after the war.",
            "Most people there speak two languages from an early age.",
            "The old town burnt down twice and was built again in stone.",
            "A railway has joined it to the capital since the year of the great flood.",
        ),
    ),
    "ar": Edition(
        "ملف",
        "تصنيف",
        "قالب",
        "#تحويل",
        "{{توضيح}}",
        "المراجع",
        (
            "تقع المدينة على ضفتي نهر واسع في شمال البلاد.",
            "بني ميناؤها في القرن التاسع عشر ثم وسع بعد الحرب.",
            "يتحدث معظم سكانها لغتين منذ سن مبكرة.",
            "احترقت المدينة القديمة مرتين ثم أعيد بناؤها بالحجر.",
            "تربطها سكة حديد بالعاصمة منذ عام الفيضان الكبير.",
        ),
    ),
    "ja": Edition(
        "ファイル",
        "カテゴリ",
        "テンプレート",
        "#転送",
        "{{Aimai}}",
        "脚注",
        (
            "この都市は国の北部にあり、広い川の両岸に位置している。",
            "港は十九世紀に建設され、戦後に拡張された。",
            "住民の多くは幼い頃から二つの言語を話している。",
            "旧市街は二度焼失し、石造りで再建された。",
            "大洪水の年から鉄道が首都とこの街を結んでいる。",
        ),
    ),
    "ru": Edition(
        "Файл",
        "Категория",
        "Шаблон",
        "#ПЕРЕНАПРАВЛЕНИЕ",
        "{{неоднозначность}}",
        "Примечания",
        (
            "Город лежит на обоих берегах широкой реки на севере страны.",
            "Его гавань построили в девятнадцатом веке и расширили после войны.",
            "Большинство жителей с детства говорит на двух языках.",
            "Старый город дважды сгорел и был заново построен из камня.",
            "Железная дорога связывает его со столицей с года большого наводнения.",
        ),
    ),
}


def page(title: str, text: str, *, number: int, ns: int = 0, redirect: str = "", model: str = "wikitext") -> str:
    """One <page>, as MediaWiki exports it."""
    mark = f'\n    <redirect title="{escape(redirect)}" />' if redirect else ""
    return f"""  <page>
    <title>{escape(title)}</title>
    <ns>{ns}</ns>
    <id>{number}</id>{mark}
    <revision>
      <id>{number + 90000}</id>
      <parentid>7</parentid>
      <timestamp>2024-01-01T00:00:00Z</timestamp>
      <contributor>
        <username>Someone</username>
        <id>123</id>
      </contributor>
      <model>{model}</model>
      <format>text/x-wiki</format>
      <text bytes="{len(text.encode())}" xml:space="preserve">{escape(text)}</text>
      <sha1>x</sha1>
    </revision>
  </page>
"""


def head(code: str) -> str:
    """<mediawiki> and <siteinfo>, with the namespaces' own names."""
    edition = EDITIONS[code]
    return f"""<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="{code}">
  <siteinfo>
    <sitename>Wikipedia</sitename>
    <dbname>{code}wiki</dbname>
    <case>first-letter</case>
    <namespaces>
      <namespace key="0" case="first-letter" />
      <namespace key="6" case="first-letter">{edition.file}</namespace>
      <namespace key="10" case="first-letter">{edition.template}</namespace>
      <namespace key="14" case="first-letter">{edition.category}</namespace>
    </namespaces>
  </siteinfo>
"""


def sentence(code: str, number: int) -> str:
    """A sentence for every number, unlike any other's: some of the edition's words in an order of its own."""
    said = " ".join(EDITIONS[code].sentences)
    words = said.split() if code != "ja" else [said[at : at + 3].strip() for at in range(0, len(said), 3)]
    chosen = random.Random(f"{code} {number}").sample(words, k=14)
    return f"{('' if code == 'ja' else ' ').join(chosen)} {number}"


def article(code: str, number: int) -> tuple[str, list[str]]:
    """(markup with every construct, the paragraphs that a reader sees of it)."""
    edition, first, second = EDITIONS[code], sentence(code, 3 * number), sentence(code, 3 * number + 1)
    third = sentence(code, 3 * number + 2)
    word, _, rest = second.partition(" ") if " " in second[:20] else (second[:4], "", second[4:])
    gap = second[len(word) : len(second) - len(rest)]
    text = f"""{{{{Infobox
| name = {{{{nested|a={{{{deeper}}}}}}}}
| list = {{| class="x"
! head
|}}
}}}}
<!-- a comment with [[brackets and {{{{braces -->{first}<ref name="a">A [[book]] {{{{cite|t=x}}}}.</ref><ref name="b" />
[[{edition.file}:Town.jpg|thumb|A caption with a [[link|nested link]] and ''marks''.]]
{{| class="wikitable"
|-
! Year !! People
|-
| 1900 || [[Ten|10]]
|}}

== {word} ==
'''[[Target|{word}]]'''{gap}{rest}&nbsp;{{{{citation needed}}}}
<gallery>
{edition.file}:A.jpg|Caption
</gallery>
=== {word} {word} ===
[https://example.org/x {third}] <nowiki />[[:{edition.category}:X|{word}]]

== {edition.references} ==
<references />
Something about the sources that no one should read here.
=== more ===
Even less of it.
[[{edition.category}:Towns]]
[[de:Stadt]]
"""
    return text, [first, second, f"{third} {word}"]


def dump(code: str, *, articles: int = 12) -> str:
    """A whole dump: articles, and what is none: a redirect of each kind, a disambiguation, a template, a module."""
    edition = EDITIONS[code]
    pages = [page(f"T{n}", article(code, n)[0], number=n + 10) for n in range(articles)]
    list_of_meanings = "\n".join(f"* [[T{n}]]" for n in range(5))
    pages[2:2] = [
        page("R1", f"{edition.redirect} [[T1]]", number=1, redirect="T1"),
        page("R2", f"{edition.redirect} [[T2]]", number=2),
        page("D", f"{edition.sentences[0]}\n{list_of_meanings}\n{edition.disambiguation}", number=3),
        page(f"{edition.template}:X", edition.sentences[1], number=4, ns=10),
        page("Module", edition.sentences[2], number=5, model="Scribunto"),
    ]
    return head(code) + "".join(pages) + "</mediawiki>\n"


SKIPPED = {"redirect": 2, "disambiguation page": 1, "page of another namespace": 1, "page that is not wiki markup": 1}


def multistream(text: str, path: Path) -> Path:
    """The dump as the multistream files are: the head, blocks of pages and the end, a bzip2 stream each."""
    first, *pages = text.split("  <page>\n")
    blocks: Sequence[str] = [first, *(f"  <page>\n{body}" for body in pages)]
    blocks = [*blocks[:-1], blocks[-1].removesuffix("</mediawiki>\n"), "</mediawiki>\n"]
    path.write_bytes(b"".join(bz2.compress(block.encode()) for block in blocks))
    return path
