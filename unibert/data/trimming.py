"""A teacher's Unigram tokenizer, trimmed to the pieces that the text uses.

Kept are the special tokens, the most used pieces, and every single character that occurs, so that whatever could
be written with the dropped pieces still can; of an alphabet that occurs, the other letters too, as unseen text will
have them (not of Han and Hangul, which have thousands). Characters of the text that the teacher does not know become
pieces too: they take over the embedding of the unknown token (kept_ids points to it), so at first the teacher reads
them as before, but nothing is lost any more and decode(encode(text)) gives the text back.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from unibert.data.lines import atomic, file_sha256, finished, read_json, read_rows, save_array, say, write_json
from unibert.data.work import ALONE, Crew, Done, Task, perform
from unibert.errors import DataError

LINES_AT_ONCE = 4096
WORDS_AT_ONCE = 500_000
LARGE_ALPHABETS = frozenset({"", "CJK", "HANGUL"})
DEFAULT_ROLES = {"cls": "<s>", "sep": "</s>", "pad": "<pad>", "mask": "<mask>", "unk": "<unk>"}


@dataclass(frozen=True)
class Usage:
    """What a text uses of a tokenizer."""

    counts: np.ndarray
    """int64 [V]: how often each piece was produced."""
    unknown: Counter[str]
    """Characters of the normalised text that the tokenizer cannot write, with their counts."""


def texts_in_chunks(path: Path) -> Iterator[list[str]]:
    """The `text` of every row of a JSON Lines file, some thousand at a time."""
    rows = read_rows(path)
    while chunk := [row["text"] for row in islice(rows, LINES_AT_ONCE)]:
        yield chunk


def trim(
    source: Path,
    *,
    texts: Mapping[str, Sequence[Path]],
    max_pieces: int,
    into: Path,
    force: bool = False,
    crew: Crew = ALONE,
) -> Path:
    """Write the trimmed tokenizer: tokenizer.json, tokenizer_config.json, kept_ids.npy and report.json.

    Args:
        source: folder of the teacher's tokenizer.json.
        texts: language code to its clean JSON Lines files.
        max_pieces: most used pieces kept.
        into: folder written to.
        force: do it although it is finished.
        crew: who counts; the counts of each text go to counts/ beside `into`.

    Returns:
        `into`. Finished work for the same source, size and texts (or more texts) is kept.

    Raises:
        DataError: no tokenizer, or one that is not a Unigram.
    """
    settings = {
        "source": _sha_of_tokenizer(source),
        "max_pieces": max_pieces,
        "texts": {code: [file_sha256(path) for path in paths] for code, paths in texts.items()},
    }
    if not force and covered(into, settings):
        say(f"tokenizer: {into} is trimmed already")
        return into
    tree = _read_unigram(source / "tokenizer.json")
    usage = count_pieces(source, texts=texts, folder=into.parent / "counts", crew=crew, force=force)
    kept, added = choose(tree, usage=usage, max_pieces=max_pieces)
    trimmed = rebuild(tree, kept=kept, added=added)
    kept_ids = np.concatenate([kept, np.full(len(added), tree["model"]["unk_id"])])
    _write(into, tree=trimmed, config=_config(source), kept_ids=kept_ids)
    facts = {
        "pieces_before": len(tree["model"]["vocab"]),
        "pieces_used": int(np.count_nonzero(usage.counts)),
        "pieces": len(kept_ids),
        "share_of_tokens_kept": float(usage.counts[kept].sum() / max(usage.counts.sum(), 1)),
        "characters_added": {character: usage.unknown[character] for character in added},
    }
    write_json(into / "report.json", {"settings": settings} | facts)
    say(
        f"tokenizer: {facts['pieces']:,} of {facts['pieces_before']:,} pieces, which made "
        f"{facts['share_of_tokens_kept']:.1%} of the text's tokens; {len(added)} of them are characters that the "
        f"teacher does not know"
    )
    return into


def _sha_of_tokenizer(source: Path) -> str:
    path = source / "tokenizer.json"
    if not path.is_file():
        raise DataError(f"{path}: the teacher's tokenizer is missing; get it: unibert teacher fetch RECIPE")
    return file_sha256(path)


def covered(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether the folder's tokenizer was made by these settings, from these texts or from these and more."""
    report = folder / "report.json"
    before = read_json(report).get("settings", {}) if report.is_file() else {}
    more = {**before.get("texts", {}), **settings["texts"]}
    return finished(report, {**settings, "texts": more}) is not None


