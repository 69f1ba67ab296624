"""WordPiece, BPE and Unigram tokenizers as the `tokenizers` library learns them, put together for masked-LM encoders.

BPE and Unigram write a space as a mark on the word after it (as SentencePiece does), so decoding gives the normalised
text back; a word of the training is what stands between spaces, and every punctuation mark or symbol is one of its
own. WordPiece is BERT's: words are cut at spaces, punctuation and around every Han character, and a piece inside a word
begins with ##.

What the library makes is the same byte for byte in every run of BPE, and of WordPiece once its continuing characters
have fixed ids. Unigram's expectations are sums of floats in the order of a hash table, which is another in every
process: their last digits are rounded away here. Then only two pieces of exactly the same worth at the edge of the
vocabulary could still be exchanged; that has not been seen.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, Literal

import regex
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

Kind = Literal["wordpiece", "bpe", "unigram"]

SENTENCEPIECE_ROLES = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
BERT_ROLES = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
"""Roles in the order of their ids."""
BYTES = [f"<0x{value:02X}>" for value in range(256)]
MARK, CONTINUED = "▁", "##"
LONGEST_PIECE = 16
"""Characters."""
LONGEST_WORD = 500
"""Characters of a word that WordPiece looks at; longer ones are unknown. BERT's 100 loses lines of Thai and Khmer."""
LEAST_COUNT = 2
"""A pair that is merged occurs this often."""
ROUNDED = 2
"""Decimals of a Unigram score, in nats; the runs differ by less than 1e-9."""
PENALTY = 1e-4
"""What the library takes off for each character that its expectations have lost, in the order of a hash table."""

_ALONE = r"\p{P}\p{S}"
_WORD_OF_ITS_OWN = regex.compile(rf"[{_ALONE}\p{{Han}}]")


def roles(kind: Kind) -> dict[str, str]:
    """The special tokens by role, in the order of their ids."""
    return BERT_ROLES if kind == "wordpiece" else SENTENCEPIECE_ROLES


def normalizer(kind: Kind, *, form: Literal["nfc", "nfkc"]) -> normalizers.Normalizer:
    """No control characters, one Unicode form, single spaces, none at the end; case and accents stay."""
    steps = [
        normalizers.Replace(Regex(r"[\p{Cc}&&[^\s]]"), ""),
        normalizers.NFC() if form == "nfc" else normalizers.NFKC(),
        *([] if kind == "wordpiece" else [normalizers.Replace(MARK, "_")]),  # the mark itself stands for a space
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(left=False, right=True),
    ]
    return normalizers.Sequence(steps)


def pre_tokenizer(kind: Kind) -> pre_tokenizers.PreTokenizer:
    """What cuts the normalised text into words."""
    if kind == "wordpiece":
        marks = pre_tokenizers.Split(Regex(rf"[{_ALONE}\p{{Han}}]"), "isolated")
        return pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), marks])
    marks = pre_tokenizers.Split(Regex(rf"{MARK}?[{_ALONE}&&[^{MARK}]]"), "isolated")
    # A mark before the first word only: what follows a mask token without a space has none.
    return pre_tokenizers.Sequence([pre_tokenizers.Metaspace(MARK, prepend_scheme="first"), marks])


def fewest_pieces(kind: Kind, *, alphabet: Iterable[str], byte_fallback: bool) -> int:
    """Pieces of a vocabulary that holds its alphabet and nothing learnt."""
    single = len(_single_characters(kind, alphabet))
    return len(roles(kind)) + single + (len(BYTES) if byte_fallback and kind != "wordpiece" else 0)


def learn(
    chunks: Iterable[list[str]],
    *,
    kind: Kind,
    size: int,
    alphabet: Iterable[str],
    form: Literal["nfc", "nfkc"],
    byte_fallback: bool,
) -> Tokenizer:
    """A tokenizer of at most `size` pieces.

    Args:
        chunks: documents, some at a time.
        kind: of the model.
        size: largest vocabulary, special tokens, bytes and single characters included; at least `fewest_pieces`.
        alphabet: single characters that are pieces; the others of the text are bytes, or unknown.
        form: Unicode normal form.
        byte_fallback: BPE and Unigram: 256 pieces for the bytes of characters that are no pieces.
    """
    alphabet = sorted(alphabet)
    tokens = [*roles(kind).values(), *(BYTES if byte_fallback and kind != "wordpiece" else [])]
    student = Tokenizer(models.Unigram() if kind == "unigram" else models.BPE())
    outside = normalizers.Replace(Regex(f"[^ {_ranges(alphabet)}]"), " ")
    student.normalizer = normalizers.Sequence([normalizer(kind, form=form), outside])
    student.pre_tokenizer = pre_tokenizer(kind)
    student.train_from_iterator(chunks, _trainer(kind, size=size, alphabet=alphabet, tokens=tokens))
    tree = json.loads(student.to_str())["model"]
    tokenizer = Tokenizer(_model(kind, tree, tokens=tokens, byte_fallback=byte_fallback))
    return _complete(tokenizer, kind, form=form)


