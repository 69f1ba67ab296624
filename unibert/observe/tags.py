"""Every tag a run may log, as data: TensorBoard's charts, the README's table and the logger's check come from here.

A pattern is a tag with at most one `<placeholder>`; its `when` says, for a recipe, what fills the placeholder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from unibert.config import Recipe
from unibert.languages import script_of
from unibert.pair_rules import reads_teacher
from unibert.table import Table


@dataclass(frozen=True)
class When:
    """In which runs, and at which steps, a tag is there.

    Attributes:
        words: the same for people.
        names: what fills the placeholder under a recipe: `("",)` for a tag without one, `()` when it does not apply.
        evaluation: only at evaluation steps.
        known_device: only where the device's peak FLOP/s is known (observe/flops.py).
    """

    words: str
    names: Callable[[Recipe], Sequence[str]]
    evaluation: bool = False
    known_device: bool = False


@dataclass(frozen=True)
class Tag:
    """One row of the table.

    Attributes:
        pattern: the tag.
        unit: what its number counts.
        when: where it applies.
        meaning: what it says, in a few words.
        point: how a TensorBoard point sums up the steps since the point before (metrics.jsonl has every step).
        chart: title of the chart it shares with others on the custom-scalars page; its own when empty.
    """

    pattern: str
    unit: str
    when: When
    meaning: str
    point: Literal["mean", "last", "max"] = "mean"
    chart: str = ""

    @property
    def group(self) -> str:
        """The category it stands in on the custom-scalars page."""
        return self.pattern.split("/")[0].replace("_", " ")

    def concrete(self, recipe: Recipe) -> list[str]:
        """The tags this pattern stands for under a recipe."""
        return [self.pattern if not name else re.sub(r"<\w+>", name, self.pattern) for name in self.when.names(recipe)]


def _once(condition: bool) -> Sequence[str]:
    return ("",) if condition else ()


def _learns_from_teacher(name: str, table: Table) -> bool:
    return name.startswith("distill_") or reads_teacher(name, table)


def _asks_cache(recipe: Recipe, name: str, table: Table) -> bool:
    """Whether an objective's answers are there for training's text alone."""
    return recipe.teacher is not None and recipe.teacher.kind == "cached" and _learns_from_teacher(name, table)


ALWAYS = When("always", lambda recipe: _once(True))
EACH_OBJECTIVE = When("the objective is on", lambda recipe: tuple(recipe.objectives.on()))
EACH_LANGUAGE = When("masked_lm is on", lambda recipe: recipe.languages if recipe.objectives.masked_lm else ())
EACH_PLAYER = When(
    "student always, discriminator with language_guess",
    lambda recipe: ("student", "discriminator") if recipe.objectives.language_guess else ("student",),
)
ADVERSARY = When("language_guess is on", lambda recipe: _once(recipe.objectives.language_guess is not None))
TEACHER_LOGITS = When("distill_logits is on", lambda recipe: _once(recipe.objectives.distill_logits is not None))
TEACHER = When(
    "an objective learns from the teacher",
    lambda recipe: _once(any(_learns_from_teacher(*item) for item in recipe.objectives.on().items())),
)
IN_BATCH = When(
    "align_sentences has form info_nce",
    lambda recipe: _once(getattr(recipe.objectives.align_sentences, "form", None) == "info_nce"),
)
HELDOUT_OBJECTIVE = When(
    "evaluation steps, for what needs no cached teacher",
    lambda recipe: tuple(
        name for name, table in recipe.objectives.on().items() if not _asks_cache(recipe, name, table)
    ),
    evaluation=True,
)
EVALUATION = When("evaluation steps", lambda recipe: _once(True), evaluation=True)
TO_ENGLISH = When(
    "evaluation steps, with English and another language",
    lambda recipe: _once("en" in recipe.languages and len(recipe.languages) > 1),
    evaluation=True,
)
LAMB = When("optimizer.name is lamb", lambda recipe: _once(recipe.optimizer.name == "lamb"))
REPORT = When("`unibert report --tensorboard`", lambda recipe: ())
# Precision is the engine file's, not the recipe's: no list of expected tags has these.
FP16 = When("the player's engine is in fp16", lambda recipe: ())
KNOWN_DEVICE = When("a device of known peak", lambda recipe: _once(True), known_device=True)

TAGS: tuple[Tag, ...] = (
    Tag("loss/total", "weighted sum", ALWAYS, "sum of weight x loss over the student's objectives"),
    Tag(
        "loss/<objective>", "nats; of states, scores, maps: squared distance; align_sentences: by form", EACH_OBJECTIVE,
        "the loss before its weight: sum of its terms / their number, over all ranks",
    ),
    Tag(
        "loss_heldout/<objective>", "as loss/<objective>", HELDOUT_OBJECTIVE,
        "the same on held-out text and pairs, by the models as they are", "last",
    ),
    Tag(
        "loss_by_language/<code>", "nats per target", EACH_LANGUAGE,
        "masked-LM cross-entropy of a language; none at a step without that language", chart="<script>",
    ),
    Tag(
        "adversary/accuracy", "fraction", ADVERSARY,
        "documents (tokens) whose language the discriminator guesses, before it moves", chart="accuracy and chance",
    ),
    Tag(
        "adversary/chance", "fraction", ADVERSARY,
        "the same by always saying the most frequent language", chart="accuracy and chance",
    ),
    Tag(
        "teacher/agreement_top1", "fraction", TEACHER_LOGITS,
        "compared positions where the student's first choice is the teacher's",
    ),
    Tag(
        "align/retrieval_top1", "fraction", IN_BATCH,
        "first sides whose nearest second side in their group is their own translation",
    ),
    Tag(
        "eval/masked_cross_entropy", "nats per target", EVALUATION,
        "held-out masked cross-entropy, mean over languages", "last", "masked cross-entropy",
    ),
    Tag(
        "eval/unigram_cross_entropy", "nats per target", EVALUATION,
        "the same targets under the training text's unigram counts", "last", "masked cross-entropy",
    ),
    Tag(
        "eval/masked_accuracy", "fraction", EVALUATION,
        "held-out masked tokens whose first choice is right, mean over languages", "last",
    ),
    Tag(
        "eval/retrieval_top1", "fraction", TO_ENGLISH,
        "held-out messages whose nearest English message is their own, mean over languages", "last",
    ),
    Tag("optim/lr", "rate", ALWAYS, "the student's learning rate", "last"),
    Tag("optim/grad_norm/<player>", "L2 norm", EACH_PLAYER, "the player's gradient norm before clipping"),
    *(
        Tag(
            f"optim/trust_ratio_{name}", "ratio", LAMB,
            f"{words} of abs(weight) / abs(update) over the parameters that LAMB scales; not with apex's", "last",
            "trust ratio",
        )
        for name, words in (("min", "smallest"), ("median", "median"), ("max", "largest"))
    ),
    Tag("optim/loss_scale/<player>", "factor", FP16, "what the loss is multiplied by before the backward pass", "last"),
    Tag(
        "optim/skipped_steps/<player>", "moves", FP16,
        "moves skipped so far because a gradient overflowed; such a step has no grad_norm", "last",
    ),
    Tag("schedule/weight/<objective>", "weight", EACH_OBJECTIVE, "its weight at this step", "last", "weights"),
    Tag("speed/tokens_per_second", "tokens/s", ALWAYS, "all ranks, without padding, training steps alone"),
    Tag("speed/tokens_per_second_per_device", "tokens/s", ALWAYS, "the same by rank"),
    Tag(
        "speed/mfu_percent", "%", KNOWN_DEVICE,
        "FLOPs of student and teacher (observe/flops.py) against the device's bf16 peak",
    ),
    Tag("speed/data_wait_percent", "%", ALWAYS, "share of the step spent waiting for its batch", chart="shares"),
    Tag("speed/teacher_percent", "%", TEACHER, "share of the step spent in the teacher's forward", chart="shares"),
    Tag("speed/padding_percent", "%", ALWAYS, "share of the rows' places that hold padding", chart="shares"),
    Tag("memory/peak_gib", "GiB", ALWAYS, "the worst rank's peak: the device's memory, or resident without one", "max"),
    Tag("progress/tokens", "tokens", ALWAYS, "trained on since the run began, without padding", "last"),
    Tag("progress/samples", "documents", ALWAYS, "trained on since the run began", "last"),
    Tag(
        "task/<column>", "fraction or correlation", REPORT,
        "a model's score on a labelled set in a way: .<language>, and .mean over them", "last",
    ),
)  # fmt: skip

_MATCH = {tag.pattern: re.compile(re.sub(r"<\w+>", r"[A-Za-z0-9_.-]+", tag.pattern)) for tag in TAGS}


def tag_of(name: str) -> Tag:
    """The row a concrete tag belongs to.

    Raises:
        AssertionError: no row has it; a tag that is logged must be described here first.
    """
    for tag in TAGS:
        if _MATCH[tag.pattern].fullmatch(name):
            return tag
    raise AssertionError(f"tag {name!r} is logged but is not in unibert/observe/tags.py: describe it there")


def applicable(recipe: Recipe, *, device_peak_known: bool = False) -> list[str]:
    """The concrete tags a run of this recipe logs, in the table's order."""
    rows = [tag for tag in TAGS if device_peak_known or not tag.when.known_device]
    return [name for tag in rows for name in tag.concrete(recipe)]


def table() -> str:
    """The README's markdown table of the tags."""
    lines = ["| tag | unit | what it says | when | a point is the |", "|---|---|---|---|---|"]
    for tag in TAGS:
        lines.append(f"| `{tag.pattern}` | {tag.unit} | {tag.meaning} | {tag.when.words} | {tag.point} |")
    return "\n".join(lines) + "\n"


def layout(recipe: Recipe, *, device_peak_known: bool = False) -> dict[str, dict[str, list]]:
    """TensorBoard's custom-scalars layout: {group: {chart: ["Multiline", [tag regex, ...]]}}.

    Languages share a chart by script: sixty lines in one chart say nothing.
    """
    groups: dict[str, dict[str, list]] = {}
    for tag in TAGS:
        if tag.when.known_device and not device_peak_known:
            continue
        for name, concrete in zip(tag.when.names(recipe), tag.concrete(recipe), strict=True):
            own = concrete.split("/", 1)[1].replace("_", " ")
            chart = script_of(name) if tag.chart == "<script>" else tag.chart or own
            series = groups.setdefault(tag.group, {}).setdefault(chart, ["Multiline", []])[1]
            series.append(f"^{re.escape(concrete)}$")  # TensorBoard matches by prefix otherwise
    return groups
