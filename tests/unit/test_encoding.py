"""Word by word or whole: the same tokens as the library gives whole texts, on text that was made to be difficult."""

import random
import unicodedata
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from tests.unit.small_data import SPECIALS, TEXT, lines, write_teacher
from unibert.data import encoding
from unibert.data.encoding import Encoder, TextFacts, splits_at_spaces
from unibert.data.lines import write_json
from unibert.data.shard_format import SpecialIds, TokenizerFacts

ZWNJ, ZWJ = "\u200c", "\u200d"
WORDS = [
    *(word for code in TEXT for text in TEXT[code] for word in text.split()),
    f"می{ZWNJ}خواهم", f"{ZWNJ}می", f"می{ZWNJ}", f"क्{ZWJ}ष", ZWJ, ZWNJ,
    "\u0301a", "e\u0301", "\u093f", "\u0e31", "ﬁ", "①", "½", "ｶﾞ", "Å", "\u1e9b\u0323", "한글", "\u1112\u1161\u11ab",
    "👩\u200d👩\u200d👧\u200d👦", "🇩🇪", "👍🏽", "❤\ufe0f", "\u0600123", "\u06dd١٢", "\u08e2x", "\U000110bd१",
    "<s>", "</s>", "<mask>", "a<pad>b", "<unk", "[MASK]", "[CLS]", "##ab", "▁", "a▁b", "\u2581\u2581", "_",
    "\ufeff", "x\ufeff", "\u00ad", "so\u00adft", "\u2060", "\u061c", "\u202e", "\x07", "a\x07", "\x00", "\x85", "\x1f",
    "\ufffd", "\ufdfa", "\u0344", "\u1100\u1161", "\u2000", "\u180e", "\u115f", "\u3164", "\u034f", "\ue000", "𐍈",
    "…", "...", "http://a.b/c?d=e", "C++", "don't", "3,5", "１２", "ſ", "İ", "ß", "㍿", "\u0378", "\u302a", "\u20dd",
]  # fmt: skip
SPACES = [
    " ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u2003", "\u2028", "\u2029", "\u1680", "\u205f", "\u200b",
    "\x0b", "\x0c", "\x1c", " \u0301", "\u200d ", " \u200c", "", "", "-",
]  # fmt: skip
# As SentencePiece's nmt_nfkc, that of XLM-R and multilingual-e5.
NMT_NFKC = [
    normalizers.Replace(Regex(r"[\x01-\x08\x0b\x0e-\x1f\x7f\u008f\u009f]"), ""),
    normalizers.Replace(Regex(r"[\t\n\x0c\r\u1680\u200b-\u200f\u2028\u2029\u2581\ufeff\ufffd]"), " "),
    normalizers.NFKC(),
    normalizers.Replace(Regex(" {2,}"), " "),
]


def documents(count: int, *, seed: int) -> list[str]:
    chance = random.Random(seed)
    plain = [text for code in TEXT for text in lines(code, count=20)]
    hostile = (
        "".join(chance.choice(WORDS) + chance.choice(SPACES if chance.random() < 0.3 else [" "]) for _ in range(length))
        for length in (chance.randrange(12) for _ in range(count))
    )
    # No document begins or ends with a space: cleaning strips them.
    return [text.strip() for text in (*plain, "", *WORDS, *SPACES, *hostile)]


def unigram(folder: Path) -> Tokenizer:
    """small_data's teacher with XLM-R's normaliser, and pieces that a wrong cut would show."""
    write_teacher(folder, codes=tuple(TEXT))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.normalizer = normalizers.Sequence(NMT_NFKC)
    return tokenizer


def wordpiece(folder: Path) -> Tokenizer:
    characters = sorted({char for word in WORDS for char in unicodedata.normalize("NFD", word) if not char.isspace()})
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*names, *characters, *(f"##{char}" for char in characters), "the", "##ile", "page", "##ed"]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # type: ignore[call-arg]
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(names)
    return tokenizer


MAKERS = {
    "unigram": (unigram, dict(zip(("cls", "pad", "sep", "unk", "mask"), SPECIALS, strict=True))),
    "wordpiece": (wordpiece, {name.lower(): f"[{name}]" for name in ("CLS", "PAD", "SEP", "UNK", "MASK")}),
}


@pytest.fixture(params=MAKERS)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Encoder, Tokenizer]:
    make, roles = MAKERS[request.param]
    tokenizer = make(tmp_path)
    return encoder_of(tmp_path, tokenizer, roles), tokenizer


