"""The recipe's tokenizer: the teacher's, trimmed to the text, or one trained on the smoothed mixture of the languages.

What a language gives to the training is its share of `sample_characters`, proportional to its characters to the power
of data.smoothing_exponent and spread evenly over its text. No text is read twice: what a small language lacks, the
others give. So where there is less text than asked for, all of it is read as it was found; ask for less then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.normalizers import Normalizer

from unibert import schema
from unibert.data import tokenizer_models
from unibert.data.lines import atomic, file_sha256, json_line, read_rows, say, write_json
from unibert.data.progress import progress
from unibert.data.tokenizer_models import Kind, byte_ids, fewest_pieces, learn, roles
from unibert.data.trimming import LARGE_ALPHABETS, LINES_AT_ONCE, alphabet, covered, normalised, trim
from unibert.data.work import ALONE, Crew
from unibert.errors import ConfigError, DataError
from unibert.schema import Recipe

FORMAT = 1
"""Raised when the same text gives another tokenizer than before, so that finished ones are made again."""
ROWS_PROBED = 1000
"""Rows from which the characters of a file are told, by its size."""
DOCUMENTS_MEASURED = 200
"""Documents of a language on which the report's fertility is measured."""
PRINTABLE_ASCII = frozenset(map(chr, range(0x21, 0x7F)))


def make(
    recipe: Recipe, *, texts: Mapping[str, Sequence[Path]], into: Path, force: bool = False, crew: Crew = ALONE
) -> Path:
    """Write the recipe's tokenizer from the text of every language, as [tokenizer] says; finished work is kept.

    Args:
        recipe: its [tokenizer], [teacher] and data.smoothing_exponent count.
        texts: language code to its JSON Lines files.
        into: folder written to.
        force: do it although it is finished.
        crew: who counts the pieces of a teacher's; training is one process's work.

    Returns:
        `into`.

    Raises:
        ConfigError: kind "teacher" without [teacher], and no tokenizer there.
        DataError: a text or the teacher's tokenizer is missing or damaged, or max_pieces is too small.
    """
    table = recipe.tokenizer
    if table.kind != "teacher":
        return train(table, texts=texts, smoothing_exponent=recipe.data.smoothing_exponent, into=into, force=force)
    if recipe.teacher is not None:
        source, size = recipe.teacher.original, table.max_pieces
        return trim(source, texts=texts, max_pieces=size, into=into, force=force, crew=crew)
    if not (into / "tokenizer.json").is_file():
        raise ConfigError(
            f"no [teacher] whose tokenizer could be taken, and none in {into}: train one by tokenizer.kind"
        )
    return into


def train(
    table: schema.Tokenizer,
    *,
    texts: Mapping[str, Sequence[Path]],
    smoothing_exponent: float,
    into: Path,
    force: bool = False,
) -> Path:
    """Train a tokenizer and write tokenizer.json, tokenizer_config.json and report.json; see `make`.

    Finished work for the same settings and texts (or more texts) is kept.

    Raises:
        DataError: no text of a language, or a size that the single characters alone exceed.
    """
    kind = table.kind
    assert kind != "teacher", "a teacher's tokenizer is trimmed"
    settings = {
        "format": FORMAT,
        **table.model_dump(),
        "smoothing_exponent": smoothing_exponent,
        "texts": {code: [file_sha256(path) for path in paths] for code, paths in texts.items()},
    }
    if not force and covered(into, settings):
        say(f"tokenizer: {into} is trained already")
        return into
    sample = Sample(texts, total=table.sample_characters, exponent=smoothing_exponent)
    counts = sample.count_characters(tokenizer_models.normalizer(kind, form=table.normal_form))
    letters = PRINTABLE_ASCII.union(
        *(characters(count, coverage=table.character_coverage) for count in counts.values())
    )
    _check_size(table, fewest_pieces(kind, alphabet=letters, byte_fallback=table.byte_fallback))
    say(f"tokenizer: learning {kind} from {sum(sample.budgets.values()) / 1e6:.1f}M characters")
    tokenizer = learn(
        sample.chunks(),
        kind=kind,
        size=table.max_pieces,
        alphabet=letters,
        form=table.normal_form,
        byte_fallback=table.byte_fallback,
    )
    unknown = tokenizer.token_to_id(roles(kind)["unk"])
    assert unknown is not None
    languages = {
        code: _facts(tokenizer, sample, code, counts=counts[code], letters=letters, unknown=unknown) for code in texts
    }
    _write(into, tokenizer, kind=kind)
    pieces = tokenizer.get_vocab_size()
    facts = {"pieces": pieces, "single_characters": len(letters), "languages": languages}
    write_json(into / "report.json", {"settings": settings} | facts)
    say(f"tokenizer: {pieces:,} pieces in {into}, {len(letters):,} of them single characters of the text")
    return into


def _check_size(table: schema.Tokenizer, least: int) -> None:
    if least > table.max_pieces:
        raise DataError(
            f"tokenizer.max_pieces = {table.max_pieces}, but the single characters of the text, the bytes and the "
            f"special tokens are {least} pieces already: raise it (to twice that or more), or lower "
            "tokenizer.character_coverage"
        )


