import json
import struct
import zlib
from collections import Counter
from html.parser import HTMLParser

import pytest

from tests.unit.small_data import TEXT, recipe, write_rows, write_teacher, write_texts
from unibert import cli
from unibert.data import report, tokenizing
from unibert.data.report import html
from unibert.languages import LANGUAGES

CODES = tuple(TEXT)
HOSTILE = '</blockquote><script>alert("x")</script><img src=x onerror=alert(1)> & \'"'
REASONS = {"clean": ["markup", "script", "a_reason_of_tomorrow"], "dedup": ["duplicate", "over_cap"]}
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Demands that every tag is closed in its order, and keeps what a reader sees."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], Counter(), [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open
        self.text = " ".join(self.words)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_texts(folder, codes=CODES)
    write_teacher(folder / "teacher", codes=CODES)
    small = recipe(folder, languages=CODES, tokenizer={"max_pieces": 60})
    tokenizing.run(small)
    cleaned = {code: {"kept": 70, "markup": 20, "script": 3, "a_reason_of_tomorrow": 1} for code in CODES}
    clean = {code: {"rows": 60, "dropped": {**cleaned[code], "duplicate": 7, "over_cap": 3}} for code in CODES}
    for counts in clean.values():
        del counts["dropped"]["kept"]
    for stage, languages in {"cleaned": cleaned, "clean": clean}.items():
        (folder / stage).mkdir(exist_ok=True)
        (folder / stage / "report.json").write_text(json.dumps({"languages": languages}))
    write_samples(folder / "cleaned", "clean")
    stamp = {"licence": "CC0 & more", "rows": 40, "languages": {"en": 30, "ar": 10}, "packages": ["a<b>"]}
    (folder / "raw").mkdir()
    manifest = {"sources": {"wiki/1": stamp, "wiki/2": stamp}, "skipped": {"lost": "no registry"}}
    (folder / "raw" / "manifest.json").write_text(json.dumps(manifest))
    return small


def write_samples(folder, stage):
    rows = [
        {"language": code, "stage": stage, "reason": reason, "id": f"{code}:{reason}:{i}", "text": f"{HOSTILE} {code}"}
        for code in CODES
        for reason in REASONS[stage]
        for i in range(7)
    ]
    write_rows(folder / "dropped.jsonl", rows)


def test_the_page_has_everything_and_is_well_formed(small):
    path, *charts = report.write(small)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    for code in CODES:
        assert f"{LANGUAGES[code].name} · {code}" in page.text
        assert page.words.count(f"clean · markup · {code}:markup:0") == 1
        assert f"{code}:markup:4" in page.text and f"{code}:markup:5" not in page.text
    for reason in (*REASONS["clean"], *REASONS["dedup"]):
        assert reason in page.words
    # 6 languages x 7, and none of what the stage before has counted
    assert page.words[page.words.index("duplicate") + 1] == "42"
    assert page.words.count("markup") == 1
    assert "no samples of what dedup dropped" in page.text and "no samples of what clean" not in page.text
    assert page.words[page.words.index("wiki") + 1 : page.words.index("wiki") + 4] == ["CC0 & more", "80", "2"]
    assert "Sources: wiki 60" in page.text and "left out: lost, no registry" in page.text
    assert "documents are packed into" in page.text and "padding" in page.text
    assert page.tags["img"] == len(charts) == 5


def test_hostile_text_stays_text_and_nothing_is_fetched(small):
    page = Page((report.write(small)[0]).read_text(encoding="utf-8"))
    assert f"{HOSTILE} ar" in page.words
    assert page.tags["script"] == page.tags["link"] == page.tags["iframe"] == 0
    names = Counter(name for name, _ in page.attributes)
    assert not any(name.startswith("on") for name in names)
    targets = [value for name, value in page.attributes if name in ("src", "href")]
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in targets)
    ids = {value for name, value in page.attributes if name == "id"}
    assert {value[1:] for value in targets if value.startswith("#")} <= ids
    assert names["dir"] == 5 * len(CODES) * len(REASONS["clean"])  # every sample in its own direction


def pixels(path):
    """(width, height) of a PNG whose checksums are right."""
    data, at, kinds = path.read_bytes(), 8, []
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        body = data[at + 4 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(body)
        kinds.append(body[:4])
        at += 12 + length
    assert kinds[0] == b"IHDR" and kinds[-1] == b"IEND"
    return struct.unpack(">II", data[16:24])


def test_charts_are_pictures_and_the_same_every_time(small):
    charts = report.write(small)[1:]
    before = [path.read_bytes() for path in charts]
    assert {path.name for path in charts} >= {"shares.png", "dropped.png", "lengths.png"}
    for path in charts:
        width, height = pixels(path)
        assert 500 < width < 1200 and height > 100
    assert [path.read_bytes() for path in report.write(small)[1:]] == before


def test_inspect_says_where_the_report_is(small, tmp_path, capsys):
    path = tmp_path / "small.toml"
    path.write_text(
        f'name = "small"\nlanguages = {json.dumps(CODES)}\n[data]\nfolder = "{small.data.folder}"\n'
        "max_sequence_tokens = 32\n[teacher]\n[train]\nsteps = 10\nglobal_batch_sequences = 16\n"
        "micro_batch_sequences = 4\n[objectives.masked_lm]\n"
    )
    cli.main(["data", "inspect", str(path)])
    said = capsys.readouterr().out
    assert "[_]" in said and f"{small.data.folder}/report.html" in said.replace("\n", "")


def test_shards_alone_are_enough(small, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for part in ("shards", "shards_heldout", "tokenizer"):
        (folder / part).symlink_to(small.data.folder / part)
    alone = small.model_copy(update={"data": small.data.model_copy(update={"folder": folder})})
    page = Page(report.write(alone)[0].read_text(encoding="utf-8"))
    assert "what clean dropped is not known" in page.text and "raw/manifest.json is not there" in page.text


def test_text_is_escaped_everywhere():
    parts = [
        html.paragraph(HOSTILE),
        html.bullets([HOSTILE]),
        html.tiles([(HOSTILE, HOSTILE)]),
        html.table([HOSTILE], [[html.cell(HOSTILE), html.cell(HOSTILE + "ü", part=0.5)]]),
        html.folded(HOSTILE, html.sample(HOSTILE, label=HOSTILE)),
        html.section(HOSTILE, HOSTILE),
        html.picture(b"", alt=HOSTILE, width=1),
    ]
    page = Page(html.page(HOSTILE, parts))
    assert page.tags["script"] == 0 and page.tags["img"] == 1 and page.words.count(HOSTILE) == 12
