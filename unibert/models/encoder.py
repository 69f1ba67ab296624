"""The encoder: a Hugging Face masked-LM model that reads packed rows and answers only where it is asked.

Legend of shapes: R rows, S width of a row, T = R*S, H hidden size, M masked targets, V vocabulary.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer, BertConfig, PretrainedConfig, PreTrainedModel

from unibert.config import Recipe
from unibert.errors import ConfigError, DataError
from unibert.models import architectures, attention
from unibert.models.dropouts import add_dropouts
from unibert.models.folders import newest_export, quiet_hf
from unibert.models.heads import last_product, left_out, masked_lm_head, seeded, start_head
from unibert.models.wanted import Sizes, Wanted

if TYPE_CHECKING:
    from unibert.data.batches import Batch

log = logging.getLogger(__name__)

EMBEDDING_TABLES = ("word_embeddings", "position_embeddings", "token_type_embeddings")


HIDDEN_DROPOUTS = ("hidden_dropout_prob", "embedding_dropout", "mlp_dropout")
ATTENTION_DROPOUTS = ("attention_probs_dropout_prob", "attention_dropout")


class EncoderOutput(NamedTuple):
    """What one forward gives, in the dtype of the module (cast to fp32 before a loss).

    A tuple, because DeepSpeed hooks the tensors of tuples, lists and dicts only; of another kind of object
    it would miss the start of the backward pass, in silence.
    """

    last_hidden: Tensor
    """[R, S, H] last hidden states; padding holds finite values without meaning."""
    masked_logits: Tensor | None = None
    """[M, V] logits at the target positions, in their order; None when they were not wanted."""
    token_logits: Tensor | None = None
    """[N, V] logits at every token that is no padding, in the order of the rows; None when they were not wanted."""
    hidden: dict[int, Tensor] = {}  # noqa: RUF012  # a NamedTuple has no factories; nobody adds to it
    """[R, S, H] hidden states of the layers that were wanted."""
    attention: dict[int, attention.Attended] = {}  # noqa: RUF012
    """Query, key and value [R, N, S, D] of the layers that were wanted."""
    masked_inputs: Tensor | None = None
    """[M, H] instead of masked_logits, where factors will do: the decoder would make the logits of them."""
    token_inputs: Tensor | None = None
    """[N, H] instead of token_logits."""
    decoder: nn.Linear | None = None
    """Of the inputs. A module, since DeepSpeed would hook a weight in a tuple again in each forward."""

    def states(self, layer: int, *, layers: int) -> Tensor:
        """[R, S, H] of a layer, of `layers` in all: 0 is what the embeddings give, the last one the last state."""
        return self.last_hidden if layer == layers else self.hidden[layer]


class Encoder(nn.Module):
    """A Hugging Face `*ForMaskedLM` over packed rows; `hf` is the model itself, for saving.

    Every parameter is used through the forward of its own module, so that ZeRO-3's hooks gather it.
    """

    def __init__(self, hf: PreTrainedModel) -> None:
        super().__init__()
        architectures.prepare(hf)
        self.hf: Any = hf  # a PreTrainedModel, whose parts type checkers do not know
        self.beside = nn.ModuleDict()
        """What objectives learn beside the encoder, by their names: moved and saved with it, never exported."""
        self.first_position = architectures.first_position(hf)
        self.exact_head: nn.Module | None = None

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor,
        target_positions: Tensor | None = None,
        wanted: Wanted | None = None,
        token_positions: Tensor | None = None,
    ) -> EncoderOutput:
        """Encode packed rows.

        Args:
            input_ids: int64 [R, S].
            position_ids: int64 [R, S], starting again at 0 in each document.
            attention_mask: bool [R, 1, S, S], true where a token may look.
            target_positions: int64 [M], indices into the flattened R*S; the head runs on these alone.
            wanted: what to give besides the last hidden state; when absent the masked logits, if there are targets.
            token_positions: int64 [N], indices of all tokens; needed for wanted.token_logits alone.
        """
        wanted = wanted or Wanted(masked_logits=target_positions is not None)
        # A softmax over nothing is NaN: every token, padding too, sees at least itself.
        itself = torch.eye(input_ids.shape[1], dtype=torch.bool, device=attention_mask.device)
        body = self.hf.base_model
        moves = any(parameter.requires_grad for parameter in body.parameters())
        with (
            torch.set_grad_enabled(torch.is_grad_enabled() and moves),
            attention.recorded(wanted.attention) as attended,
        ):
            out = body(
                input_ids=input_ids,
                position_ids=position_ids + self.first_position,
                attention_mask=architectures.masks(self.hf.config, attention_mask | itself),
                output_hidden_states=bool(wanted.hidden),
            )
        hidden_TH = out.last_hidden_state.flatten(0, 1)
        decoder = self.decoder if wanted.factored else None
        answers: list[Tensor | None] = [None, None]
        for number, places in enumerate((target_positions, token_positions)):
            if (wanted.masked_logits, wanted.token_logits)[number]:
                assert places is not None
                states_MH = hidden_TH.index_select(0, places)
                answers[number] = self.logits(states_MH) if decoder is None else self._inputs(decoder, states_MH)
        states = {layer: out.hidden_states[layer] for layer in wanted.hidden}
        if decoder is None:
            return EncoderOutput(out.last_hidden_state, *answers, states, attended)
        return EncoderOutput(out.last_hidden_state, None, None, states, attended, *answers, decoder)

    def logits(self, hidden_MH: Tensor) -> Tensor:
        """[M, V] of hidden states [M, H], by the masked-LM head."""
        if self.exact_head is not None:
            return self.exact_head(hidden_MH.float())
        return masked_lm_head(self.hf)(hidden_MH)

    @property
    def decoder(self) -> nn.Linear | None:
        """The head's last product, where it can be left to the loss: not of a weight that ZeRO-3 has cut."""
        decoder = last_product(self.exact_head or masked_lm_head(self.hf), vocabulary=self.vocabulary_size)
        return None if decoder is None or hasattr(decoder.weight, "ds_id") else decoder

    @torch.compiler.disable
    def _inputs(self, decoder: nn.Linear, hidden_MH: Tensor) -> Tensor:
        """[M, H]: what the head would give its decoder."""
        with left_out(decoder):
            return self.logits(hidden_MH)

    def cast(self, dtype: torch.dtype) -> Encoder:
        """Weights in a precision, in place; buffers, as rotary frequencies, keep theirs."""
        for parameter in self.parameters():
            parameter.data = parameter.data.to(dtype)
        return self

    def head_in_fp32(self) -> None:
        """Let the head compute in fp32, by a copy, whatever the precision of the rest; for what never moves again."""
        self.exact_head = copy.deepcopy(masked_lm_head(self.hf)).float().requires_grad_(False)

    @property
    def gives(self) -> Wanted:
        """What it can be asked for."""
        return architectures.gives(self.hf.config)

    @property
    def packs(self) -> bool:
        """Whether documents can share a row."""
        return architectures.packs(self.hf.config)

    @property
    def hidden_size(self) -> int:
        """H."""
        return self.hf.config.hidden_size

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.hf.config.vocab_size

    @property
    def num_layers(self) -> int:
        """Transformer layers."""
        return self.hf.config.num_hidden_layers

    @property
    def sizes(self) -> Sizes:
        """Its shape."""
        return Sizes.of(self.hf.config)