def _single_characters(kind: Kind, alphabet: Iterable[str]) -> list[str]:
    """Every piece of one character, in the order of their ids."""
    alphabet = sorted(alphabet)
    if kind != "wordpiece":
        return sorted({MARK, *alphabet})
    # Nothing goes on with a character that is always a word of its own.
    return [*alphabet, *(CONTINUED + character for character in alphabet if not _WORD_OF_ITS_OWN.match(character))]


def _ranges(characters: list[str]) -> str:
    """The inside of a regular expression's class of these characters, ascending."""
    points = list(map(ord, characters))
    runs = [[point for _, point in run] for _, run in groupby(enumerate(points), key=lambda at: at[1] - at[0])]
    return "".join(rf"\x{{{run[0]:X}}}-\x{{{run[-1]:X}}}" for run in runs)


def _trainer(kind: Kind, *, size: int, alphabet: list[str], tokens: list[str]) -> trainers.Trainer:
    single = _single_characters(kind, alphabet)
    if kind == "unigram":
        # Its trainer takes the unknown token's place from the special ones; the bytes are put in afterwards.
        special = list(SENTENCEPIECE_ROLES.values())
        return trainers.UnigramTrainer(
            vocab_size=size - len(tokens) + len(special),
            special_tokens=special,
            unk_token=SENTENCEPIECE_ROLES["unk"],
            initial_alphabet=single,
            max_piece_length=LONGEST_PIECE,
            show_progress=False,
        )
    # Named here, single characters get their ids in this order, not in a hash table's.
    options: dict[str, Any] = {"continuing_subword_prefix": CONTINUED} if kind == "wordpiece" else {}
    return trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[*tokens, *single],
        min_frequency=LEAST_COUNT,
        max_token_length=LONGEST_PIECE,
        show_progress=False,
        **options,
    )


def _model(kind: Kind, tree: dict, *, tokens: list[str], byte_fallback: bool) -> models.Model:
    unknown = roles(kind)["unk"]
    if kind == "wordpiece":
        return models.WordPiece(
            tree["vocab"],
            unk_token=unknown,
            continuing_subword_prefix=CONTINUED,
            max_input_chars_per_word=LONGEST_WORD,
        )
    if kind == "bpe":
        merges = [tuple(merge) for merge in tree["merges"]]
        return models.BPE(tree["vocab"], merges, unk_token=unknown, byte_fallback=byte_fallback)
    pieces = settled([(piece, score) for piece, score in tree["vocab"] if piece not in tokens])
    # A byte never wins over a piece: it is only asked for where there is none.
    floor = min(score for _, score in pieces)
    special = [(token, 0.0 if token in SENTENCEPIECE_ROLES.values() else floor) for token in tokens]
    return models.Unigram([*special, *pieces], unk_id=tokens.index(unknown), byte_fallback=byte_fallback)


def settled(pieces: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Unigram pieces without what differs from run to run: rounded scores, equal ones in the order of the pieces.

    The characters that the library adds at the end stand just above the lowest score, in a random order: they get
    the lowest.
    """
    singles = sum(len(piece) == 1 for piece, _ in pieces)
    lowest = min(score for _, score in pieces)
    added = lowest + PENALTY * singles
    scores = {piece: round(lowest if len(piece) == 1 and score <= added else score, ROUNDED) for piece, score in pieces}
    return sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))


def _complete(tokenizer: Tokenizer, kind: Kind, *, form: Literal["nfc", "nfkc"]) -> Tokenizer:
    """With everything around the model: normaliser, words, special tokens, cls and sep, decoder."""
    names = roles(kind)
    tokenizer.normalizer = normalizer(kind, form=form)
    tokenizer.pre_tokenizer = pre_tokenizer(kind)
    # The space before a mask belongs to it, as the word there would have it.
    tokenizer.add_special_tokens(
        [AddedToken(name, lstrip=role == "mask", normalized=False, special=True) for role, name in names.items()]
    )
    cls, sep = names["cls"], names["sep"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B {sep}" if kind == "wordpiece" else f"{cls} $A {sep} {sep} $B {sep}",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in (cls, sep)],
    )
    if kind == "wordpiece":
        tokenizer.decoder = decoders.WordPiece(prefix=CONTINUED, cleanup=False)
    else:
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(MARK, "first")])
    return tokenizer


def byte_ids(tokenizer: Tokenizer) -> Iterator[int]:
    """Ids of the pieces that are bytes; none where the tokenizer has no byte fallback."""
    ids = map(tokenizer.token_to_id, BYTES)
    return (i for i in ids if i is not None)
