"""report.json, report.md and the charts of an evaluation, in `runs/<name>/report/`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from unibert.data.lines import atomic, say
from unibert.evaluate.charts import masked_chart, retrieval_chart
from unibert.evaluate.curves import HELDOUT, read_metrics, training_chart
from unibert.evaluate.heatmap import heatmap_chart
from unibert.evaluate.results import TEACHER, ModelResult, Report

KINDS = {
    "mediawiki": "interface messages of a wiki",
    "firefox": "interface messages of a browser",
    "wordpress": "interface messages of a blog",
    "gnome-user-docs": "desktop help",
    "libreoffice-help": "office help",
    "quran": "scripture",
    "udhr": "the Declaration of Human Rights",
    "wikipedia": "encyclopaedia",
}
"""What kind of text a source is, where its name does not say it."""
LIMITS = (
    "Held-out text comes from the sources of the training text, named above. The numbers say how the models compare "
    "with each other on such text, and not how well any of them does elsewhere.",
    "Messages repeat names and placeholders, which makes finding a translation easier than in prose.",
    "Nothing is put before a text, so a teacher whose card asks for a prefix may do better with it.",
    "A probe that fails shows that no linear map reads the language, not that the language is gone.",
)


def write_report(report: Report, folder: Path, *, metrics: Path) -> None:
    """Write report.json, report.md and the charts.

    Args:
        report: what was measured.
        folder: made if missing.
        metrics: the run's metrics.jsonl; without held-out values in it the chart of the run is left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    charts = []
    if any(model.retrieval for model in report.models):
        charts += [("Retrieval per language", retrieval_chart(report, folder / "retrieval.png"))]
        charts += [("Languages, scripts and models", heatmap_chart(report, folder / "languages.png"))]
    if any(model.masked for model in report.models):
        charts += [("Masked prediction per language", masked_chart(report, folder / "masked.png"))]
    series = read_metrics(metrics)
    if HELDOUT in series:
        charts += [("The run", training_chart(report, series, folder / "training.png"))]
    whole = {"headline": headline(report), "groups": groups(report), **report.model_dump(mode="json")}
    with atomic(folder / "report.json") as file:
        file.write(json.dumps(_finite(whole), ensure_ascii=False, indent=1) + "\n")
    with atomic(folder / "report.md") as file:
        file.write(markdown(report, charts=[(name, path.name) for name, path in charts]))
    say(f"evaluate: {folder / 'report.md'} and {len(charts)} charts beside it")


def headline(report: Report) -> list[dict[str, Any]]:
    """One row per model, means over languages, and the student's share of the teacher's retrieval."""
    teacher = report.model(TEACHER)
    rows = []
    for model in report.models:
        row: dict[str, Any] = {
            "model": model.name,
            "layers": model.layers,
            "parameters": model.parameters,
            "parameters_without_embeddings": model.parameters_without_embeddings,
        }
        for metric in ("cross_entropy", "accuracy", "to_english", "from_english"):
            row[metric] = model.mean(metric)
        for feature, probe in model.probe.items():
            row[f"probe_{feature}"] = probe.accuracy
        if (left := model.without_language) is not None:
            row |= {f"{way}_without_language": left.mean(way) for way in ("to_english", "from_english")}
            row |= {f"probe_{feature}_without_language": probe.accuracy for feature, probe in left.probe.items()}
        for metric in ("to_english", "from_english"):
            row[f"{metric}_of_teacher"] = _share(model, teacher, metric)
        rows.append(row)
    return rows


def _share(model: ModelResult, other: ModelResult | None, metric: str) -> float | None:
    """A model's mean over another's, on the languages that both have."""
    if other is None:
        return None
    both = set(model.per_language(metric)) & set(other.per_language(metric))
    below = other.mean(metric, among=both)
    return model.mean(metric, among=both) / below if both and below else None


