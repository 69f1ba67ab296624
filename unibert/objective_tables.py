"""The `[objectives.*]` tables of a recipe, one class each. What they mean is said in objectives/, one file each."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from unibert.table import Positive, Table

LayerMap = Literal["last", "uniform", "skip", "bottom"] | tuple[tuple[int, int], ...]


class Ramp(Table):
    """A weight over the run: `max` times (2 / (1 + exp(-steepness p)) - 1), p the fraction of steps done (DANN)."""

    max: Annotated[float, Field(ge=0)]
    """Weight the ramp tends to."""
    steepness: Annotated[float, Field(gt=0)] = 10.0
    """Steepness of the ramp."""


class Line(Table):
    """A weight over the run: from `start` straight to `end` at the fraction `until` of the steps, and `end` after it.

    Falling to 0 it is teacher annealing (Clark et al., arXiv 1907.04829): the teacher leads, then the labels do.
    """

    start: Annotated[float, Field(ge=0)]
    """Weight in the first step."""
    end: Annotated[float, Field(ge=0)]
    """Weight from `until` on."""
    until: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Fraction of the run's steps."""


Weight = float | Ramp | Line


class MaskedLM(Table):
    """Cross-entropy at the masked positions."""

    weight: Weight = 1.0
    """Weight of the term."""


class DistillHidden(Table):
    """Distance of hidden states, student to teacher, token by token."""

    weight: Weight = 1.0
    """Weight of the term."""
    form: Literal["mse", "cosine"] = "mse"
    """`mse`: mean squared distance; `cosine`: 1 - cosine (DistilBERT), whatever the size of a teacher's states."""
    layers: LayerMap = "last"
    """Which layer of the student is compared with which of the teacher: `last` with last; `uniform`: i of l with
    i L / l of L (rounded down); `skip`: the same without the last; `bottom`: i with i; or pairs `[[student, teacher],
    ...]`, where 0 is what the embeddings give and 1 the first layer. The mean over the pairs."""
    project: bool = False
    """A learned linear map takes the student's states to the teacher's width before they are compared; where the widths
    differ there always is one. It is no part of the export."""
    positions: Literal["all", "unmasked"] = "all"
    """`unmasked` leaves the targets of the masked LM out: what both models say of a mask is then the head's matter."""


class DistillLogits(Table):
    """Distance of the masked-LM distributions of teacher and student."""

    weight: Weight = 1.0
    """Weight of the term."""
    divergence: Literal["forward_kl", "reverse_kl", "js", "mse"] = "forward_kl"
    """`forward_kl`: T^2 KL(teacher || student); `reverse_kl`: T^2 KL(student || teacher); `js`: T^2 times their
    Jensen-Shannon divergence; `mse`: mean square of the difference of logits / T."""
    positions: Literal["masked", "all"] = "masked"
    """Compared at the targets of the masked LM, or at every token; then both heads run on all of them."""
    temperature: Annotated[float, Field(gt=0)] = 2.0
    """Temperature of both distributions."""


class DistillAttention(Table):
    """Distance of the attention maps of teacher and student, within each document."""

    weight: Weight = 1.0
    """Weight of the term."""
    form: Literal["scores_mse", "maps_mse", "kl"] = "scores_mse"
    """`scores_mse`: squared distance of the scores before the softmax; `maps_mse`: of the maps after it; `kl`:
    KL(teacher || student) of each row of the maps."""
    layers: LayerMap = "last"
    """As objectives.distill_hidden.layers, where 1 is the first layer."""
    heads: Literal["each", "mean"] = "each"
    """Head by head, for which both need the same number of heads, or the mean over the heads of each model."""


class DistillRelations(Table):
    """MiniLM's self-attention relations: KL(teacher || student) of the similarities of queries, keys or values."""

    weight: Weight = 1.0
    """Weight of the term."""
    pairs: Annotated[tuple[Literal["qq", "kk", "vv", "qk"], ...], Field(min_length=1)] = ("qq", "kk", "vv")
    """Relations, summed: queries with queries (qq), keys with keys (kk), values with values (vv), queries with keys
    (qk)."""
    relation_heads: Positive | None = None
    """Heads that both models' queries, keys and values are split into anew; it must divide both widths. The student's
    own number when absent."""
    student_layer: Positive | None = None
    """Layer of the student, from 1; the last when absent."""
    teacher_layer: Positive | None = None
    """Layer of the teacher, from 1; the last when absent."""


class LanguageGuess(Table):
    """The discriminator's own loss: cross-entropy of the language, on detached features."""

    weight: Weight = 1.0
    """Weight of the term."""


class LanguageConfusion(Table):
    """What the student gets through the frozen discriminator."""

    weight: Weight = Ramp(max=0.1)
    """Weight of the term (lambda)."""
    form: Literal["uniform", "entropy", "reversal", "label_flip"] = "uniform"
    """`uniform`: KL(uniform || p), as strong against a discriminator that is sure as against one that is not;
    `entropy`: KL(p || uniform), bounded, but a discriminator that is sure gives it no gradient; `reversal`: minus the
    cross-entropy (gradient reversal); `label_flip`: the cross-entropy of a wrong language, the same for a document
    whenever it is read."""


