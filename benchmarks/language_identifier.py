"""Language identifiers on real lines: what they know, how often they are right, their speed, and our rule's faults.

    pip install py3langid==0.4.0 lingua-language-detector==2.1.1
    python benchmarks/language_identifier.py FOLDER [--lines 400] [--save]

FOLDER is a data folder after `unibert data fetch` (its raw/ is read). Lines are cleaned, of 40 characters or more (20
in dense scripts), and in one language only, so that untranslated English is out. For each of our languages the share
of right lines that language.py's rule drops is printed where it is not zero; UNJUDGED there are those above 2 in 100.
lingua runs in its low accuracy mode, the quicker one. CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import collections
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import lingua
import py3langid.langid
import rows

from unibert.data.curation import language, scripts
from unibert.data.curation.prose import reason_to_drop
from unibert.data.curation.unicode import clean_text
from unibert.data.lines import read_rows, text_key
from unibert.languages import LANGUAGES, script_of

FEWEST = 30
MOST_DROPPED = 0.02
SCRIPT, DEVICE = "language_identifier.py --save", "CPU, 1 thread, machine shared"
LOWER, HIGHER = "share (lower is better)", "share (higher is better)"

Guess = Callable[[str], str]


def sample(folder: Path, count: int) -> dict[str, list[str]]:
    """Up to `count` lines of each language."""
    found: dict[str, dict[str, str]] = collections.defaultdict(dict)
    for path in sorted((folder / "raw").glob("*.jsonl")):
        for row in read_rows(path):
            code, text = row["language"], clean_text(row["text"])
            shortest = language.SHORTEST_DENSE if scripts.is_dense(code) else language.SHORTEST
            if len(text) >= shortest and reason_to_drop(text, code) is None:
                found[code].setdefault(text_key(text), text)
    owners = collections.Counter(key for texts in found.values() for key in texts)
    lines = {code: [text for key, text in texts.items() if owners[key] == 1] for code, texts in sorted(found.items())}
    for texts in lines.values():
        random.Random(1).shuffle(texts)
    return {code: texts[:count] for code, texts in lines.items()}


def ours(identifier: language.Identifier) -> tuple[Guess, set[str]]:
    """fastText's compressed lid.176 as language.py asks it, and its labels."""
    everything = identifier._loaded().detect("abc", model="lite", k=200, threshold=-1)
    return lambda text: identifier.guess(text)[0][0], {entry["lang"] for entry in everything}


def by_py3langid() -> tuple[Guess, set[str]]:
    """py3langid and its labels."""
    identifier = py3langid.langid._load_identifier()
    return lambda text: str(identifier.classify(text)[0]), set(map(str, identifier.nb_classes))


def by_lingua() -> tuple[Guess, set[str]]:
    """lingua and its labels."""
    detector = lingua.LanguageDetectorBuilder.from_all_languages().with_low_accuracy_mode().build()

    def guess(text: str) -> str:
        found = detector.detect_language_of(text)
        return found.iso_code_639_1.name.lower() if found else ""

    return guess, {entry.iso_code_639_1.name.lower() for entry in lingua.Language.all()}


def knows(labels: set[str], code: str) -> bool:
    """Whether one of an identifier's labels is the language's."""
    return bool({code, language._NAMES.get(code, code)} & labels)


def measured(lines: Mapping[str, Sequence[str]], guess: Guess) -> tuple[dict[str, float], float]:
    """(share of lines guessed right by language, M characters per CPU second)."""
    started = time.process_time()
    guessed = {code: [guess(text) for text in texts] for code, texts in lines.items()}
    taken = time.process_time() - started
    right = {
        code: statistics.mean(label in (code, language._NAMES.get(code, code)) for label in labels)
        for code, labels in guessed.items()
    }
    return right, sum(len(text) for texts in lines.values() for text in texts) / taken / 1e6


