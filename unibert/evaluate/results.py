"""What evaluation found, as data: one `ModelResult` per model folder, one `Report` per run; JSON both ways."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from unibert.evaluate.probe import ProbeScore
from unibert.evaluate.retrieval import RetrievalScore

# Names of ISO 15924 codes, as people know them.
SCRIPTS = {
    "Arab": "Arabic", "Armn": "Armenian", "Beng": "Bengali", "Cyrl": "Cyrillic", "Deva": "Devanagari",
    "Ethi": "Ethiopic", "Geor": "Georgian", "Grek": "Greek", "Gujr": "Gujarati", "Guru": "Gurmukhi",
    "Hans": "Han", "Hant": "Han", "Hebr": "Hebrew", "Jpan": "Japanese", "Khmr": "Khmer", "Knda": "Kannada",
    "Kore": "Korean", "Latn": "Latin", "Mlym": "Malayalam", "Mymr": "Myanmar", "Sinh": "Sinhala",
    "Taml": "Tamil", "Telu": "Telugu", "Thai": "Thai",
}  # fmt: skip

TEACHER, BEFORE, STUDENT = "teacher", "student before training", "student"


class Data(BaseModel):
    """Frozen, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MaskedScore(Data):
    """Masked prediction in one language: nats per target, share of targets ranked first, number of targets."""

    cross_entropy: float
    accuracy: float
    targets: int


class Removed(Data):
    """Retrieval and probe of embeddings that have lost their language's part."""

    rank: int
    """Directions removed of each language."""
    lines: int
    """Held-out lines of all languages that retrieval's parts were fitted on."""
    retrieval: dict[str, RetrievalScore]
    probe: dict[str, ProbeScore]


class ModelResult(Data):
    """Everything measured of one model."""

    name: str
    folder: str
    key: str
    """Fingerprint of weights, held-out data and settings: the same key gives the same numbers."""
    dtype: str
    parameters: int
    parameters_without_embeddings: int
    """Of encoder layers and heads: without word, position and type embeddings and the tied decoder."""
    layers: int
    hidden_size: int
    masked: dict[str, MaskedScore]
    retrieval: dict[str, RetrievalScore]
    probe: dict[str, ProbeScore]
    """By feature: `mean` over tokens, `first` token."""
    removed: Removed | None = None
    """The same without the language's part; None when that was not asked for."""
    seconds: float

    @property
    def without_language(self) -> ModelResult | None:
        """Itself as it is without the language's part, where that was measured."""
        if self.removed is None:
            return None
        new = {"name": f"{self.name}, language removed (rank {self.removed.rank})", "masked": {}, "removed": None}
        return self.model_copy(update=new | {"retrieval": self.removed.retrieval, "probe": self.removed.probe})

    def mean(self, metric: str, *, among: Iterable[str] | None = None) -> float:
        """Plain mean over languages (all, or those of `among`) of a metric of `per_language`; NaN without any."""
        values = self.per_language(metric)
        kept = [values[code] for code in (values if among is None else among) if code in values]
        return sum(kept) / len(kept) if kept else float("nan")

    def per_language(self, metric: str) -> dict[str, float]:
        """`cross_entropy`, `accuracy`, `to_english`, `from_english` or `probe_recall` of each language that has it."""
        if metric in ("cross_entropy", "accuracy"):
            return {code: getattr(score, metric) for code, score in self.masked.items()}
        if metric in ("to_english", "from_english", "chance_to_english", "chance_from_english"):
            return {code: getattr(score, metric) for code, score in self.retrieval.items()}
        if metric == "probe_recall":
            return dict(self.probe["mean"].recall) if "mean" in self.probe else {}
        raise ValueError(f"no metric {metric!r}")


class LanguageFacts(Data):
    """How a language is shown and grouped."""

    name: str
    script: str
    family: str


class Baseline(Data):
    """Cross-entropy of the same targets from the training text's token frequencies, in nats per language."""

    strongest: str
    """The kind with the lowest mean: the one that models are compared with."""
    kinds: dict[str, dict[str, float]]
    accuracy: dict[str, float]
    """Share of targets that are the language's most frequent token."""

    @property
    def values(self) -> Mapping[str, float]:
        """The strongest kind, per language."""
        return self.kinds[self.strongest]

    def mean(self, kind: str | None = None) -> float:
        """Plain mean over languages of a kind, or of the strongest."""
        values = self.kinds[kind or self.strongest].values()
        return sum(values) / len(values)


class Report(Data):
    """A run's evaluation: what report.json holds."""

    run: str
    made: str
    """Date and time, UTC, ISO 8601."""
    command: str
    versions: dict[str, str]
    languages: dict[str, LanguageFacts]
    sources: dict[str, int]
    """Held-out lines by the source they come from."""
    messages: int
    """Held-out parallel messages."""
    left_out: dict[str, str]
    """What was not measured, and why: "retrieval xx" -> reason."""
    baseline: Baseline
    models: list[ModelResult]

    def model(self, name: str) -> ModelResult | None:
        """The model of that name."""
        return next((model for model in self.models if model.name == name), None)

    @property
    def main(self) -> ModelResult:
        """The model that the report is about: the student, or the last one when none is called so."""
        return self.model(STUDENT) or self.models[-1]

    def groups(self, by: str) -> dict[str, list[str]]:
        """Languages by `script` or `family`, the largest group first, then by name."""
        groups: dict[str, list[str]] = {}
        for code, facts in self.languages.items():
            groups.setdefault(getattr(facts, by), []).append(code)
        return dict(sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])))


def read_result(path: Path, *, key: str) -> ModelResult | None:
    """The cached result at `path` if it is whole and was made from what `key` names; None otherwise."""
    try:
        result = ModelResult.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError):
        return None  # absent, cut off, or of another version of this program: measured anew
    return result if result.key == key else None


def slug(name: str) -> str:
    """A model's name as part of a file name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name)
