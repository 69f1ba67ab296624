"""The data report as a page: what a user needs first comes first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from unibert.data.report import html
from unibert.data.report.charts import WIDTH
from unibert.data.report.facts import STAGES, Facts
from unibert.plan import MANY_EPOCHS

SAMPLES, SHOWN_CHARACTERS = 5, 400
"""Most samples shown of a language and reason, and most characters of one."""
MUCH_UNWRITTEN, MUCH_DROPPED, MUCH_CHANGED = 0.02, 0.9, 0.01
"""Shares from which a language is worth a look: tokens unknown or bytes, rows dropped, documents not given back."""
REASONS = {
    "broken": "a replacement character, or a mark without its letter",
    "duplicate": "the same text as another row",
    "english": "the same as the English text: not translated yet",
    "heldout": "kept for evaluation, or equal to what is",
    "length": "too short or too long",
    "letters": "too few letters among its characters",
    "markup": "remains of markup, placeholders or code",
    "near_duplicate": "nearly the same text as another row",
    "over_cap": "more than data.max_lines_per_language",
    "script": "mostly in another script than the language's",
    "words": "too few words",
}


def _count(key: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: f"{row[key]:,}"


def _percent(key: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: f"{100 * row[key]:.2f}"


def _number(key: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: f"{row[key]:.2f}"


COLUMNS: tuple[tuple[str, str, Callable[[dict[str, Any]], str]], ...] = (
    ("language", "", lambda row: f"{row['name']} · {row['code']}"),
    ("documents", "of clean text, deduplicated, without the held-out part", _count("documents")),
    ("tokens", "with the first and last token of each document piece", _count("tokens")),
    ("found %", "share of the tokens", _percent("found")),
    ("stream %", "share of the training stream, smoothed; the bar compares the languages", _percent("share")),
    ("repeated", "how often a document is seen in the run", _number("epochs")),
    (
        "tok/word",
        "tokens per word, which ends with white space: of no meaning in scripts without spaces",
        _number("tokens_per_word"),
    ),
    ("chars/tok", "characters per token", _number("characters_per_token")),
    ("unk. %", "tokens that are unknown", _percent("unknown")),
    ("bytes %", "tokens that are single bytes of a character", _percent("bytes")),
    (
        "exact %",
        "documents that decoding gives back as the tokenizer's normaliser leaves them (WordPiece sets spaces anew)",
        _percent("round_trip"),
    ),
    ("median", "tokens of a document piece", lambda row: f"{row['lengths']['0.5']:,}"),
    ("longest", "tokens of a document piece", lambda row: f"{row['lengths']['1']:,}"),
    ("dropped %", "rows dropped by all stages", _percent("lost")),
    ("held out", "documents for evaluation", _count("heldout_documents")),
    ("characters", "before normalisation", _count("characters")),
    ("script", "ISO 15924", lambda row: row["script"]),
)
"""Of the table of languages: (heading, meaning, what is written)."""


def compose(facts: Facts, charts: Mapping[str, bytes]) -> str:
    """The page."""
    sections = {
        "languages": ("Languages", _languages),
        "shares": ("Shares before and after smoothing", _shares),
        "dropped": ("What was dropped", _dropped),
        "samples": ("Sources and dropped text, language by language", _samples),
        "tokenizer": ("Tokenizer", _tokenizer),
        "lengths": ("Lengths and packing", _lengths),
        "sources": ("Sources and licences", _sources),
    }
    body = [_glance(facts), html.contents((name, title) for name, (title, _) in sections.items())]
    body += [html.section(name, title, *make(facts, charts)) for name, (title, make) in sections.items()]
    return html.page(f"The text of {facts.tokens['recipe']}", body)


def _glance(facts: Facts) -> str:
    totals = facts.tokens["totals"]
    dropped = sum(facts.all_dropped(code).total() for code in facts.languages)
    share = dropped / max(dropped + sum(facts.kept.values()), 1)
    numbers = [
        (f"{len(facts.languages)}", "languages"),
        (f"{totals['documents']:,}", "documents"),
        (f"{totals['characters']:,}", "characters"),
        (f"{totals['tokens']:,}", "tokens"),
        (f"{share:.0%}", "of the rows dropped"),
    ]
    notes = list(_worth_a_look(facts))
    return html.tiles(numbers) + (html.paragraph("Worth a look:") + html.bullets(notes) if notes else "")


def _worth_a_look(facts: Facts) -> Iterator[str]:
    rows = facts.languages
    checks: dict[str, dict[str, float]] = {
        f"repeated more than {MANY_EPOCHS} times in the run": {
            code: row["epochs"] for code, row in rows.items() if row["epochs"] > MANY_EPOCHS
        },
        f"more than {MUCH_UNWRITTEN:.0%} of the tokens unknown or single bytes": {
            code: part for code, row in rows.items() if (part := row["unknown"] + row["bytes"]) > MUCH_UNWRITTEN
        },
        f"more than {MUCH_CHANGED:.0%} of the documents not given back by decoding": {
            code: 1 - row["round_trip"] for code, row in rows.items() if 1 - row["round_trip"] > MUCH_CHANGED
        },
        f"more than {MUCH_DROPPED:.0%} of the rows dropped": {
            code: part for code in rows if (part := _share_dropped(facts, code)) > MUCH_DROPPED
        },
    }
    for what, found in checks.items():
        worst = sorted(found, key=lambda code: -found[code])
        shown = ", ".join(
            f"{code} {found[code]:.0f}x" if found[code] > 1 else f"{code} {found[code]:.0%}" for code in worst
        )
        if worst:
            yield f"{what}: {shown}"
    for stage in facts.uncounted:
        yield f"what {stage} dropped is not known: it left no report in {facts.folder}"
    for stage in facts.unsampled:
        yield (
            f"no samples of what {stage} dropped: {facts.folder} was made before samples were kept "
            f"(unibert data {stage} {facts.tokens['recipe']} --force makes them)"
        )


def _languages(facts: Facts, charts: Mapping[str, bytes]) -> Iterator[str]:
    largest = max(row["share"] for row in facts.languages.values())
    rows = []
    for code, found in zip(facts.languages, facts.found(), strict=True):
        row = facts.languages[code] | {"code": code, "found": found, "lost": _share_dropped(facts, code)}
        cells = [(write(row), row["share"] / largest if name == "stream %" else None) for name, _, write in COLUMNS]
        rows.append([html.cell(text, part=part) for text, part in cells])
    yield html.folded("What the columns mean", html.bullets(f"{name}: {why}" for name, why, _ in COLUMNS if why))
    yield html.table((name for name, _, _ in COLUMNS), rows)


def _share_dropped(facts: Facts, code: str) -> float:
    dropped = facts.all_dropped(code).total()
    return dropped / max(dropped + facts.kept[code], 1)


def _shares(facts: Facts, charts: Mapping[str, bytes]) -> Iterator[str]:
    yield html.paragraph(
        f"Where a dot of the stream is right of what was found, the language is seen more often than its text would "
        f"give, in the {facts.tokens['sequences']:,} documents of the run.",
        soft=True,
    )
    yield html.picture(charts["shares"], alt="Share of each language as found and in the stream", width=WIDTH)


def _dropped(facts: Facts, charts: Mapping[str, bytes]) -> Iterator[str]:
    rows = []
    for stage, counts in facts.dropped.items():
        totals = sum(counts.values(), Counter())
        for reason, number in totals.most_common():
            texts = [STAGES[stage], reason, f"{number:,}", f"{sum(count[reason] > 0 for count in counts.values())}"]
            rows.append([*map(html.cell, texts), html.cell(REASONS.get(reason, ""))])
    yield html.table(["stage", "reason", "rows", "languages", "meaning"], rows, words=True)
    yield html.picture(charts["dropped"], alt="What became of the rows of each language", width=WIDTH)


def _samples(facts: Facts, charts: Mapping[str, bytes]) -> Iterator[str]:
    yield html.paragraph("Open a language. Rows of the sources are counted before cleaning.", soft=True)
    for code, row in facts.languages.items():
        rows = {name: stamp["languages"].get(code, 0) for name, stamp in facts.sources.items()}
        origin = " · ".join(f"{name} {count:,}" for name, count in rows.items() if count) or "not known"
        counts = facts.all_dropped(code)
        gone = " · ".join(f"{reason} {number:,}" for reason, number in counts.most_common()) or "nothing"
        parts = [html.paragraph(f"Sources: {origin}"), html.paragraph(f"Dropped: {gone}")]
        shown: Counter[tuple[str, str]] = Counter()
        for sample in facts.samples.get(code, ()):
            key = (sample["stage"], sample["reason"])
            shown[key] += 1
            if shown[key] <= SAMPLES:
                parts.append(html.sample(_cut(sample["text"]), label=f"{key[0]} · {key[1]} · {sample['id']}"))
        yield html.folded(f"{row['name']} · {code}: {facts.kept[code]:,} kept, {counts.total():,} dropped", *parts)


def _tokenizer(facts: Facts, charts: Mapping[str, bytes]) -> Iterator[str]:
    report = facts.tokens["tokenizer"] or {}
    settings = report.get("settings", {})
    kind = settings.get("kind", "the teacher's, trimmed")
    pieces = f", {report['pieces']:,} pieces" if "pieces" in report else ""
    yield html.paragraph(f"{kind}{pieces}")
    unknown = {code: row["unknown_characters"] for code, row in facts.languages.items() if row["unknown_characters"]}
    if unknown:
        lines = [f"{code}: " + " ".join(f"{c} {n}" for c, n in found.items()) for code, found in unknown.items()]
        yield html.folded(f"Unknown characters, in {len(unknown)} languages", html.bullets(lines))
    for name in ("tokens_per_word", "characters_per_token"):
        yield html.picture(charts[name], alt=f"{name.replace('_', ' ')} in each language", width=WIDTH)


def _lengths(facts: Facts, charts: Mapping[str, bytes]) -> Iterator[str]:
    totals = facts.tokens["totals"]
    yield html.paragraph(facts.packing)
    yield html.paragraph(
        f"{totals['documents']:,} documents became {totals['samples']:,} pieces; {totals['dropped_tokens']:,} tokens "
        f"of last pieces too short, and {totals['dropped_documents']:,} documents without an ordinary token, were left "
        "out."
    )
    yield html.picture(charts["lengths"], alt="Lengths of document pieces in each language", width=WIDTH)


def _sources(facts: Facts, charts: Mapping[str, bytes]) -> Iterator[str]:
    if not facts.sources:
        yield html.paragraph("raw/manifest.json is not there, so the sources of this folder are not known.")
        return
    rows = []
    for name, stamp in facts.sources.items():
        versions = " ".join([*stamp.get("packages", []), *stamp.get("versions", [])])
        texts = [f"{stamp['rows']:,}", f"{len(stamp['languages'])}"]
        rows.append([html.cell(name), html.cell(stamp["licence"]), *map(html.cell, texts)])
        rows[-1].append(html.cell(_cut(versions)))
    yield html.table(["source", "licence", "rows before cleaning", "languages", "packages"], rows, words=True)
    if facts.skipped:
        yield html.bullets(f"left out: {name}, {why}" for name, why in facts.skipped.items())


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