class Sample:
    """The text that is read of each language.

    Args:
        texts: language code to its JSON Lines files.
        total: characters read in all, about.
        exponent: see `budgets`.
    """

    def __init__(self, texts: Mapping[str, Sequence[Path]], *, total: int, exponent: float) -> None:
        self.texts = texts
        self.available = {code: _characters(paths) for code, paths in texts.items()}
        if empty := [code for code, count in self.available.items() if not count]:
            raise DataError(f"no text of {', '.join(empty)} to train a tokenizer on; take these out of `languages`")
        self.budgets = budgets(self.available, total=total, exponent=exponent)

    def documents(self, code: str) -> Iterator[str]:
        """Documents of a language, evenly spread over its text, about its budget in all."""
        fraction = self.budgets[code] / self.available[code]
        for number, row in enumerate(chain.from_iterable(map(read_rows, self.texts[code]))):
            if int((number + 1) * fraction) > int(number * fraction):
                yield row["text"]

    def count_characters(self, normalizer: Normalizer) -> dict[str, Counter[str]]:
        """How often each character occurs in the normalised text that is read, by language."""
        counts = {code: Counter[str]() for code in self.texts}
        for code in progress(list(counts), what="tokenizer: counting characters"):
            for text in self.documents(code):
                counts[code].update(normalizer.normalize_str(text))
        return counts

    def chunks(self) -> Iterator[list[str]]:
        """All documents, language after language, some thousand at a time."""
        for code in progress(list(self.texts), what="tokenizer: reading"):
            documents = self.documents(code)
            while chunk := list(islice(documents, LINES_AT_ONCE)):
                yield chunk


def budgets(available: Mapping[str, int], *, total: int, exponent: float) -> dict[str, int]:
    """Characters read of each language: proportional to available ** exponent, but never more than there are.

    What such a limit leaves over goes to the other languages by the same rule, until `total` or all text is given.
    """
    given: dict[str, int] = {}
    while rest := {code: count for code, count in available.items() if code not in given}:
        left = total - sum(given.values())
        weights = {code: count**exponent for code, count in rest.items()}
        scale = left / sum(weights.values())
        small = {code: count for code, count in rest.items() if scale * weights[code] >= count}
        given |= small or {code: round(scale * weights[code]) for code in rest}
    return {code: given[code] for code in available}


def characters(counts: Mapping[str, int], *, coverage: float) -> set[str]:
    """The single characters that a language needs as pieces; spaces need none.

    The most frequent ones that make up this share of its text; of an alphabet that is among them, every other letter
    that occurs too, but for Han and Hangul, which have thousands.
    """
    counts = {character: count for character, count in counts.items() if not character.isspace()}
    needed, total = coverage * sum(counts.values()), 0
    kept: set[str] = set()
    for character, count in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])):
        if total >= needed:
            break
        kept.add(character)
        total += count
    alphabets = set(map(alphabet, kept)) - LARGE_ALPHABETS
    return kept | {character for character in counts if alphabet(character) in alphabets}


def _characters(paths: Sequence[Path]) -> int:
    """Characters of text in JSON Lines files: exact for small ones, else told from their first rows and their size."""
    rows = list(islice(chain.from_iterable(map(read_rows, paths)), ROWS_PROBED))
    written = sum(len(json_line(row)) for row in rows)
    size = sum(path.stat().st_size for path in paths)
    return round(sum(len(row["text"]) for row in rows) * size / max(written, 1))


def _facts(
    tokenizer: Tokenizer, sample: Sample, code: str, *, counts: Counter[str], letters: Collection[str], unknown: int
) -> dict[str, Any]:
    """What the report says of a language; fertility and the like are of its first documents that were read."""
    texts = list(islice(sample.documents(code), DOCUMENTS_MEASURED))
    encoded = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    back = tokenizer.decode_batch(encoded, skip_special_tokens=False)
    ids = Counter(chain.from_iterable(encoded))
    pieces, visible = max(ids.total(), 1), sum(count for char, count in counts.items() if not char.isspace())
    exact = sum(there.strip() == normalised(tokenizer, here) for here, there in zip(texts, back, strict=True))
    return {
        "characters": sample.available[code],
        "characters_read": sum(counts.values()),
        "coverage": sum(counts[char] for char in counts.keys() & letters) / max(visible, 1),
        "tokens_per_word": pieces / max(sum(len(text.split()) for text in texts), 1),
        "characters_per_token": sum(map(len, texts)) / pieces,
        "bytes": sum(ids[i] for i in byte_ids(tokenizer)) / pieces,
        "unknown": ids[unknown] / pieces,
        "round_trip": exact / max(len(texts), 1),
    }


def _write(folder: Path, tokenizer: Tokenizer, *, kind: Kind) -> None:
    (folder / "report.json").unlink(missing_ok=True)  # it says that the others are complete
    (folder / "kept_ids.npy").unlink(missing_ok=True)  # of a trimmed one that was here
    with atomic(folder / "tokenizer.json") as file:
        file.write(tokenizer.to_str())
    names = roles(kind)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 512,
        "clean_up_tokenization_spaces": False,
        **{f"{role}_token": name for role, name in names.items()},
        "bos_token": names["cls"],
        "eos_token": names["sep"],
    }
    write_json(folder / "tokenizer_config.json", config)
