"""What wiki pages of each language call things: disambiguation templates and titles, sections that are not prose.

English words serve in every language, since small Wikipedias use them; in a language that is not here, references and
links go by wikitext's rule for lists, and a disambiguation page with an own template's name by the same rule alone.
"""

from __future__ import annotations

from functools import cache

_ENGLISH_TEMPLATES = """disambiguation, disambig, disamb, dab, disambig-cleanup, disambiguation cleanup, hndis, geodis,
human name disambiguation, place name disambiguation, mathematical disambiguation, schooldis, airport disambiguation,
letter-number combination disambiguation, numberdis, roaddis, hospitaldis, set index article, sia"""

# language: template names; the word in brackets at the end of a title
_DISAMBIGUATION = """
af dubbelsinnig; dubbelsinnig
ar توضيح, صفحة توضيح; توضيح
az dəqiqləşdirmə; dəqiqləşdirmə
be неадназначнасць; неадназначнасць
bg пояснение, пояснителна страница; пояснение
bn দ্ব্যর্থতা নিরসন; দ্ব্যর্থতা নিরসন
ca desambiguació, biografies; desambiguació
cs rozcestník; rozcestník
cy gwahaniaethu; gwahaniaethu
da flertydig, flertydig1; flertydig
de begriffsklärung; begriffsklärung
el αποσαφήνιση; αποσαφήνιση
en ; disambiguation
es desambiguación, des; desambiguación
et täpsustuslehekülg, täpsustus; täpsustus
eu argipen; argipena
fa ابهام‌زدایی, ابهام زدایی; ابهام‌زدایی
fi täsmennyssivu; täsmennyssivu
fr homonymie, homonymes, paronymie, patronyme, arrondissements homonymes; homonymie
gl homónimos, desambiguación; homónimos
he פירושונים; פירושונים
hi बहुविकल्पी शब्द, बहुविकल्पी; बहुविकल्पी
hr razdvojba, preusmjerenje; razdvojba
hu egyért, egyértelműsítő lap; egyértelműsítő lap
hy բազմիմաստություն, բի; այլ կիրառումներ
id disambig, disambiguasi; disambiguasi
is aðgreining; aðgreining
it disambigua; disambigua
ja aimai, 曖昧さ回避, 人名の曖昧さ回避, 地名の曖昧さ回避; 曖昧さ回避
ka მრავალმნიშვნელოვანი; მრავალმნიშვნელოვანი
kk айрық; айрық
ko 동음이의, 동명이인, 동음이의어 문서; 동음이의
lt nuorodinis, disambig; reikšmės
lv nozīmju atdalīšana; nozīmju atdalīšana
mk појаснување; појаснување
ms nyahkekaburan; nyahkekaburan
nb peker, etternavn; andre betydninger
nl dp, dpintro, doorverwijspagina; doorverwijspagina
nn fleirtyding; fleirtyding
pl ujednoznacznienie; ujednoznacznienie
pt desambiguação, desambig; desambiguação
ro dezambiguizare, dezambig; dezambiguizare
ru неоднозначность, многозначность, disambig, однофамильцы, тёзки; значения
sk rozlišovacia stránka; rozlišovacia stránka
sl razločitev; razločitev
sr вишезначна одредница, вишезначник; вишезначна одредница
sv förgrening, gren, namnförgrening, ortnamnsförgrening; olika betydelser
ta பக்கவழி நெறிப்படுத்தல்; பக்கவழி நெறிப்படுத்தல்
th แก้กำกวม, คำกำกวม; แก้ความกำกวม
tr anlam ayrımı; anlam ayrımı
uk багатозначність, неоднозначність, disambig; значення
ur ضد ابہام; ضد ابہام
vi trang định hướng, định hướng; định hướng
zh 消歧义, 消歧義, 消歧义页, disambig, 人名消歧义, 地名消歧义; 消歧义
"""

_ENGLISH_SECTIONS = """references, external links, external link, see also, further reading, bibliography, sources,
notes, footnotes, notes and references, citations, works cited"""

