"""Articles as `wikimedia/wikipedia` has them, in eight scripts: what is no running text goes, and nothing else."""

import pytest

from unibert.data.curation.sections import judge
from unibert.data.sources import wiki_words
from unibert.languages import LANGUAGES

# Each line: the reason (`-` for none), a bar, the paragraph.
ARTICLES = {
    "en": """
-|The Lorna is a river in the north of the country. It rises in the hills above Ashwick and flows east for ninety miles.
-|Its valley was settled early, and several market towns lie on its banks.
heading|History
heading|Early settlement
-|People lived in the valley long before the first written record of 1086. Traces of their huts were found near Holm.
-|"Nobody knows", wrote the vicar in 1731, "why they left."
heading|Economy
-|Until the nineteenth century the mills along the river ground corn for the whole county. Three of them still stand.
list|Ashwick Mill
list|Holm Mill (ruin)
list|The Old Paper Mill at Easton
list|Lower Lock
heading|See also
section|Rivers of the north
section|List of mills
heading|References
section|Smith, John (1990). The Lorna and Its Mills. London: Penguin. ISBN 0-14-000000-0.
heading|Further reading
section|Brown, Ann. A Valley in the North. Oxford University Press, 1985.
heading|External links
section|Official website of the valley
""",
    "de": """
-|Die Lorna ist ein Fluss im Norden des Landes. Sie entspringt in den Hügeln und fließt nach Osten.
heading|Literatur und Musik
-|Der Fluss wird in vielen Liedern besungen. Auch ein Roman spielt an seinem Ufer, und zwar vor allem im Winter.
heading|Literatur
-|Schon die ältesten Dichter des Landes haben den Fluss beschrieben, und kaum ein Roman kommt ohne ihn aus.
-|Besonders bekannt wurde die Erzählung von dem Müller, der seine Mühle verlor und am Ufer ein neues Leben begann.
heading|Weblinks
section|Bilder der Lorna im Landesarchiv
heading|Einzelnachweise
section|Hans Meier: Die Lorna. Verlag Nord, Kiel 1990, S. 12.
section|Statistisches Amt, abgerufen am 3. Mai 2019.
""",
    "ru": """
-|Лорна — река на севере страны. Берёт начало в холмах и течёт на восток, впадая в море у города Истона.
-|Первые поселения в долине реки известны с одиннадцатого века. Раскопки велись здесь многие годы, но закончены не были.
heading|Хозяйство
-|До девятнадцатого века мельницы на реке мололи зерно для всего края. Три сохранились до наших дней, одна стала музеем.
heading|См. также
section|Реки севера
heading|Примечания
section|Иванов И. И. Река Лорна. — М.: Наука, 1990. — 120 с.
heading|Ссылки
section|Официальный сайт долины
""",
    "ar": """
-|لورنا نهر في شمال البلاد، ينبع من التلال ويجري شرقا مسافة مئة وخمسين كيلومترا حتى يصب في البحر.
-|سكن الناس واديه منذ القدم، وتقع على ضفتيه مدن عدة اشتهرت بأسواقها وطواحينها القديمة، ولا يعرف أحد متى بنيت أولاها.
heading|الاقتصاد
-|كانت الطواحين القائمة على النهر تطحن القمح للإقليم كله حتى القرن التاسع عشر، ولا تزال ثلاث منها قائمة إلى اليوم.
heading|انظر أيضا
section|أنهار الشمال
heading|المراجع
section|أحمد علي، نهر لورنا، دار النشر، القاهرة، 1990.
heading|وصلات خارجية
section|الموقع الرسمي للوادي
""",
    "hi": """
-|लोर्ना देश के उत्तर में बहने वाली एक नदी है। यह पहाड़ियों से निकलती है और पूर्व की ओर बहती हुई समुद्र में मिलती है।
-|इसकी घाटी में लोग बहुत पहले से रहते आए हैं और इसके किनारे कई नगर बसे हुए हैं।
heading|अर्थव्यवस्था
-|उन्नीसवीं सदी तक नदी की चक्कियाँ पूरे ज़िले का अनाज पीसती थीं। उनमें से तीन आज भी खड़ी हैं और एक संग्रहालय बन गई है।
heading|इन्हें भी देखें
section|उत्तर की नदियाँ
heading|सन्दर्भ
section|शर्मा, राम (1990)। लोर्ना नदी। दिल्ली।
heading|बाहरी कड़ियाँ
section|घाटी का आधिकारिक जालस्थल
""",
    "zh": """
-|洛娜河是该国北部的一条河流，发源于山地，向东流经多座城镇，最后注入大海，全长约一百五十公里。
heading|历史
-|早在有文字记载之前，河谷中就已有人居住。考古学家在霍姆附近发现了他们的房屋遗迹，但离开的原因至今不明。
heading|经济
-|直到十九世纪，沿河的磨坊为全郡加工粮食，其中三座保存至今，一座成为博物馆，每年接待大量游客。
list|阿什威克磨坊
list|霍姆磨坊
list|伊斯顿造纸厂
heading|参见
section|北部河流列表
heading|参考资料
section|王明：《洛娜河志》，北京出版社，1990年。
heading|外部链接
section|官方网站
""",
    "ja": """
-|ロルナ川は国の北部を流れる川である。山地に源を発し、東へ流れて海に注ぐ。流域には古くから人が住んでいた。
heading|歴史
-|文字による記録が現れるよりはるか以前から谷には人が住んでおり、ホルムの近くで住居の跡が発見されている。
-|その後、川沿いには多くの水車小屋が建てられ、十九世紀まで郡全体の穀物を挽いていた。三つが今も残っている。
heading|脚注
section|山田太郎『ロルナ川の歴史』北出版社、1990年、12頁。
heading|関連項目
section|北部の川の一覧
heading|外部リンク
section|公式サイト
""",
    "th": """
-|แม่น้ำลอร์นาเป็นแม่น้ำทางตอนเหนือของประเทศ มีต้นกำเนิดจากเทือกเขาและไหลไปทางทิศตะวันออกผ่านเมืองหลายเมืองก่อนลงสู่ทะเล
heading|ประวัติ
-|มีผู้คนอาศัยอยู่ในหุบเขานี้มาตั้งแต่ก่อนมีการจดบันทึกเป็นลายลักษณ์อักษร นักโบราณคดีพบซากที่อยู่อาศัยใกล้หมู่บ้านโฮล์ม
-|จนถึงศตวรรษที่สิบเก้า โรงสีริมแม่น้ำยังคงสีข้าวให้แก่ทั้งมณฑล และสามแห่งในจำนวนนั้นยังคงอยู่มาจนถึงทุกวันนี้
heading|ดูเพิ่ม
section|รายชื่อแม่น้ำ
heading|อ้างอิง
section|เว็บไซต์ทางการ
""",
}


