"""The tables of a recipe, in frozen pydantic models: every field with its type, unit and help text.

Unknown keys are forbidden; an absent table means off. The engine's mechanics (ZeRO stage, offload,
precision) are not here but in ds_configs/*.json. Reading and merging is config.py's.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from unibert.data_tables import Data, Masking, Tokenizer
from unibert.objective_tables import Objectives, TranslationLM
from unibert.pair_rules import pair_problems
from unibert.table import Fraction, Positive, Table
from unibert.teacher_tables import Teacher

StepRange = Annotated[str, Field(pattern=r"^\d+(:\d+)?$")]


def _comma_separated(value: object) -> object:
    return str(value).split(",") if isinstance(value, str | int) else value


class Student(Table):
    """The encoder that is trained."""

    start: Literal["teacher", "random"] = "teacher"
    """Copy embeddings, head and the layers below from the teacher, or begin from random weights."""
    start_from: Path | None = None
    """Hugging Face folder or run folder to copy from; the teacher's when absent."""
    teacher_layers: tuple[int, ...] | None = None
    """Teacher layers copied, counted from 0; all when absent."""
    embedding_rank: Positive | None = None
    """Begin with the best approximation of the source's word embeddings that has this rank (a factorised table, its
    factors multiplied out: it only stays so with trainable = "all_but_embeddings"); as they are when absent."""
    trainable: Literal["all", "all_but_embeddings", "head"] = "all"
    """What moves; `all_but_embeddings` keeps word, position and type embeddings, and the tied decoder, as copied."""
    dropout: Fraction = 0.0
    """Hidden-state dropout probability while training."""
    attention_dropout: Fraction = 0.0
    """Attention-probability dropout while training."""
    activation_dropout: Fraction = 0.0
    """Dropout between the two maps of the feed-forward while training (UniDrop's FD-2)."""
    projection_dropout: Fraction = 0.0
    """Dropout of queries, keys and values while training (UniDrop's FD-3)."""
    output_dropout: Fraction = 0.0
    """Dropout of what the masked-LM head reads while training (UniDrop's FD-4)."""
    layer_drop: Fraction = 0.0
    """Probability that a layer passes its input on unchanged in a forward while training (LayerDrop)."""
    hidden_size: Positive = 384
    """Width, when start is random."""
    num_layers: Positive = 6
    """Layers, when start is random."""
    num_heads: Positive = 12
    """Attention heads, when start is random."""
    intermediate_size: Positive = 1536
    """Feed-forward width, when start is random."""

    @property
    def drops_at_random(self) -> bool:
        """Whether a forward in training draws random numbers."""
        kinds = (self.dropout, self.attention_dropout, self.activation_dropout, self.projection_dropout)
        return any(kinds) or bool(self.output_dropout or self.layer_drop)


class Discriminator(Table):
    """Guesses the language from the student's last hidden states: Linear-GELU-Dropout-Linear."""

    hidden_size: Positive = 256
    """Width of the hidden layer."""
    dropout: Fraction = 0.0
    """Dropout before the last layer."""
    feature: Literal["cls", "mean", "tokens"] = "cls"
    """What it reads of a document: the first token's last hidden state, the mean over tokens, or every token, each
    judged for itself."""
    turns: Positive | Literal["every_micro_batch"] = 1
    """How often its turn comes inside one accumulation window of the student; a number keeps a run the same on any
    number of ranks, `every_micro_batch` makes it depend on micro-batch and ranks."""
    moves: Positive = 1
    """Optimizer steps in a turn (k), all on the features seen since its last turn."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Constant AdamW rate of the discriminator."""
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    """Largest gradient norm of the discriminator; 0 is off."""


class Optimizer(Table):
    """The student's optimizer and schedule."""

    name: Literal["adamw", "lamb"] = "adamw"
    """`lamb` scales each parameter's update by its trust ratio |weight| / |update|, whole even when ZeRO shards it."""
    trust_ratio_max: Annotated[float, Field(ge=0)] = 10.0
    """LAMB's largest trust ratio (the paper's clipping of the ratio); 0 is off."""
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    """Peak rate."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Decays of the two moments."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-6
    """Added to the root of the second moment."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled decay; biases and LayerNorm are excluded (from LAMB's trust ratio too)."""
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    """Largest gradient norm of the student; 0 is off."""
    warmup_fraction: Fraction = 0.05
    """Share of the steps with a linearly rising rate."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Shape of the rate after the warm-up."""
    final_fraction: Fraction = 0.1
    """The last rate as a share of the peak."""


class Rung(Table):
    """One rung of the large-batch ladder."""

    until_step: Positive
    """The last step with this batch."""
    global_batch_sequences: Positive
    """Documents in one optimizer step; the rate is scaled by sqrt(this / train.global_batch_sequences)."""


