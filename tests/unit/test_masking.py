import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from unibert.data.masking import mask, mask_many
from unibert.data.shard_format import SpecialIds
from unibert.data.words import WordPieces, words_of
from unibert.errors import DataError
from unibert.schema import Masking

SPECIAL = SpecialIds(cls=0, sep=2, pad=1, mask=999, unk=3)
SETTINGS = {"seed": 5, "special": SPECIAL, "vocabulary_size": 1000}
RANDOM = np.random.default_rng(0)
BODY = RANDOM.integers(4, 999, size=60)
DOCUMENT = np.concatenate([[0], BODY, [2]])


def once(ids=DOCUMENT, *, sample_id=7, epoch=0, masking=None, **more):
    return mask(ids, sample_id=sample_id, epoch=epoch, masking=masking or Masking(), **SETTINGS | more)


def many(count, *, masking=None, length=62):
    ids = np.tile(DOCUMENT[:length], count)
    return mask_many(
        ids,
        lengths=np.full(count, length),
        sample_ids=np.arange(count, dtype=np.uint64),
        epochs=np.zeros(count, dtype=np.int64),
        masking=masking or Masking(),
        **SETTINGS,
    )


def test_targets_are_what_was_there_and_the_rest_is_untouched():
    shown, positions, targets = once()
    np.testing.assert_array_equal(targets, DOCUMENT[positions])
    rest = np.setdiff1d(np.arange(len(DOCUMENT)), positions)
    np.testing.assert_array_equal(shown[rest], DOCUMENT[rest])
    assert len(positions) == 9 and (np.diff(positions) > 0).all()  # 15 % of 60
    assert shown.dtype == targets.dtype == np.int64


def test_same_key_same_mask_and_each_part_of_the_key_matters():
    first = once()
    for a, b in zip(first, once(), strict=True):
        np.testing.assert_array_equal(a, b)
    for other in (once(epoch=1), once(sample_id=8), once(seed=6)):
        assert not np.array_equal(first[1], other[1])


def test_together_as_one_by_one():
    lengths = np.array([5, 62, 3, 40])
    documents = [np.concatenate([[0], BODY[: n - 2], [2]]) for n in lengths]
    sample_ids = np.array([3, 1, 4, 2**63 + 5], dtype=np.uint64)
    epochs = np.array([0, 1, 2, 0])
    shown, positions, targets = mask_many(
        np.concatenate(documents), lengths=lengths, sample_ids=sample_ids, epochs=epochs, masking=Masking(), **SETTINGS
    )
    alone = [once(ids, sample_id=int(i), epoch=int(e)) for ids, i, e in zip(documents, sample_ids, epochs, strict=True)]
    starts = np.cumsum(lengths) - lengths
    np.testing.assert_array_equal(shown, np.concatenate([one[0] for one in alone]))
    np.testing.assert_array_equal(positions, np.concatenate([one[1] + s for one, s in zip(alone, starts, strict=True)]))
    np.testing.assert_array_equal(targets, np.concatenate([one[2] for one in alone]))


def test_special_tokens_are_never_targets():
    ids = np.array([0, 3, 10, 3, 1, 999, 11, 3, 2] * 5)
    for sample_id in range(50):
        _, positions, _ = once(ids, sample_id=sample_id, masking=Masking(fraction=1.0))
        np.testing.assert_array_equal(ids[positions], [10, 11] * 5)


def test_at_least_one_target_and_none_without_ordinary_tokens():
    for sample_id in range(50):
        assert len(once(np.array([0, 10, 2]), sample_id=sample_id)[1]) == 1
    shown, positions, targets = once(np.array([0, 3, 2]))
    assert shown.tolist() == [0, 3, 2] and not len(positions) and not len(targets)


@pytest.mark.parametrize("length", [10, 25, 62])
def test_share_of_targets_is_exact_on_average(length):
    _, positions, _ = many(4000, length=length)
    candidates = 4000 * (length - 1 if length < 62 else 60)  # DOCUMENT[:length] has its sep only when whole
    assert abs(len(positions) / candidates - 0.15) < 0.004