def encoder_of(folder: Path, tokenizer: Tokenizer, roles: dict[str, str]) -> Encoder:
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {f"{role}_token": name for role, name in roles.items()})
    return Encoder(folder, facts=TokenizerFacts.read(folder), max_sequence_tokens=64)


def test_word_by_word_is_what_the_library_gives_for_whole_texts(made: tuple[Encoder, Tokenizer]) -> None:
    encoder, tokenizer = made
    assert encoder.word_by_word
    texts = documents(4000, seed=1)
    found = encoder.ids(texts)
    for text, ids, whole in zip(texts, found, tokenizer.encode_batch(texts, add_special_tokens=False), strict=True):
        assert ids == whole.ids, (text, [tokenizer.id_to_token(i) for i in ids], whole.tokens)


def test_most_documents_are_cut_into_words_that_are_remembered(
    made: tuple[Encoder, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, _ = made
    asked: list[str] = []
    library = encoder._whole
    monkeypatch.setattr(encoder, "_whole", lambda texts: asked.extend(texts) or library(texts))
    plain = [text for code in TEXT for text in lines(code, count=40)]
    encoder.ids(plain)
    words = " ".join(asked).split()
    assert not set(asked) & set(plain) and len(words) == len({word for text in plain for word in text.split()})
    asked.clear()
    encoder.ids(plain)
    assert all(len(word) > encoding.LONGEST_WORD for word in " ".join(asked).split())
    whole = ["Use <mask> or [MASK] here", f"a word that ends so{ZWNJ} here"]
    encoder.ids(whole)
    assert set(whole) <= set(asked)


def test_a_full_memory_of_words_is_begun_anew(made: tuple[Encoder, Tokenizer], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, tokenizer = made
    monkeypatch.setattr(encoding, "WORDS_KEPT", 10)
    for code in TEXT:
        texts = lines(code, count=5)
        assert encoder.ids(texts) == [found.ids for found in tokenizer.encode_batch(texts, add_special_tokens=False)]
        assert len(encoder._words) < 10 + sum(len(set(text.split())) for text in texts)


@pytest.mark.parametrize(
    ("pre_tokenizer", "splits"),
    [
        (pre_tokenizers.Metaspace(), True),
        (pre_tokenizers.Metaspace(prepend_scheme="first"), False),  # the first word is not like the others
        (pre_tokenizers.Metaspace(prepend_scheme="never"), False),
        (pre_tokenizers.Metaspace(split=False), False),
        (pre_tokenizers.BertPreTokenizer(), True),
        (pre_tokenizers.ByteLevel(), False),
        (pre_tokenizers.Whitespace(), False),
        (None, False),
    ],
)
def test_which_tokenizers_go_by_words(tmp_path: Path, pre_tokenizer: object, splits: bool) -> None:
    tokenizer = wordpiece(tmp_path)
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer  # type: ignore[assignment]
    else:
        tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))  # type: ignore[call-arg]
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert splits_at_spaces(tmp_path) == splits


def test_a_tokenizer_that_needs_whole_texts_gets_them(tmp_path: Path) -> None:
    tokenizer = unigram(tmp_path)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    encoder = encoder_of(tmp_path, tokenizer, MAKERS["unigram"][1])
    assert not encoder.word_by_word
    texts = documents(300, seed=2)
    assert encoder.ids(texts) == [found.ids for found in tokenizer.encode_batch(texts, add_special_tokens=False)]


def test_counts_add_up(made: tuple[Encoder, Tokenizer]) -> None:
    encoder, _ = made
    texts = documents(200, seed=3)
    counted, parts = TextFacts(), TextFacts()
    flat, lengths = encoder.encode(texts, counted=counted)
    again = [encoder.encode(texts[at : at + 50], counted=parts) for at in range(0, len(texts), 50)]
    assert flat.tolist() == [token for ids, _ in again for token in ids.tolist()]
    assert counted == parts and counted.documents == len(texts) and counted.characters == sum(map(len, texts))
    total = TextFacts()
    total.add(vars(counted))
    total.add(vars(parts))
    assert total.pieces == 2 * counted.pieces and total.as_json()["checked"] == 2 * counted.checked
    special: SpecialIds = encoder.special
    ordinary = len(flat) - 2 * len(lengths)
    unknown_alone = counted.pieces - counted.special_strings - counted.dropped_pieces - ordinary
    assert 0 <= unknown_alone <= counted.unknown_pieces  # of documents and pieces without an ordinary token
    assert special.mask not in flat and special.pad not in flat and (flat == special.cls).sum() == len(lengths)