class Train(Table):
    """Batch, length and seed of the run."""

    steps: Positive = 400
    """Optimizer steps of the student."""
    global_batch_sequences: Positive = 128
    """Documents in one optimizer step, over all ranks; after the ladder where there is one."""
    ladder: tuple[Rung, ...] = ()
    """Smaller batches to begin with, rung by rung, by accumulating less: the large-batch warm-up."""
    micro_batch_sequences: Positive = 32
    """Documents in one forward of one rank; accumulation = global / (micro x world)."""
    seed: Annotated[int, Field(ge=0)] = 1
    """Seed of the order, the masks and the new weights."""
    threads_per_rank: int | None = None
    """CPU threads of a rank; cores / local ranks when absent."""
    recompute_activations: bool = False
    """Forget the layers' activations and compute them again in the backward pass: less memory, a third more time."""
    compile: bool = False
    """Compile the student by torch.compile (through DeepSpeed's engine.compile)."""
    skip_steps: Annotated[tuple[StepRange, ...], BeforeValidator(_comma_separated)] = ()
    """Steps whose samples are passed over without training, as `a:b` (both included), `a`, or several with commas."""
    time_limit_minutes: Annotated[float, Field(gt=0)] | None = None
    """Save and leave with code 75 after so many minutes of this start; no limit when absent."""
    stall_minutes: Annotated[float, Field(gt=0)] = 10.0
    """A rank without progress for so long writes every thread's stack to its log and ends the run."""


class Save(Table):
    """Checkpoints and exports."""

    every_steps: Positive = 100
    """Steps between checkpoints; the last step is always saved."""
    keep_last: Positive = 2
    """Newest complete checkpoints kept."""
    keep_every_steps: Positive | None = None
    """Checkpoints of steps that are a multiple of this are kept for ever; none when absent."""
    keep_best: bool = False
    """Also keep the checkpoint with the lowest held-out masked cross-entropy."""
    background: bool = True
    """Write to disk beside the training: a step pays only for a copy in host memory."""
    export: bool = True
    """Write a Hugging Face folder beside each checkpoint (and one before the first step)."""


class Log(Table):
    """What is written while the run goes on (metrics.jsonl has every step)."""

    every_steps: Positive = 10
    """Steps between console lines and TensorBoard points."""
    evaluate_every_steps: Positive = 50
    """Steps between passes over a sample of the held-out text."""


class Engines(Table):
    """Which DeepSpeed file drives which player: a name in ds_configs/ or a path."""

    student: str = "zero1"
    """The student's engine."""
    discriminator: str = "replicated"
    """The discriminator's engine."""