def compare(lines: Mapping[str, Sequence[str]], identifier: language.Identifier) -> list[list[object]]:
    """Print what each identifier knows and how often it is right; rows of ours beside each other one."""
    sides = {"fastText lid.176": ours(identifier), "py3langid 0.4.0": by_py3langid(), "lingua 2.1.1": by_lingua()}
    few = {code: texts[:100] for code, texts in lines.items()}
    results = {name: measured(few, guess) for name, (guess, _) in sides.items()}
    common = [code for code in few if all(knows(labels, code) for _, labels in sides.values())]
    for name, (right, speed) in results.items():
        known = [code for code in LANGUAGES if knows(sides[name][1], code)]
        share = statistics.mean(right[code] for code in common)
        print(f"{name}: knows {len(known)} of {len(LANGUAGES)}, right {share:.3f} in the {len(common)} that all know,")
        print(f"  {statistics.mean(right.values()):.3f} in all, {speed:.2f}M characters/s")
    (mine, speed), *_ = results.values()
    made: list[list[object]] = []
    for name, (right, other) in list(results.items())[1:]:
        shares = [statistics.mean(side[code] for code in common) for side in (mine, right)]
        shape = f"lines of 40 characters or more, {len(common)} languages that all know"
        made.append([SCRIPT, "language guessed right", name, shape, DEVICE, "share (higher is better)"])
        made[-1] += [f"{shares[0]:.3f}", f"{shares[1]:.3f}", 1]
        made.append([SCRIPT, "language guessed", name, "the same, all languages", DEVICE])
        made[-1] += ["M characters / CPU s (higher is better)", f"{speed:.2f}", f"{other:.2f}", 1]
    return made


def rule(lines: Mapping[str, Sequence[str]], identifier: language.Identifier) -> list[list[object]]:
    """Print the right lines that the rule drops, and the wrong ones: English, and others of the same script."""
    unjudged, language.UNJUDGED = language.UNJUDGED, frozenset()
    dropped = {code: share(identifier, texts, code) for code, texts in lines.items()}
    caught = {
        code: statistics.mean(
            share(identifier, texts[:30], code)
            for other, texts in lines.items()
            if script_of(other) == script_of(code) and language._NAMES.get(other, other) not in language.same(code)
        )
        for code in lines
        if script_of(code) in ("Latn", "Cyrl", "Arab", "Deva")
    }
    english = {code: share(identifier, lines["en"][:200], code) for code in lines if "en" not in language.same(code)}
    language.UNJUDGED = unjudged
    found = {code: part for code, part in sorted(dropped.items(), key=lambda item: -item[1]) if part}
    print("right lines dropped:", ", ".join(f"{code} {part:.3f}" for code, part in found.items()))
    above = sorted(code for code, part in found.items() if part > MOST_DROPPED)
    print(f"UNJUDGED should be {above}, is {sorted(unjudged)}")
    mean = statistics.mean(part for code, part in dropped.items() if code not in unjudged)
    other, en = statistics.mean(caught.values()), statistics.mean(english.values())
    print(f"mean of the others {mean:.4f}; wrong lines dropped: English {en:.3f}, of the same script {other:.3f}")
    shape = f"{len(lines) - len(unjudged)} languages"
    return [
        [SCRIPT, "right lines dropped by the language check", "", shape, DEVICE, LOWER, f"{mean:.4f}", "", 1],
        [SCRIPT, "English lines dropped in other languages", "", shape, DEVICE, HIGHER, f"{en:.3f}", "", 1],
        [SCRIPT, "lines of other languages of the script dropped", "", shape, DEVICE, HIGHER, f"{other:.3f}", "", 1],
    ]


def share(identifier: language.Identifier, texts: Sequence[str], code: str) -> float:
    """Share of texts that are dropped as not in the language."""
    return statistics.mean(reason is not None for reason in identifier.reasons(texts, code))


def main() -> None:
    """Measure and print; --save appends the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lines", type=int, default=400)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    lines = {code: texts for code, texts in sample(options.folder, options.lines).items() if len(texts) >= FEWEST}
    print(f"{len(lines)} languages; too few lines of {', '.join(code for code in LANGUAGES if code not in lines)}")
    identifier = language.Identifier()
    results = compare(lines, identifier) + rule(lines, identifier)
    if options.save:
        rows.save(results)


if __name__ == "__main__":
    main()