def encode(model: Callable[..., EncoderOutput], batch: Batch, wanted: Wanted) -> EncoderOutput:
    """What a model (an Encoder, or an engine around one) says of a micro-batch."""
    if not getattr(model, "packs", True):
        return packed_again(encode_rows(model, one_a_row(batch), wanted), batch)
    return encode_rows(model, batch, wanted)


def encode_rows(model: Callable[..., EncoderOutput], batch: Batch, wanted: Wanted) -> EncoderOutput:
    """What a model says of a micro-batch, its rows as they are."""
    return model(
        batch.input_ids,
        batch.position_ids,
        batch.attention_mask(),
        batch.target_positions if wanted.masked_logits else None,
        wanted,
        batch.token_positions if wanted.token_logits else None,
    )


def one_a_row(batch: Batch) -> Batch:
    """The same documents, each in a row of its own."""
    place, width = _apart(batch), int(batch.position_ids.max()) + 1
    flat = batch.document.flatten()

    def spread(values: Tensor, empty: int) -> Tensor:
        out = values.new_full((batch.documents * width,), empty)
        out[place[flat >= 0]] = values.flatten()[flat >= 0]
        return out.view(batch.documents, width)

    pad = int(batch.input_ids.flatten()[flat < 0][0]) if bool((flat < 0).any()) else 0
    return replace(
        batch,
        input_ids=spread(batch.input_ids, pad),
        position_ids=spread(batch.position_ids, 0),
        document=spread(batch.document, -1),
        target_positions=place[batch.target_positions],
        cls_positions=place[batch.cls_positions],
    )