_SECTIONS = """
ar مراجع, المراجع, المصادر, مصادر, وصلات خارجية, روابط خارجية, انظر أيضا, انظر أيضًا, اقرأ أيضا, اقرأ أيضًا, هوامش
bg източници, външни препратки, вижте също, бележки, литература
ca referències, enllaços externs, vegeu també, bibliografia, notes
cs reference, externí odkazy, související články, literatura, poznámky, odkazy
da referencer, eksterne henvisninger, se også, kilder, litteratur, noter
de einzelnachweise, weblinks, siehe auch, literatur, quellen, anmerkungen, fußnoten
el παραπομπές, εξωτερικοί σύνδεσμοι, δείτε επίσης, πηγές, βιβλιογραφία, σημειώσεις
es referencias, enlaces externos, véase también, bibliografía, notas, fuentes
fa منابع, پانویس, پیوند به بیرون, جستارهای وابسته, یادداشت‌ها
fi lähteet, aiheesta muualla, katso myös, viitteet, kirjallisuutta
fr références, liens externes, voir aussi, bibliographie, notes, notes et références, articles connexes, annexes
he הערות שוליים, קישורים חיצוניים, ראו גם, לקריאה נוספת, מקורות
hi सन्दर्भ, संदर्भ, बाहरी कड़ियाँ, इन्हें भी देखें
hu források, jegyzetek, további információk, kapcsolódó szócikkek, irodalom
hy ծանոթագրություններ, արտաքին հղումներ, տես նաև, գրականություն
id referensi, pranala luar, lihat pula, lihat juga, daftar pustaka, catatan kaki
it note, collegamenti esterni, voci correlate, bibliografia, altri progetti
ja 脚注, 出典, 参考文献, 関連項目, 外部リンク, 注釈, 関連文献
ko 각주, 외부 링크, 같이 보기, 참고 문헌, 참고문헌, 출처
nb referanser, eksterne lenker, se også, litteratur, kilder
nl referenties, externe links, externe link, zie ook, literatuur, bronnen, noten en/of referenties
pl przypisy, linki zewnętrzne, zobacz też, bibliografia, uwagi
pt referências, ligações externas, ver também, bibliografia, notas
ro referințe, note, legături externe, vezi și, bibliografie, lectură suplimentară
ru примечания, ссылки, см. также, литература, источники, комментарии
sr референце, спољашње везе, види још, литература, извори
sv referenser, externa länkar, se även, källor, litteratur, noter, fotnoter
th อ้างอิง, แหล่งข้อมูลอื่น, ดูเพิ่ม
tr kaynakça, dış bağlantılar, ayrıca bakınız, notlar, kaynaklar
uk примітки, посилання, див. також, література, джерела, виноски
vi tham khảo, liên kết ngoài, xem thêm, chú thích, ghi chú
zh 参考文献, 參考文獻, 外部链接, 外部連結, 参见, 參見, 参考资料, 參考資料, 注释, 註釋, 延伸阅读, 相关条目
"""

NAMESPACES = frozenset("file image media category template user wikipedia portal help module special talk".split())
"""English prefixes, which work in every Wikipedia; a dump's head says the language's own."""


def _names(text: str) -> frozenset[str]:
    return frozenset(name for part in text.split(",") if (name := " ".join(part.split()).casefold()))


def _line(table: str, language: str) -> str:
    lines = (line.partition(" ") for line in table.strip().splitlines())
    return next((rest for code, _, rest in lines if code == language), "")


@cache
def disambiguation_templates(language: str) -> frozenset[str]:
    """Names of the templates that mark a disambiguation page, case folded."""
    return _names(_ENGLISH_TEMPLATES) | _names(_line(_DISAMBIGUATION, language).partition(";")[0])


@cache
def disambiguation_title(language: str) -> str:
    """The word in brackets at the end of such a page's title, case folded; English's where it is not known."""
    return _line(_DISAMBIGUATION, language).partition(";")[2].strip().casefold() or "disambiguation"


@cache
def dropped_sections(language: str) -> frozenset[str]:
    """Headings of sections that are references, links or literature, case folded."""
    return _names(_ENGLISH_SECTIONS) | _names(_line(_SECTIONS, language))
