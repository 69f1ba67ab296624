"""What a labelled file's name says: its split and its languages, in the ways published sets name theirs.

`stsb-de-test.csv`, `xnli.dev.ko.tsv`, `ner/swa/train.txt`, `test-context-en-question-de.json`, `eng.testb`,
`tatoeba.afr-eng.afr`: the words of the path below the data folder, cut at dots, hyphens and underscores. A split is
train, dev, test or unlabelled under any of its names, test when none is there; what else has two or three letters is a
language.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from unibert.languages import code_of

SPLITS = {
    "train": "train", "training": "train",
    "dev": "dev", "valid": "dev", "validation": "dev", "val": "dev", "testa": "dev",
    "test": "test", "testb": "test",
    "unlabelled": "unlabelled", "unlabeled": "unlabelled",
}  # fmt: skip
_NO_LANGUAGES = frozenset("txt tsv csv gz ner nli sts qa bio iob gs all raw set pan mt".split())
_BACKUPS = (".bak", ".orig", ".tmp", "~")
_SUFFIXES = (".txt", ".tsv", ".csv", ".json", ".jsonl", ".conll", ".bio", ".iob2")

_THREE_LETTERS = """
afr af|amh am|ara ar|arg an|ast ast|aze az|bak ba|bel be|ben bn|bos bs|bre br|bul bg|cat ca|ceb ceb|ces cs|chv cv|cmn zh
cym cy|dan da|deu de|ell el|eng en|est et|eus eu|fas fa|fin fi|fra fr|fry fy|gle ga|glg gl|guj gu|hat ht|heb he|hin hi
hrv hr|hun hu|hye hy|ido io|ind id|isl is|ita it|jav jv|jpn ja|kan kn|kat ka|kaz kk|khm km|kir ky|kor ko|lat la|lav lv
lit lt|ltz lb|mal ml|mar mr|min min|mkd mk|mlg mg|mon mn|mri mi|msa ms|zsm ms|mya my|nds nds|nep ne|nld nl|nno nn|nob nb
oci oc|pan pa|pms pms|pnb pnb|pol pl|por pt|ron ro|rus ru|sco sco|sin si|slk sk|slv sl|som so|spa es|sqi sq|srp sr
sun su|swa sw|swe sv|swh sw|tam ta|tat tt|tel te|tgk tg|tgl tl|tha th|tur tr|ukr uk|urd ur|uzb uz|vie vi|vol vo|war war
yor yo|zho zh|esp es|ned nl|ger de
"""
"""ISO 639-3 (and CoNLL-2002's and 2003's own) to our codes."""
_CODES = {pair.split()[0]: pair.split()[1] for line in _THREE_LETTERS.strip().splitlines() for pair in line.split("|")}


@dataclass(frozen=True)
class FileName:
    """A file of labelled examples and what its path says."""

    path: Path
    set: str
    """The folder just below the data folder: xquad, stsb, ..."""
    split: str
    languages: tuple[str, ...]
    """In the order of the name; often one, two where both sides of an example have their own, none when not said."""


def language(tag: str) -> str | None:
    """Our code for a tag as data sets write it, the tag itself where it is a language of none of ours, else None."""
    tag = tag.lower()
    if tag in _CODES:
        return _CODES[tag]
    known = code_of(tag)
    return known or (tag if re.fullmatch(r"[a-z]{2,3}", tag) and tag not in _NO_LANGUAGES else None)


def file_name(path: Path, *, folder: Path) -> FileName:
    """What the path of a file below the data folder says."""
    parts = path.relative_to(folder).parts
    last = parts[-1].removesuffix(".gz")
    for suffix in _SUFFIXES:
        last = last.removesuffix(suffix)
    words = [word.lower() for part in (*parts[1:-1], last) for word in re.split(r"[._-]", part) if word]
    splits = [SPLITS[word] for word in words if word in SPLITS]
    codes = [code for word in words if word not in SPLITS and word != parts[0].lower() and (code := language(word))]
    return FileName(path, parts[0], splits[-1] if splits else "test", tuple(codes))


def labelled_files(folder: Path, sets: tuple[str, ...]) -> list[FileName]:
    """All files in the folders of these names below `folder`, in the order of their paths; no notes or backups."""
    found = []
    for name in sets:
        for path in sorted((folder / name).rglob("*")):
            is_note = path.name.startswith(".") or path.stem.upper().startswith(("README", "LICEN"))
            if path.is_file() and not is_note and not path.name.endswith(_BACKUPS):
                found.append(file_name(path, folder=folder))
    return found