class Recipe(Table):
    """One run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
    """Name of the run."""
    runs_folder: Path = Path("runs")
    """The run writes to runs_folder/name."""
    languages: tuple[str, ...]
    """Language codes, as in languages.py."""
    data: Data = Data()
    tokenizer: Tokenizer = Tokenizer()
    masking: Masking = Masking()
    teacher: Teacher | None = None
    student: Student = Student()
    discriminator: Discriminator | None = None
    optimizer: Optimizer = Optimizer()
    train: Train = Train()
    save: Save = Save()
    log: Log = Log()
    engines: Engines = Engines()
    objectives: Objectives = Objectives()

    @property
    def run_folder(self) -> Path:
        """Where the run writes."""
        return self.runs_folder / self.name

    @property
    def joined(self) -> TranslationLM | None:
        """How both sides of translation pairs are read as one text; None when no objective reads them so."""
        words = self.objectives.align_words
        by_index = TranslationLM() if words is not None and words.form == "index" else None
        return self.objectives.translation_lm or by_index

    @model_validator(mode="after")
    def _belongs_together(self) -> Recipe:
        problems = list(_contradictions(self))
        if problems:
            raise ValueError("; ".join(problems))
        return self


def _contradictions(recipe: Recipe) -> Iterator[str]:
    """Combinations that cannot be right, each with its fix."""
    on = recipe.objectives.on()
    if recipe.teacher is None:
        yield from (f"[objectives.{name}] needs a [teacher] table" for name in on if name.startswith("distill_"))
    for name in ("language_guess", "language_confusion"):
        if name in on and recipe.discriminator is None:
            yield f"[objectives.{name}] needs a [discriminator] table"
    if recipe.discriminator is not None and "language_guess" not in on:
        yield "[discriminator] without [objectives.language_guess] would never learn: add the one or drop the other"
    if not any(name != "language_guess" for name in on):
        yield "no objective for the student: add [objectives.masked_lm]"
    duplicates = sorted({code for code in recipe.languages if recipe.languages.count(code) > 1})
    if duplicates:
        yield f"languages named twice: {', '.join(duplicates)}"
    if not recipe.languages:
        yield "languages is empty"
    if "language_guess" in on and len(recipe.languages) == 1:
        yield "a discriminator of one language has nothing to tell apart: add languages, or drop [discriminator]"
    if strangers := sorted(set(recipe.data.share_limits) - set(recipe.languages)):
        yield f"data.share_limits names {', '.join(strangers)}, not among the recipe's languages"
    if recipe.data.parallel_ratio and recipe.train.micro_batch_sequences % 2:
        yield (
            f"data.parallel_ratio puts two sides into one micro-batch: let train.micro_batch_sequences be even, not "
            f"{recipe.train.micro_batch_sequences}"
        )
    yield from pair_problems(recipe)
    for text in recipe.train.skip_steps:
        first, _, last = text.partition(":")
        if last and int(last) < int(first):
            yield f"train.skip_steps = {text} ends before it begins"
    yield from _ladder_problems(recipe.train)
    if recipe.student.start == "random" and recipe.student.embedding_rank:
        yield 'student.embedding_rank takes the source\'s embeddings apart: set student.start = "teacher", or drop it'
    if recipe.student.start_from is None and recipe.student.start == "teacher" and recipe.teacher is None:
        yield 'student.start = "teacher" needs a [teacher] table or student.start_from'
    yield from _vocabulary_problems(recipe)
    yield from _teacher_problems(recipe)


def _teacher_problems(recipe: Recipe) -> Iterator[str]:
    """A teacher that reads text of its own where our pieces are meant, and several that cannot share the work."""
    if recipe.teacher is None:
        return
    if recipe.teacher.reads == "text":
        for name in recipe.objectives.on():
            if name.startswith("distill_"):
                yield f'[objectives.{name}] is about our tokens, and teacher.reads = "text" has others: drop one'
        if recipe.teacher.more:
            yield 'teacher.reads = "text" is for one teacher: take [[teacher.more]] out, or let them read our pieces'
    if not recipe.teacher.more:
        return
    table, named = recipe.teacher, [code for other in recipe.teacher.more for code in other.languages]
    if table.kind in ("cached", "served"):
        yield f"[[teacher.more]]: {table.kind} is of one teacher; use kind = resident or offloaded"
    if table.several == "by_language" and not all(other.languages for other in table.more):
        yield 'teacher.several = "by_language": give every [[teacher.more]] its languages'
    if table.several != "by_language" and named:
        yield f'[[teacher.more]] has languages, which teacher.several = "{table.several}" does not read'
    if strangers := sorted(set(named) - set(recipe.languages)):
        yield f"[[teacher.more]] names {', '.join(strangers)}, not among the recipe's languages"
    if twice := sorted({code for code in named if named.count(code) > 1}):
        yield f"[[teacher.more]] gives {', '.join(twice)} to two teachers"


def _vocabulary_problems(recipe: Recipe) -> Iterator[str]:
    """What a student with a tokenizer of its own cannot take over from a teacher."""
    kind = recipe.tokenizer.kind
    if kind == "teacher" or recipe.teacher is None:
        return
    why = f'tokenizer.kind = "{kind}" shares no vocabulary with the teacher'
    if recipe.student.start == "teacher":
        yield f'{why}, so its embeddings mean other pieces: set student.start = "random", or tokenizer.kind = "teacher"'
    for name, reason in {
        "distill_hidden": "its states stand at other tokens",
        "distill_logits": "its logits are of other pieces",
        "distill_attention": "its maps are of other tokens",
        "distill_relations": "its queries, keys and values stand at other tokens",
    }.items():
        if getattr(recipe.objectives, name) is not None:
            yield f'{why}, so {reason}: take [objectives.{name}] out, or set tokenizer.kind = "teacher"'


def _ladder_problems(train: Train) -> Iterator[str]:
    """A ladder that does not rise to train.global_batch_sequences before the last step."""
    for below, above in pairwise(train.ladder):
        if above.until_step <= below.until_step:
            yield f"train.ladder: until_step {above.until_step} comes after {below.until_step}: let the steps rise"
        if above.global_batch_sequences < below.global_batch_sequences:
            yield (
                f"train.ladder: the batch falls from {below.global_batch_sequences} to "
                f"{above.global_batch_sequences} (until_step {above.until_step}): a ladder only rises"
            )
    if train.ladder and (last := max(rung.until_step for rung in train.ladder)) >= train.steps:
        yield (
            f"train.ladder ends at step {last}, but train.steps = {train.steps}: "
            f"the last until_step must be below train.steps"
        )
    for rung in train.ladder:
        if rung.global_batch_sequences > train.global_batch_sequences:
            yield (
                f"train.ladder: the batch {rung.global_batch_sequences} (until_step {rung.until_step}) is above "
                f"train.global_batch_sequences = {train.global_batch_sequences}, to which the ladder leads"
            )