def packed_again(out: EncoderOutput, batch: Batch) -> EncoderOutput:
    """The answers to `one_a_row(batch)` in the places of the batch; zeros where there is no token."""
    place, real = _apart(batch), batch.document.flatten() >= 0

    def gather(states: Tensor) -> Tensor:
        flat = states.new_zeros(real.numel(), states.shape[-1])
        flat[real] = states.flatten(0, 1)[place[real]]
        return flat.view(*batch.document.shape, -1)

    hidden = {layer: gather(states) for layer, states in out.hidden.items()}
    token_logits = out.token_logits
    if token_logits is not None:  # by document there, by row here
        order = torch.argsort(place[real])
        token_logits = torch.empty_like(token_logits).index_copy_(0, order, token_logits)
    return out._replace(last_hidden=gather(out.last_hidden), hidden=hidden, token_logits=token_logits)


def _apart(batch: Batch) -> Tensor:
    """[R*S]: where each place is when every document has a row of its own; 0 where there is none."""
    width = int(batch.position_ids.max()) + 1
    return (batch.document.clamp(min=0) * width + batch.position_ids).flatten()


def load_encoder(
    folder: Path | str, *, dropout: float = 0.0, attention_dropout: float = 0.0, offline: bool = True
) -> tuple[Encoder, bool]:
    """Read a Hugging Face folder in fp32: (encoder, whether the folder brought a masked-LM head).

    A missing head is left as Hugging Face starts it. `offline=False` also takes a name on a hub.

    Raises:
        DataError: the folder is damaged, or lacks weights other than the head's.
    """
    try:
        with quiet_hf():
            config = AutoConfig.from_pretrained(folder, local_files_only=offline)
            set_dropout(config, dropout=dropout, attention_dropout=attention_dropout)
            hf, info = AutoModelForMaskedLM.from_pretrained(
                folder, config=config, dtype=torch.float32, local_files_only=offline, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{folder}: cannot be read as a masked-LM encoder: {error}") from error
    prefix = f"{hf.base_model_prefix}."
    lost = sorted(name for name in info["missing_keys"] if name.startswith(prefix))
    if lost:
        raise DataError(f"{folder}: {len(lost)} weights are missing, the first is {lost[0]}; write the folder again")
    return Encoder(hf), not info["missing_keys"]


def set_dropout(config: PretrainedConfig, *, dropout: float, attention_dropout: float) -> None:
    """Set the dropouts of a configuration, under whatever names its architecture has for them."""
    for names, value in ((HIDDEN_DROPOUTS, dropout), (ATTENTION_DROPOUTS, attention_dropout)):
        for name in names:
            if hasattr(config, name):
                setattr(config, name, value)


def build_student(recipe: Recipe) -> Encoder:
    """The student of a recipe in fp32: started, cut to its layers, with what must not move frozen.

    The same recipe and seed give the same weights. The mode is train.

    Raises:
        ConfigError: layers that the source does not have.
        DataError: the source or the tokenizer is missing.
    """
    student = recipe.student
    with seeded(recipe.train.seed, purpose="student"):
        if student.start == "random":
            encoder = Encoder(AutoModelForMaskedLM.from_config(_random_config(recipe), attn_implementation="sdpa"))
        else:
            source = source_folder(recipe)
            encoder, has_head = load_encoder(
                source, dropout=student.dropout, attention_dropout=student.attention_dropout
            )
            if not has_head:
                log.warning("%s has no masked-LM head: the student begins with a new one", source)
                start_head(encoder.hf)
            if student.teacher_layers is not None:
                keep_layers(encoder, student.teacher_layers)
            if student.embedding_rank is not None:
                reduce_rank(encoder, student.embedding_rank)
    add_dropouts(encoder.hf, student)
    freeze(encoder, trainable=student.trainable)
    return encoder.train()


def source_folder(recipe: Recipe) -> Path:
    """The Hugging Face folder a student with start = "teacher" copies from."""
    if recipe.student.start_from is not None:
        return newest_export(recipe.student.start_from)
    assert recipe.teacher is not None, "the recipe's own check demands a teacher here"
    return newest_export(recipe.teacher.path or recipe.teacher.trimmed)


def keep_layers(encoder: Encoder, layers: tuple[int, ...]) -> None:
    """Keep these layers, in this order, in place.

    Raises:
        ConfigError: a layer number that is out of range or named twice.
    """
    stack = encoder.hf.base_model.encoder
    wrong = [layer for layer in layers if not 0 <= layer < len(stack.layer)]
    if wrong or len(set(layers)) != len(layers) or not layers:
        raise ConfigError(
            f"student.teacher_layers = {list(layers)}: name each of the source's layers 0..{len(stack.layer) - 1} "
            "at most once"
        )
    kept: list[Any] = [stack.layer[layer] for layer in layers]
    for index, layer in enumerate(kept):
        layer.attention.self.layer_idx = index
    stack.layer = nn.ModuleList(kept)
    encoder.hf.config.num_hidden_layers = len(layers)


def reduce_rank(encoder: Encoder, rank: int) -> None:
    """Make the word embeddings, and so the tied decoder, their best approximation of a rank, in place.

    A factorised table A B, [V, rank] times [rank, H], multiplied out: BERT has no place for the factors, and so the
    model is a plain BERT for whoever loads it. It is a start, and saves no memory.

    Raises:
        ConfigError: the rank is not below the width.
    """
    width = encoder.hidden_size
    if rank >= width:
        raise ConfigError(f"student.embedding_rank = {rank} reduces nothing: the source's embeddings are {width} wide")
    table_VH = encoder.hf.get_input_embeddings().weight
    with torch.no_grad():
        wide_VH = table_VH.double()
        _, axes_HH = torch.linalg.eigh(wide_VH.T @ wide_VH)  # ascending: the right singular vectors
        own_HE = axes_HH[:, -rank:]
        table_VH.copy_(wide_VH @ own_HE @ own_HE.T)


def freeze(encoder: Encoder, *, trainable: str) -> None:
    """Set requires_grad: `all`, `all_but_embeddings` (the tables, and so the tied decoder) or `head`.

    The decoder's weight is the word embedding: it is frozen with the table, while its bias moves with the head.
    """
    body = encoder.hf.base_model
    encoder.requires_grad_(True)
    if trainable == "all_but_embeddings":
        for name in EMBEDDING_TABLES:
            getattr(body.embeddings, name).requires_grad_(False)
    elif trainable == "head":
        body.requires_grad_(False)
    assert trainable in ("all", "all_but_embeddings", "head"), trainable


def _random_config(recipe: Recipe) -> BertConfig:
    folder = recipe.data.folder / "tokenizer"
    if not (folder / "tokenizer.json").is_file():
        raise DataError(f"{folder}: no tokenizer.json, and a random student takes its vocabulary from it")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    student = recipe.student
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=student.hidden_size,
        num_hidden_layers=student.num_layers,
        num_attention_heads=student.num_heads,
        intermediate_size=student.intermediate_size,
        max_position_embeddings=max(512, recipe.data.max_sequence_tokens),
        hidden_dropout_prob=student.dropout,
        attention_probs_dropout_prob=student.attention_dropout,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        architectures=["BertForMaskedLM"],
    )


def student_config(recipe: Recipe) -> PretrainedConfig:
    """The Hugging Face configuration of `build_student(recipe)`, without reading any weight."""
    student = recipe.student
    if student.start == "random":
        return _random_config(recipe)
    config = AutoConfig.from_pretrained(source_folder(recipe), local_files_only=True)
    set_dropout(config, dropout=student.dropout, attention_dropout=student.attention_dropout)
    config.num_hidden_layers = len(student.teacher_layers or range(config.num_hidden_layers))
    config.architectures = ["BertForMaskedLM"]
    return config
