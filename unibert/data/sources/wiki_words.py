"""What wiki pages of each language call things: disambiguation templates and titles, sections that are not prose.

English words serve in every language, since small Wikipedias use them; in a language that is not here, references and
links go by wikitext's rule for lists, and a disambiguation page with an own template's name by the same rule alone.
"""

from __future__ import annotations

import unicodedata
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
notes, footnotes, notes and references, citations, works cited, gallery, image gallery, photo gallery"""

_SECTIONS = """
af verwysings, eksterne skakels, sien ook, bronne, bronnelys, verdere leesstof, notas, voetnote
am ማጣቀሻ, የውጭ መያያዣዎች
an referencias, vinclos externos, se veiga tamién, bibliografía
ar مراجع, المراجع, المصادر, مصادر, وصلات خارجية, روابط خارجية, انظر أيضا, انظر أيضًا, اقرأ أيضا, اقرأ أيضًا, هوامش
ast referencies, enllaces esternos, ver tamién, bibliografía, notes, fontes
az istinadlar, i̇stinadlar, xarici keçidlər, həmçinin bax, mənbə, mənbələr, ədəbiyyat, qeydlər
azb قایناقلار, ائشیک باغلانتیلار, هابئله باخ
ba иҫкәрмәләр, һылтанмалар, шулай уҡ ҡарағыҙ, әҙәбиәт, сығанаҡтар
bar literatua, beleg, im netz
be крыніцы, зноскі, спасылкі, гл. таксама, літаратура, заўвагі
bg източници, външни препратки, вижте също, бележки, литература
bn তথ্যসূত্র, বহিঃসংযোগ, আরও দেখুন, আরো দেখুন, গ্রন্থপঞ্জি, আরও পড়ুন, পাদটীকা, টীকা
bpy তথ্যসূত্র
br notennoù, notennoù ha daveennoù, daveoù, levrlennadur, liammoù diavaez, gwelet ivez
bs reference, vanjski linkovi, također pogledajte, literatura, napomene, izvori, bilješke
ca referències, enllaços externs, vegeu també, bibliografia, notes
ce билгалдахарш, хьажоргаш, литература
ceb ang gi basihan niini, mga pakisayran
cs reference, externí odkazy, související články, literatura, poznámky, odkazy
cv асăрхавсем, каçăсем, асӑрхавсем, каҫӑсем
cy cyfeiriadau, dolenni allanol, dolen allanol, gweler hefyd, llyfryddiaeth, ffynonellau
da referencer, eksterne henvisninger, se også, kilder, litteratur, noter
de einzelnachweise, weblinks, siehe auch, literatur, quellen, anmerkungen, fußnoten
el παραπομπές, εξωτερικοί σύνδεσμοι, δείτε επίσης, πηγές, βιβλιογραφία, σημειώσεις
es referencias, enlaces externos, véase también, bibliografía, notas, fuentes
et viited, välislingid, vaata ka, kirjandus, allikad, märkused
eu erreferentziak, kanpo estekak, ikus gainera, bibliografia, oharrak, oharrak eta erreferentziak
fa منابع, پانویس, پیوند به بیرون, جستارهای وابسته, یادداشت‌ها
fi lähteet, aiheesta muualla, katso myös, viitteet, kirjallisuutta
fr références, liens externes, voir aussi, bibliographie, notes, notes et références, articles connexes, annexes
fy boarnen, keppelings om utens, keppeling om utens, sjoch ek, literatuer, noaten
ga tagairtí, naisc sheachtracha, féach freisin, foinsí
gl notas, véxase tamén, ligazóns externas, outros artigos, bibliografía, referencias
gu સંદર્ભો, સંદર્ભ, બાહ્ય કડીઓ, આ પણ જુઓ
he הערות שוליים, קישורים חיצוניים, ראו גם, לקריאה נוספת, מקורות
hi सन्दर्भ, संदर्भ, बाहरी कड़ियाँ, इन्हें भी देखें
hr izvori, vanjske poveznice, povezani članci, literatura, bilješke, poveznice
ht referans, lyen deyò
hu források, jegyzetek, további információk, kapcsolódó szócikkek, irodalom
hy ծանոթագրություններ, արտաքին հղումներ, տես նաև, գրականություն
id referensi, pranala luar, lihat pula, lihat juga, daftar pustaka, catatan kaki
io referi, extera ligili, videz anke
is tilvísanir, tenglar, ytri tenglar, tengt efni, heimildir
it note, collegamenti esterni, voci correlate, bibliografia, altri progetti
ja 脚注, 出典, 参考文献, 関連項目, 外部リンク, 注釈, 関連文献
jv rujukan, referensi, cathetan suku, pranala njaba, deleng uga, uga delengen
ka სქოლიო, რესურსები ინტერნეტში, იხილეთ აგრეთვე, ლიტერატურა, წყაროები
kk дереккөздер, сілтемелер, сыртқы сілтемелер, тағы қараңыз, пайдаланылған әдебиет, әдебиет
km ឯកសារយោង, តំណភ្ជាប់ខាងក្រៅ, មើលផងដែរ
kn ಉಲ್ಲೇಖಗಳು, ಬಾಹ್ಯ ಕೊಂಡಿಗಳು, ಬಾಹ್ಯ ಸಂಪರ್ಕಗಳು, ಇವನ್ನೂ ನೋಡಿ
ko 각주, 외부 링크, 같이 보기, 참고 문헌, 참고문헌, 출처
ky булактар, шилтемелер, колдонулган адабияттар, дагы караңыз
la notae, nexus externi, nexus interni, vide etiam, bibliographia, fontes
lb referenzen, um spaweck, kuckt och, literatur
lmo riferiment, bibliografia
lt šaltiniai, nuorodos, taip pat skaitykite, literatūra, išnašos, pastabos
lv atsauces, ārējās saites, skatīt arī, literatūra, piezīmes
mg loharano, jereo koa, rohy ivelany, fanamarihana
min rujuakan, referensi, pautan lua, caliak pulo
mk наводи, надворешни врски, поврзано, видете исто така, литература, белешки, извори
ml അവലംബം, അവലംബങ്ങൾ, പുറം കണ്ണികൾ, പുറത്തേക്കുള്ള കണ്ണികൾ, ഇതും കാണുക
mn эшлэл, гадаад холбоос, мөн үзэх
mr संदर्भ, संदर्भ आणि नोंदी, बाह्य दुवे, हे सुद्धा पहा, हेही पहा
ms rujukan, pautan luar, lihat juga, nota kaki, nota, bacaan lanjut, sumber
my ကိုးကား, ကိုးကားချက်များ, ပြင်ပလင့်ခ်များ
nb referanser, eksterne lenker, se også, litteratur, kilder
nds borns, weblenken, kiek ok, kiek ok bi, footnoten, literatur
ne सन्दर्भ, सन्दर्भहरू, सन्दर्भ सामग्रीहरू, बाह्य लिङ्कहरू, यो पनि हेर्नुहोस्
nl referenties, externe links, externe link, zie ook, literatuur, bronnen, noten en/of referenties
nn referansar, kjelder, bakgrunnsstoff, sjå òg, sjå også, litteratur, fotnotar, eksterne lenkjer
oc referéncias, ligams extèrnes, vejatz tanben, veire tanben, bibliografia, nòtas, nòtas e referéncias
pa ਹਵਾਲੇ, ਬਾਹਰੀ ਲਿੰਕ, ਬਾਹਰੀ ਕੜੀਆਂ, ਇਹ ਵੀ ਵੇਖੋ
pl przypisy, linki zewnętrzne, zobacz też, bibliografia, uwagi
pms nòte, arferiment
pnb حوالے, ہور دیکھو, باہرلے جوڑ
pt referências, ligações externas, ver também, bibliografia, notas
ro referințe, note, legături externe, vezi și, bibliografie, lectură suplimentară
ru примечания, ссылки, см. также, литература, источники, комментарии
scn riferimenti, noti
sco freemit airtins, see an aa
sh reference, izvori, vanjske veze, povezano, povezani članci, literatura, napomene, bilješke, vidi još
si මූලාශ්‍ර, බාහිර සබැඳි
sk referencie, externé odkazy, pozri aj, iné projekty, literatúra, zdroje, poznámky
sl sklici, zunanje povezave, glej tudi, viri, literatura, opombe, sklici in opombe
sq referime, referimet, lidhje të jashtme, shiko edhe, shih edhe, burime, burimet, shënime
sr референце, спољашње везе, види још, литература, извори
su rujukan, tumbu luar, tempo ogé
sv referenser, externa länkar, se även, källor, litteratur, noter, fotnoter
sw marejeo, viungo vya nje, tazama pia, tanbihi
ta மேற்கோள்கள், வெளி இணைப்புகள், வெளியிணைப்புகள், இவற்றையும் பார்க்க, உசாத்துணை, சான்றுகள்
te మూలాలు, బయటి లింకులు, బయటి లంకెలు, ఇవి కూడా చూడండి, వనరులు
tg эзоҳ, пайвандҳо, сарчашма, адабиёт, нигаред низ
th อ้างอิง, แหล่งข้อมูลอื่น, ดูเพิ่ม
tl mga sanggunian, sanggunian, mga kawing panlabas, mga panlabas na kawing, tingnan din
tr kaynakça, dış bağlantılar, ayrıca bakınız, notlar, kaynaklar
tt искәрмәләр, сылтамалар, әдәбият, шулай ук карагыз, чыганаклар
uk примітки, посилання, див. також, література, джерела, виноски
ur حوالہ جات, بیرونی روابط, مزید دیکھیے, مزید پڑھیے, حواشی
uz manbalar, havolalar, adabiyotlar, adabiyot, shuningdek qarang, yana qarang, eslatmalar
vi tham khảo, liên kết ngoài, xem thêm, chú thích, ghi chú
vo yüms plödik
war mga kasarigan, mga sumpay ha gawas
yo itokasi, ìtọ́kasí, àwọn ìtọ́kasí
zh 参考文献, 參考文獻, 外部链接, 外部連結, 参见, 參見, 参考资料, 參考資料, 注释, 註釋, 延伸阅读, 相关条目
"""

NAMESPACES = frozenset("file image media category template user wikipedia portal help module special talk".split())
"""English prefixes, which work in every Wikipedia; a dump's head says the language's own."""


def _names(text: str) -> frozenset[str]:
    composed = unicodedata.normalize("NFC", text)
    return frozenset(name for part in composed.split(",") if (name := " ".join(part.split()).casefold()))


def _line(table: str, language: str) -> str:
    lines = dict(line.split(" ", 1) for line in table.strip().splitlines())
    return lines.get(language) or lines.get(language.partition("-")[0], "")


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