class TranslationLM(Table):
    """Cross-entropy at the masked positions of both sides of a translation pair read as one text."""

    weight: Weight = 1.0
    """Weight of the term."""
    reset_positions: bool = False
    """Positions of the second side begin again, as if it stood alone."""
    shuffle_order: bool = True
    """Either side comes first, by an even coin; else the one whose language comes first in `languages`."""


Group = Annotated[int, Field(ge=2)]


class _Alignment(Table):
    """What objectives that compare the sentences of a pair have in common."""

    weight: Weight = 1.0
    """Weight of the term."""
    feature: Literal["cls", "mean"] = "cls"
    """A sentence's feature: the first token's last hidden state, or the mean over its tokens."""
    reading: Literal["unmasked", "masked"] = "unmasked"
    """What the student reads; `masked` saves a forward where another objective reads the masked text anyway."""


class InBatchContrast(_Alignment):
    """Each side finds its translation among those of a group of pairs."""

    form: Literal["info_nce"] = "info_nce"
    """In-batch InfoNCE."""
    group_pairs: Group = 8
    """Pairs that are compared with each other: consecutive ones; the pairs of a micro-batch are a multiple of it."""
    temperature: Annotated[float, Field(gt=0)] = 0.05
    """Divides the cosines."""
    projection_size: Positive | None = None
    """Width of a learned non-linear projection of the features; none when absent."""


class MomentumContrast(_Alignment):
    """One side finds its translation, encoded by a slowly following copy of the student, among those of a queue."""

    form: Literal["momentum"] = "momentum"
    """Momentum contrast (PPA)."""
    temperature: Annotated[float, Field(gt=0)] = 0.05
    """Divides the cosines."""
    projection_size: Positive = 300
    """Width of the learned non-linear projection."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """What the copy keeps of itself at each step."""
    queue_size: Positive = 32768
    """Newest sentences of the copy that are compared with."""


class Bootstrap(_Alignment):
    """The translation's feature predicts the teacher's of the English side, through a fixed random projection."""

    form: Literal["byol"] = "byol"
    """BYOL-like (MMKD)."""
    group_pairs: Annotated[int, Field(ge=4)] = 8
    """Pairs over which batches are normalised: consecutive ones; the pairs of a micro-batch are a multiple of it. Of
    one or two, every feature becomes 0 or 1 whatever it was, and nothing is learnt."""
    projection_size: Positive = 128
    """Width of what is compared."""


class MeanSquared(_Alignment):
    """Both sides' features come near the teacher's of the English side."""

    form: Literal["mse"] = "mse"
    """Mean squared distance (Reimers and Gurevych 2020)."""


SentenceAlignment = InBatchContrast | MomentumContrast | Bootstrap | MeanSquared


class IndexedWords(Table):
    """The student's English words, read with their translation, find the teacher's by their place in the sentence."""

    form: Literal["index"] = "index"
    """By index on the English side (MMKD)."""
    weight: Weight = 1.0
    """Weight of the term."""


class DictionaryWords(Table):
    """Words that a dictionary knows as translations find each other among the words of the two sides."""

    form: Literal["dictionary"] = "dictionary"
    """By a dictionary."""
    weight: Weight = 1.0
    """Weight of the term."""
    reading: Literal["unmasked", "masked"] = "unmasked"
    """What the student reads; `masked` saves a forward where another objective reads the masked text anyway."""
    temperature: Annotated[float, Field(gt=0)] = 0.05
    """Divides the cosines."""


WordAlignment = IndexedWords | DictionaryWords


class Structure(_Alignment):
    """Sentences are as near to each other in the translations as in the teacher's English."""

    group_pairs: Group = 8
    """Pairs that are compared with each other: consecutive ones; the pairs of a micro-batch are a multiple of it."""
    projection_size: Positive = 128
    """Width of the heads."""


class Objectives(Table):
    """An absent table means off."""

    masked_lm: MaskedLM | None = None
    distill_hidden: DistillHidden | None = None
    distill_logits: DistillLogits | None = None
    distill_attention: DistillAttention | None = None
    distill_relations: DistillRelations | None = None
    language_guess: LanguageGuess | None = None
    language_confusion: LanguageConfusion | None = None
    translation_lm: TranslationLM | None = None
    align_sentences: Annotated[SentenceAlignment, Field(discriminator="form")] | None = None
    align_words: Annotated[WordAlignment, Field(discriminator="form")] | None = None
    structure: Structure | None = None

    def on(self) -> dict[str, Table]:
        """The objectives that are on, in the order of this class."""
        return {name: table for name in type(self).model_fields if (table := getattr(self, name)) is not None}