def test_eighty_ten_ten():
    shown, positions, targets = many(6000)
    now = shown[positions]
    masked, kept = (now == 999).mean(), (now == targets).mean()
    assert abs(masked - 0.8) < 0.006 and abs(kept - 0.1) < 0.005
    random = now[(now != 999) & (now != targets)]
    assert abs(len(random) / len(now) - 0.1) < 0.005
    assert not np.isin(random, SPECIAL.all()).any()
    counts = np.bincount(random, minlength=1000)
    ordinary = np.setdiff1d(np.arange(1000), SPECIAL.all())
    expected = counts[ordinary].mean()
    assert ((counts[ordinary] - expected) ** 2 / expected).sum() < 995 + 5 * np.sqrt(2 * 995)


def test_every_place_is_equally_likely():
    _, positions, _ = many(6000)
    counts = np.bincount(positions % 62, minlength=62)[1:61]
    assert ((counts - 900) ** 2 / 900).sum() < 60 + 5 * np.sqrt(120)


def test_fractions_are_obeyed():
    shown, positions, targets = once(masking=Masking(fraction=0.5, mask_fraction=0.0, random_fraction=0.0))
    assert len(positions) == 30
    np.testing.assert_array_equal(shown[positions], targets)
    shown, positions, _ = once(masking=Masking(fraction=0.5, mask_fraction=1.0, random_fraction=0.0))
    assert (shown[positions] == 999).all()


def word_pieces(*begins, ends=()):
    flags = np.zeros((2, 1000), dtype=bool)
    flags[0, list(begins)], flags[1, list(ends)] = True, True
    return WordPieces(*flags)


LETTERS = word_pieces(*range(4, 999, 3))  # every third id begins a word


def words_in(ids, pieces=LETTERS):
    """Number of each token's word, -1 for special tokens: one by one."""
    out, number = [], -1
    for i, token in enumerate(ids):
        if token in SPECIAL.all():
            out.append(-1)
            continue
        before = ids[i - 1] if i else 0
        number += int(pieces.begins[token] or before in SPECIAL.all() or pieces.ends[before])
        out.append(number)
    return np.array(out)


def test_a_word_is_masked_whole_or_not_at_all():
    word = words_in(DOCUMENT)
    kinds = set()
    for sample_id in range(200):
        shown, positions, targets = once(sample_id=sample_id, words=LETTERS)
        chosen = np.unique(word[positions])
        np.testing.assert_array_equal(positions, np.flatnonzero(np.isin(word, chosen)))
        np.testing.assert_array_equal(targets, DOCUMENT[positions])
        for number in chosen:
            now, was = shown[word == number], DOCUMENT[word == number]
            kind = "mask" if (now == 999).all() else "kept" if (now == was).all() else "random"
            assert kind != "random" or not (now == 999).any()
            kinds.add(kind)
    assert kinds == {"mask", "kept", "random"}


def test_word_masks_are_a_function_of_seed_document_and_epoch():
    first = once(words=LETTERS)
    for a, b in zip(first, once(words=LETTERS), strict=True):
        np.testing.assert_array_equal(a, b)
    for other in (once(epoch=1, words=LETTERS), once(sample_id=8, words=LETTERS), once(seed=6, words=LETTERS)):
        assert not np.array_equal(first[1], other[1])
    lengths = np.array([62, 3, 40])
    documents = [np.concatenate([[0], BODY[: n - 2], [2]]) for n in lengths]
    _, positions, _ = mask_many(
        np.concatenate(documents),
        lengths=lengths,
        sample_ids=np.array([7, 1, 4], dtype=np.uint64),
        epochs=np.zeros(3, dtype=np.int64),
        masking=Masking(),
        words=LETTERS,
        **SETTINGS,
    )
    np.testing.assert_array_equal(positions[positions < 62], first[1])