def groups(report: Report) -> dict[str, dict[str, dict[str, Any]]]:
    """Means per script and per family: {"script": {"Latin": {"languages": 40, "baseline": ..., model: {...}}}}."""
    metrics = ("cross_entropy", "accuracy", "to_english", "from_english", "probe_recall")
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for by in ("script", "family"):
        out[by] = {}
        for group, codes in report.groups(by).items():
            known = [report.baseline.values[code] for code in codes if code in report.baseline.values]
            row: dict[str, Any] = {"languages": len(codes), "baseline": sum(known) / len(known) if known else None}
            for model in report.models:
                row[model.name] = {metric: model.mean(metric, among=codes) for metric in metrics}
            out[by][group] = row
    return out


def markdown(report: Report, *, charts: Sequence[tuple[str, str]] = ()) -> str:
    """The report for people."""
    parts = [f"# Evaluation of `{report.run}`\n", *_headline_lines(report)]
    parts += [f"\n![{name}]({file})" for name, file in charts]
    for by in ("script", "family"):
        parts += [f"\n## By {by}\n", *_group_lines(report, by)]
    parts += ["\n## By language\n", *_language_lines(report)]
    parts += ["\n## How it was made\n", *_method_lines(report)]
    parts += ["\n## Limits\n", *(f"- {line}" for line in LIMITS)]
    return "\n".join(parts) + "\n"


def _headline_lines(report: Report) -> Iterator[str]:
    yield from _table_head(
        "model", "layers", "parameters (without embeddings)", "masked cross-entropy, nats ↓", "accuracy ↑",
        "retrieval xx → en ↑", "en → xx ↑", "language probe, mean", "first token",
    )  # fmt: skip
    for model in _shown(report):
        size = f"{model.parameters / 1e6:.1f}M ({model.parameters_without_embeddings / 1e6:.1f}M)"
        probes = [_probe(model, feature) for feature in ("mean", "first")]
        numbers = [_number(model.mean(m), 3) for m in ("cross_entropy", "accuracy", "to_english", "from_english")]
        yield _row(model.name, model.layers, size, *numbers, *probes)
    main, teacher = report.main, report.model(TEACHER)
    if teacher is not None and main is not teacher:
        shares = [_percent(_share(main, teacher, metric)) for metric in ("to_english", "from_english")]
        layers = _percent(main.layers / teacher.layers)
        size = _percent(main.parameters / teacher.parameters)
        yield _row(f"*{main.name} / {teacher.name}*", layers, size, "", "", *shares, "", "")
    base = report.baseline
    common = sum(base.accuracy.values()) / len(base.accuracy)
    chances = [_number(main.mean(f"chance_{way}"), 4) for way in ("to_english", "from_english")]
    probe = next(iter(main.probe.values()), None)
    guess = f"chance {probe.chance:.3f}, majority {probe.majority:.3f}" if probe else ""
    yield _row(
        "*token frequencies, chance*", "", "", _number(base.mean(), 3), _number(common, 3), *chances, guess, guess
    )
    yield f"\n{_reading(report)}"


def _shown(report: Report) -> Iterator[ModelResult]:
    """The models, each followed by itself without the language's part where that was measured."""
    for model in report.models:
        yield model
        if (left := model.without_language) is not None:
            yield left


def _reading(report: Report) -> str:
    """What the table says of the main model, in sentences."""
    main, base = report.main, report.baseline
    said = []
    if main.masked:
        gap = base.mean() - main.mean("cross_entropy")
        beats = sum(score.cross_entropy < base.values[code] for code, score in main.masked.items())
        said.append(
            f"Held-out masked cross-entropy of the {main.name} is {abs(gap):.2f} nats "
            f"{'below' if gap > 0 else 'above'} that of token frequencies alone, and it is below in {beats} "
            f"of {len(main.masked)} languages."
        )
    others = [(other.name, _share(main, other, "to_english")) for other in report.models if other is not main]
    shares = " and ".join(f"{_percent(share)} of the {name}'s" for name, share in others if share is not None)
    if shares:
        said.append(f"Its mean retrieval into English is {shares}.")
    return " ".join(said)


