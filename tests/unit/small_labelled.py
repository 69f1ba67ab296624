"""Labelled files in miniature, in the published formats, over the made-up words of tiny.py."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tiny import sentences, words

LABELS = ("contradiction", "entailment", "neutral")


def some(code: str, chance: random.Random, count: int) -> list[str]:
    return chance.choices(words(code), k=count)


def make_labelled(folder: Path, *, count: int = 24) -> Path:
    """One set for every task: train, dev and test in English and German, test in Russian too."""
    for split, codes in (("train", ("en", "de")), ("dev", ("en",)), ("test", ("en", "de", "ru"))):
        for code in codes:
            chance = random.Random(f"{split}:{code}")
            _ner(folder / "ner" / code / f"{split}.txt", code, chance, count)
            _write(folder / "xnli" / f"xnli.{split}.{code}.tsv", _nli(code, chance, count))
            rows = [
                f"{' '.join(some(code, chance, 3))},{' '.join(some(code, chance, 3))},{i % 6}" for i in range(count)
            ]
            _write(folder / "stsb" / f"stsb-{code}-{split}.csv", rows)
            _json(folder / "xquad" / f"xquad.{split}.{code}.json", squad(code, chance, count))
            _json(folder / "quac" / f"{split}.{code}.json", _quac(code, chance, count))
    for code in ("en", "de", "ru"):
        _write(folder / "text" / f"{code}.txt", sentences(code, count=60, seed=5))
    _write(folder / "words" / "en-de.tsv", ["\t".join(pair) for pair in zip(words("en"), words("de"), strict=True)])
    for code, tag in (("de", "deu"), ("ru", "rus")):
        for side, one in ((code, tag), ("en", "eng")):
            _write(
                folder / "tatoeba" / f"tatoeba.{tag}-eng.{one}", [" ".join(words(side)[i : i + 3]) for i in range(40)]
            )
    return folder


def squad(code: str, chance: random.Random, count: int) -> dict:
    articles = []
    for number in range(count // 2):
        text = some(code, chance, 20)
        context, asked = " ".join(text), []
        for turn in range(2):
            place = chance.randrange(len(text) - 2)
            start = len(" ".join(text[:place])) + (place > 0)
            answer = {"text": " ".join(text[place : place + 2]), "answer_start": start}
            asked.append({"id": f"{number}-{turn}", "question": " ".join(some(code, chance, 4)), "answers": [answer]})
        articles.append({"title": str(number), "paragraphs": [{"context": context, "qas": asked}]})
    return {"version": "1.1", "data": articles}


def _quac(code: str, chance: random.Random, count: int) -> dict:
    """The second question of every other article has no answer."""
    document = squad(code, chance, count)
    for article in document["data"][::2]:
        paragraph = article["paragraphs"][0]
        paragraph["context"] += " CANNOTANSWER"
        start = len(paragraph["context"]) - len("CANNOTANSWER")
        paragraph["qas"][1]["answers"] = [{"text": "CANNOTANSWER", "answer_start": start}]
    return document


def _nli(code: str, chance: random.Random, count: int) -> list[str]:
    rows = [
        f"{' '.join(some(code, chance, 4))}\t{' '.join(some(code, chance, 3))}\t{LABELS[i % 3]}" for i in range(count)
    ]
    return ["premise\thypothesis\tlabel", *rows]


def _ner(path: Path, code: str, chance: random.Random, count: int) -> None:
    """The first ten words are persons, wherever they stand: something that can be learnt."""
    known, lines = words(code), []
    for _ in range(count):
        for word in some(code, chance, 6):
            lines.append(f"{word} {'B-PER' if known.index(word) < 10 else 'O'}")
        lines.append("")
    _write(path, lines)


def _write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _json(path: Path, content: dict) -> None:
    _write(path, [json.dumps(content, ensure_ascii=False, indent=1)])