@pytest.mark.parametrize(("length", "tolerance"), [(25, 0.006), (62, 0.003)])
def test_share_of_targets_in_words_is_exact_on_average(length, tolerance):
    count = 6000
    ids = np.tile(DOCUMENT[:length], count)
    shown, positions, targets = mask_many(
        ids,
        lengths=np.full(count, length),
        sample_ids=np.arange(count, dtype=np.uint64),
        epochs=np.zeros(count, dtype=np.int64),
        masking=Masking(),
        words=LETTERS,
        **SETTINGS,
    )
    candidates = count * (length - 1 if length < 62 else 60)
    assert abs(len(positions) / candidates - 0.15) < tolerance
    assert len(np.unique(positions // length)) == count, "a target in every document"
    now = shown[positions]
    assert abs((now == 999).mean() - 0.8) < 0.015 and abs((now == targets).mean() - 0.1) < 0.01


def test_a_word_larger_than_what_is_wanted():
    ids = np.concatenate([[0], [4] + [5] * 8, [4], [2]])  # words of nine and of one
    counts = np.array([len(once(ids, sample_id=i, words=LETTERS)[1]) for i in range(3000)])
    assert set(counts) == {1, 9, 10} or set(counts) == {1, 9}
    assert counts.mean() < 2.5  # 1.5 wanted; the shortest word stands in where the long one is refused


def test_words_end_at_special_tokens_and_long_runs_are_no_words():
    ids = np.array([0, 5, 6, 3, 6, 4, 5, 2, 5] + [5] * 11)  # begins: 4
    document = np.array([0] * 8 + [1] * 12)
    place = np.concatenate([np.arange(8), np.arange(12)])
    ordinary = ~np.isin(ids, SPECIAL.all())
    found = words_of(ids[ordinary], document=document[ordinary], place=place[ordinary], pieces=word_pieces(4))
    assert found.tolist() == [0, 0, 1, 2, 2, *range(3, 15)]
    alone = words_of(np.array([4, 7, 5]), document=np.zeros(3), place=np.arange(3), pieces=word_pieces(4, 7, ends=[7]))
    assert alone.tolist() == [0, 1, 2]


def saved(folder, tokenizer):
    tokenizer.save(str(folder / "tokenizer.json"))
    pieces = WordPieces.read(folder, vocabulary_size=tokenizer.get_vocab_size())

    def words(text):
        encoding = tokenizer.encode(text, add_special_tokens=False)
        ids = np.array(encoding.ids)
        number = words_of(ids, document=np.zeros(len(ids), dtype=int), place=np.arange(len(ids)), pieces=pieces)
        return ["".join(encoding.tokens[i] for i in np.flatnonzero(number == n)) for n in range(number[-1] + 1)]

    return words


def test_words_of_sentencepiece(tmp_path):
    names = ["<unk>", "▁", "▁un", "related", "s", "'", "▁s", ".", "▁北", "京", "ไ", "ท", "한", "국", "क", "ा"]
    tokenizer = Tokenizer(models.Unigram([(name, -1.0) for name in names], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    words = saved(tmp_path, tokenizer)
    assert words("unrelated s's unrelateds.") == ["▁unrelated", "▁s", "'", "s", "▁unrelateds", "."]
    assert words("北京ไท s") == ["▁北", "京", "ไ", "ท", "▁s"]
    assert words("한국 का") == ["▁한국", "▁का"]


def test_words_of_wordpiece(tmp_path):
    vocabulary = {name: i for i, name in enumerate(["[UNK]", "un", "##related", "##s", "'", "s", ".", "北", "京"])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    assert saved(tmp_path, tokenizer)("unrelated s's 北京.") == ["un##related", "s", "'", "s", "北", "京", "."]


def test_words_of_byte_level_pieces(tmp_path):
    vocabulary = {name: i for i, name in enumerate(["un", "related", "Ġ", "Ġun", "'", "s", "Ġs", ".", "Ã", "©", "Ġ("])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("Ġ", "s")], unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(add_prefix_space=False)])
    assert saved(tmp_path, tokenizer)("s é's s.") == ["s", "ĠÃ©", "'", "s", "Ġs", "."]


def test_pieces_without_any_mark(tmp_path):
    Tokenizer(models.BPE({"a": 0, "b": 1}, [])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match=r'do not show where words begin.*masking.unit = "token"'):
        WordPieces.read(tmp_path, vocabulary_size=2)
    with pytest.raises(DataError, match="no such file"):
        WordPieces.read(tmp_path / "nowhere", vocabulary_size=2)