def _read_unigram(path: Path) -> dict[str, Any]:
    tree = read_json(path)
    kind = tree.get("model", {}).get("type")
    if kind != "Unigram":
        raise DataError(f"{path}: a {kind} tokenizer; only Unigram ones (XLM-R, multilingual-e5) can be trimmed")
    return tree | {"truncation": None, "padding": None}


def count_pieces(
    source: Path, *, texts: Mapping[str, Sequence[Path]], folder: Path, crew: Crew = ALONE, force: bool = False
) -> Usage:
    """Count what the tokenizer in `source` makes of every text; a text's own counts are kept in `folder`.

    A Metaspace tokenizer treats words (between spaces) one by one, so each different word is tokenized once.
    """
    sha = _sha_of_tokenizer(source)
    tasks = [
        Task(path.stem, {"source": sha, "text": file_sha256(path)}, (source, sha, path, folder / f"{path.stem}.npy"))
        for path in chain.from_iterable(texts.values())
    ]
    done = perform(_count_text, tasks, folder=folder, crew=crew, what="counting pieces", force=force)
    usage = Usage(np.zeros(len(_read_unigram(source / "tokenizer.json")["model"]["vocab"]), dtype=np.int64), Counter())
    for task, result in zip(tasks, done, strict=True):
        pieces, times = np.load(task.argument[-1])
        usage.counts[pieces] += times
        usage.unknown.update(result["unknown"])
    return usage


@lru_cache(maxsize=1)
def _unigram(source: Path, sha: str) -> tuple[Tokenizer, int, set[str], int]:
    """(tokenizer, pieces, those of one character, id of the unknown one), kept by a process from text to text."""
    tree = _read_unigram(source / "tokenizer.json")
    vocabulary = tree["model"]["vocab"]
    known = {piece for piece, _ in vocabulary if len(piece) == 1}
    return Tokenizer.from_str(json.dumps(tree)), len(vocabulary), known, tree["model"]["unk_id"]


def _count_text(argument: tuple[Path, str, Path, Path]) -> Done:
    """Count one text: int64 [2, n] of the pieces it uses and how often."""
    source, sha, path, into = argument
    tokenizer, pieces, known, unk = _unigram(source, sha)
    usage = Usage(np.zeros(pieces, dtype=np.int64), Counter())
    words: Counter[str] = Counter()
    for chunk in texts_in_chunks(path):
        words.update(chain.from_iterable(map(str.split, chunk)))
        if len(words) > WORDS_AT_ONCE:
            _count_words(words, tokenizer=tokenizer, unk=unk, known=known, usage=usage)
            words.clear()
    _count_words(words, tokenizer=tokenizer, unk=unk, known=known, usage=usage)
    used = np.flatnonzero(usage.counts)
    save_array(into, np.stack([used, usage.counts[used]]))
    return Done({"unknown": usage.unknown}, (into,))


def _count_words(words: Counter[str], *, tokenizer: Tokenizer, unk: int, known: set[str], usage: Usage) -> None:
    ids = [encoding.ids for encoding in tokenizer.encode_batch_fast(list(words), add_special_tokens=False)]
    flat = np.fromiter(chain.from_iterable(ids), dtype=np.int64)
    times = np.repeat(np.fromiter(words.values(), dtype=np.int64), [len(pieces) for pieces in ids])
    np.add.at(usage.counts, flat, times)
    for (word, count), pieces in zip(words.items(), ids, strict=True):
        if unk in pieces:
            for character in unknown_characters(tokenizer, word, known=known):
                usage.unknown[character] += count


def unknown_characters(tokenizer: Tokenizer, text: str, *, known: set[str]) -> list[str]:
    """Characters of the normalised text that are no piece."""
    return [char for char in normalised(tokenizer, text) if char not in known and not char.isspace()]