def article(code: str) -> tuple[list[str | None], list[str]]:
    pairs = [line.partition("|") for line in ARTICLES[code].strip().splitlines()]
    return [None if reason == "-" else reason for reason, _, _ in pairs], [text for _, _, text in pairs]


@pytest.mark.parametrize("code", ARTICLES)
def test_article(code: str) -> None:
    reasons, paragraphs = article(code)
    assert judge(paragraphs, code) == reasons


@pytest.mark.parametrize("code", ARTICLES)
def test_running_text_alone_is_left_whole_and_too_little_of_it_is_a_stub(code: str) -> None:
    reasons, paragraphs = article(code)
    text = [text for text, reason in zip(paragraphs, reasons, strict=True) if reason is None]
    assert judge(text * 3, code) == [None] * len(text) * 3
    assert judge(text[:1], code) == ["stub"]
    heading = paragraphs[max(at for at, reason in enumerate(reasons) if reason == "heading")]
    assert judge([*text[:1], "1901", heading, "1902"], code) == ["stub", "list", "heading", "section"]


def test_a_section_without_a_known_name_or_with_prose_ends_the_references() -> None:
    prose = "They came back in spring and rebuilt the houses by the river, one after the other. " * 3
    body = [prose, "References", "Smith, J. (1990). A Book.", "Culture", prose, "Notes", prose]
    assert judge(body, "en") == [None, "heading", "section", "heading", None, "heading", None]
    body[4] = "Jones, A. (1985). Another Book. London."
    assert judge(body[:5], "en") == ["stub", "heading", "section", "heading", "section"]


def test_lines_of_figures_and_unfinished_lines_are_lists() -> None:
    prose = ["The club has played in the first division since it was founded by the miners of the valley."] * 4
    table = ["1999–2003: FC Holm", "2003–2004: SV Easton 12 (3)", "24. 12. 1999"]
    assert judge([*prose, *table, *prose], "en") == [None] * 4 + ["list"] * 3 + [None] * 4
    items = ["• It rises in the hills.", "• It flows to the sea.", "• It is long."]
    assert judge([*prose, *items, *prose], "en")[4:7] == ["list"] * 2 + ["heading"]
    laws = [
        f"Whereas it is essential to promote the development of friendly relations between nations {n}," for n in "abcd"
    ]
    assert judge([*laws, *prose], "en") == [None] * 8  # unfinished, but long, and they go on


def test_verses_without_stops_are_told_by_length() -> None:
    verses = ["And the river went down to the sea, and the hills were glad of it and of all that was in it"] * 8
    verses[3] = "And it was so from that day on unto this day"
    assert judge(verses, "en") == [None] * 8
    assert judge([*verses, "Selah"], "en")[-1] == "list"


def test_an_empty_document_and_empty_paragraphs() -> None:
    assert judge([], "en") == [] and judge(["", " "], "en") == ["list", "list"]


def test_almost_every_language_has_words_for_its_sections() -> None:
    english = wiki_words.dropped_sections("en")
    assert [code for code in LANGUAGES if not wiki_words.dropped_sections(code) - english] == ["en", "new"]
    assert wiki_words.dropped_sections("zh-hant") == wiki_words.dropped_sections("zh")
    assert "আরও পড়ুন" in {name.replace("ড়", "ড়") for name in wiki_words.dropped_sections("bn")}
