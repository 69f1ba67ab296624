"""A small world for tests: text in five scripts, a Unigram tokenizer made for it, and token shards without text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from unibert.data.lines import json_line
from unibert.data.shard_format import SpecialIds, TokenizerFacts, language_entry, write_file, write_manifest
from unibert.schema import Recipe

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
TEXT = {
    "en": ["The file could not be opened.", "Save the page before you leave.", "An unknown error occurred."],
    "de": ["Die Datei konnte nicht geöffnet werden.", "Speichern Sie die Seite.", "Größe ändern und schließen."],
    "ru": ["Не удалось открыть файл.", "Сохраните страницу перед выходом.", "Произошла неизвестная ошибка."],
    "ar": ["تعذر فتح الملف.", "احفظ الصفحة قبل المغادرة.", "حدث خطأ غير معروف."],
    "zh": ["无法打开文件。", "离开之前请保存页面。", "发生未知错误。"],
    "hi": ["फ़ाइल खोली नहीं जा सकी।", "जाने से पहले पृष्ठ सहेजें।", "एक अज्ञात त्रुटि हुई।"],
}
FACTS = TokenizerFacts("fingerprint", 1000, SpecialIds(cls=0, sep=2, pad=1, mask=999, unk=3))


def lines(code: str, *, count: int = 60) -> list[str]:
    """Different documents of a language: its sentences joined in changing numbers and orders."""
    text = TEXT[code]
    return [" ".join(text[(i + j) % len(text)] for j in range(1 + i % 4)) + f" {i}" for i in range(count)]


def write_texts(folder: Path, *, codes: tuple[str, ...], count: int = 60) -> None:
    """clean/ and heldout/lines/ of a data folder."""
    for part, amount in (("clean", count), ("heldout/lines", 10)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for code in codes:
            rows = [{"id": f"t:{i}", "text": text, "source": "t"} for i, text in enumerate(lines(code, count=amount))]
            write_rows(folder / part / f"{code}{'-00000' if part == 'clean' else ''}.jsonl", rows)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """JSON Lines, in the bytes that the stages write."""
    path.write_bytes(b"".join(map(json_line, rows)))


def write_teacher(folder: Path, *, codes: tuple[str, ...]) -> Path:
    """A teacher's tokenizer in XLM-R's make: Unigram over words, their halves and characters, <mask> the last piece."""
    words = [f"▁{word}" for code in codes for text in lines(code) for word in text.split()]
    halves = [half for word in words for half in (word[: len(word) // 2], word[len(word) // 2 :])]
    counts = Counter([*words, *halves, *"".join(words)])
    total = counts.total()
    pieces = [(name, 0.0) for name in SPECIALS[:4]]
    pieces += [(piece, math.log(count / total)) for piece, count in counts.most_common() if piece]
    pieces.append(("<mask>", 0.0))
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(SPECIALS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def recipe(folder: Path, *, languages: tuple[str, ...], **tables: dict) -> Recipe:
    """A recipe on `folder`; tables are merged over small defaults."""
    tree: dict = {
        "name": "small",
        "languages": languages,
        "data": {"folder": folder, "max_sequence_tokens": 32} | tables.pop("data", {}),
        "teacher": {"original": folder / "teacher", "trimmed": folder / "trimmed"},
        "train": {"steps": 10, "global_batch_sequences": 16, "micro_batch_sequences": 4} | tables.pop("train", {}),
        "objectives": {"masked_lm": {}},
    }
    return Recipe.model_validate(tree | tables)


def write_shards(
    folder: Path, *, samples: dict[str, int], longest: int = 32, samples_per_file: int = 1 << 28
) -> dict[str, list[np.ndarray]]:
    """Shards of random ids, in chunks of 7 samples; returns what was written."""
    random = np.random.default_rng(0)
    written: dict[str, list[np.ndarray]] = {}
    entries = {}
    for code, count in samples.items():
        bodies = [random.integers(4, 999, size=random.integers(1, longest - 1)) for _ in range(count)]
        written[code] = [np.concatenate([[0], body, [2]]) for body in bodies]
        files = [
            write_file(
                folder / f"{code}-{number:05d}.tokens",
                language=code,
                chunks=[
                    (np.concatenate(part[i : i + 7]), np.array(list(map(len, part[i : i + 7]))))
                    for i in range(0, len(part), 7)
                ],
                tokenizer=FACTS,
            )
            for number, part in enumerate(_parts(written[code], samples_per_file))
        ]
        entries[code] = language_entry(files, tokenizer=FACTS, facts={"characters": 10 * count})
    write_manifest(folder, tokenizer=FACTS, max_sequence_tokens=longest, languages=entries)
    return written


def _parts(samples: list[np.ndarray], size: int) -> list[list[np.ndarray]]:
    return [samples[i : i + size] for i in range(0, len(samples), size)]