def _group_lines(report: Report, by: str) -> Iterator[str]:
    names = [model.name for model in report.models]
    yield from _table_head(
        by, "languages", *(f"xx → en, {name}" for name in names), *(f"nats, {name}" for name in names),
        "nats, token frequencies",
    )  # fmt: skip
    for group, row in groups(report)[by].items():
        found = [_number(row[name]["to_english"], 3) for name in names]
        nats = [_number(row[name]["cross_entropy"], 2) for name in names]
        yield _row(group, row["languages"], *found, *nats, _number(row["baseline"], 2))


def _language_lines(report: Report) -> Iterator[str]:
    names = [model.name for model in report.models]
    yield from _table_head(
        "language", "", "script", "family", *(f"xx → en, {name}" for name in names),
        *(f"nats, {name}" for name in names), "nats, token frequencies", f"probe recall, {report.main.name}",
    )  # fmt: skip
    for code, facts in sorted(report.languages.items()):
        found = [_number(model.per_language("to_english").get(code), 3) for model in report.models]
        nats = [_number(model.per_language("cross_entropy").get(code), 2) for model in report.models]
        recall = _number(report.main.per_language("probe_recall").get(code), 2)
        base = _number(report.baseline.values.get(code), 2)
        yield _row(code, facts.name, facts.script, facts.family, *found, *nats, base, recall)


def _method_lines(report: Report) -> Iterator[str]:
    main, base = report.main, report.baseline
    targets = sum(score.targets for score in main.masked.values())
    kinds = ", ".join(f"{kind.replace('_', ' ')} {base.mean(kind):.3f}" for kind in base.kinds)
    sources = ", ".join(f"{count} of {_kind(name)}" for name, count in report.sources.items())
    probe = next(iter(main.probe.values()), None)
    most = max((score.messages for score in main.retrieval.values()), default=0)
    yield f"- `{report.command}`, {report.made}; " + ", ".join(f"{k} {v}" for k, v in report.versions.items())
    for model in report.models:
        yield f"- {model.name}: `{model.folder}`, {model.dtype}, measured in {model.seconds:.0f} s"
    yield "- Every mean is over languages, each weighing the same."
    yield f"- Masked prediction: {targets} targets with fixed masks in held-out lines, the same for all models."
    yield f"- Held-out lines: {sources}"
    yield (
        f"- Token frequencies: those of the training shards, on the same targets. Add-one per language, add-one over "
        f"all languages, and Witten-Bell (the language backed off to all); means {kinds}. Compared with: the lowest."
    )
    yield (
        f"- Retrieval: {report.messages} messages held out by text, at most {most} asked of a language; mean of the "
        f"last hidden state over tokens, cosine; best of all English messages (into English), or of the language's "
        f"own (out of it); copies of the English left out."
    )
    if probe is not None:
        yield (
            f"- Language probe: a fresh multinomial logistic regression on frozen, standardised features; "
            f"{probe.train} training and {probe.test} test lines, by a hash of the text; 95 % Wilson intervals."
        )
    if (removed := main.removed) is not None:
        yield (
            f"- Language removed (LIR): a text's embedding loses the first {removed.rank} left singular vectors of its "
            f"language's, which must be told; for retrieval they are of {removed.lines} held-out lines, none of them "
            f"a message, for the probe of its training lines."
        )
    for what, why in report.left_out.items():
        yield f"- Left out: {what} ({why})"


def _kind(source: str) -> str:
    return f"{source} ({KINDS[source]})" if source in KINDS else source


def _probe(model: ModelResult, feature: str) -> str:
    probe = model.probe.get(feature)
    return f"{probe.accuracy:.3f} [{probe.low:.3f}, {probe.high:.3f}]" if probe else ""


def _table_head(*names: str) -> Iterator[str]:
    yield _row(*names)
    yield "|" + "---|" * len(names)


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _finite(tree: Any) -> Any:
    """The tree with NaN as null: JSON has no NaN."""
    if isinstance(tree, dict):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