def normalised(tokenizer: Tokenizer, text: str) -> str:
    """The text as the tokenizer's own normaliser leaves it: what decoding should give back."""
    return tokenizer.normalizer.normalize_str(text).strip() if tokenizer.normalizer else text


def choose(tree: dict[str, Any], *, usage: Usage, max_pieces: int) -> tuple[np.ndarray, list[str]]:
    """(ids kept, ascending; characters added, ascending)."""
    pieces = [piece for piece, _ in tree["model"]["vocab"]]
    special = {token["id"] for token in tree["added_tokens"]} | {tree["model"]["unk_id"]}
    used = np.flatnonzero(usage.counts)
    most_used = used[np.argsort(-usage.counts[used], kind="stable")][:max_pieces]
    occurring = set(usage.unknown).union(*(pieces[i] for i in used if i not in special))
    alphabets = set(map(alphabet, occurring)) - LARGE_ALPHABETS
    singles = {piece: i for i, piece in enumerate(pieces) if len(piece) == 1}
    letters = (i for char, i in singles.items() if char in occurring or alphabet(char) in alphabets)
    kept = special.union(most_used.tolist(), letters)
    return np.array(sorted(kept), dtype=np.int64), sorted(occurring - singles.keys())


def alphabet(character: str) -> str:
    """The first word of a letter's, mark's or digit's Unicode name (LATIN, ARABIC, CJK); "" of other characters."""
    return unicodedata.name(character, "").partition(" ")[0] if unicodedata.category(character)[0] in "LMN" else ""


def rebuild(tree: dict[str, Any], *, kept: np.ndarray, added: Sequence[str]) -> dict[str, Any]:
    """tokenizer.json with these pieces alone: their own scores, in their own order, then the added characters."""
    vocabulary = tree["model"]["vocab"]
    new_id = {int(old): new for new, old in enumerate(kept)}
    special = {token["id"] for token in tree["added_tokens"]}
    # A character that the teacher never learned is as unlikely as its rarest piece.
    lowest = min(score for i, (_, score) in enumerate(vocabulary) if i not in special)
    out = json.loads(json.dumps({key: value for key, value in tree.items() if key != "model"}))
    out["model"] = tree["model"] | {
        "vocab": [vocabulary[i] for i in kept] + [[char, lowest] for char in added],
        "unk_id": new_id[tree["model"]["unk_id"]],
    }
    for token in out["added_tokens"]:
        token["id"] = new_id[token["id"]]
    for token in (out.get("post_processor") or {}).get("special_tokens", {}).values():
        token["ids"] = [new_id[i] for i in token["ids"]]
    return out


def _config(source: Path) -> dict[str, Any]:
    """tokenizer_config.json: the source's names of the special tokens, XLM-R's where it has none."""
    path = source / "tokenizer_config.json"
    theirs = read_json(path) if path.is_file() else {}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": theirs.get("model_max_length", 512),
        "clean_up_tokenization_spaces": False,
        **{f"{role}_token": _name(theirs.get(f"{role}_token", name)) for role, name in DEFAULT_ROLES.items()},
        "bos_token": _name(theirs.get("bos_token", DEFAULT_ROLES["cls"])),
        "eos_token": _name(theirs.get("eos_token", DEFAULT_ROLES["sep"])),
    }


def _name(token: str | dict[str, Any]) -> str:
    """A special token's text; older files hold it in a table."""
    return token if isinstance(token, str) else token["content"]


def _write(folder: Path, *, tree: dict[str, Any], config: dict[str, Any], kept_ids: np.ndarray) -> None:
    (folder / "report.json").unlink(missing_ok=True)  # it says that the others are complete
    # In the library's own form, so that saving it again changes nothing, but with the scores as they were: the
    # library reads some of them a last digit off.
    ours = json.loads(Tokenizer.from_str(json.dumps(tree)).to_str())
    ours["model"]["vocab"] = tree["model"]["vocab"]
    with atomic(folder / "tokenizer.json") as file:
        json.dump(ours, file, ensure_ascii=False)
    write_json(folder / "tokenizer_config.json", config)
    save_array(folder / "kept_ids.npy", kept_ids.astype(np.int32))
