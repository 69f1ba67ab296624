"""The encoder: a Hugging Face masked-LM model that reads packed rows and answers only where it is asked.

Legend of shapes: R rows, S width of a row, T = R*S, H hidden size, M masked targets, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForMaskedLM, PretrainedConfig, PreTrainedModel

from unibert.errors import DataError
from unibert.models import architectures, attention
from unibert.models.folders import quiet_hf
from unibert.models.heads import last_product, left_out, masked_lm_head
from unibert.models.wanted import Sizes, Wanted

if TYPE_CHECKING:
    from unibert.data.batches import Batch

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
        document: Tensor,
        target_positions: Tensor | None = None,
        wanted: Wanted | None = None,
        token_positions: Tensor | None = None,
    ) -> EncoderOutput:
        """Encode packed rows.

        Args:
            input_ids: int64 [R, S].
            position_ids: int64 [R, S], starting again at 0 in each document.
            document: int64 [R, S], the document of each token, -1 for padding; a token sees its own alone.
            target_positions: int64 [M], indices into the flattened R*S; the head runs on these alone.
            wanted: what to give besides the last hidden state; when absent the masked logits, if there are targets.
            token_positions: int64 [N], indices of all tokens; needed for wanted.token_logits alone.
        """
        wanted = wanted or Wanted(masked_logits=target_positions is not None)
        body = self.hf.base_model
        moves = any(parameter.requires_grad for parameter in body.parameters())
        with (
            torch.set_grad_enabled(torch.is_grad_enabled() and moves),
            attention.recorded(wanted.attention) as attended,
        ):
            out = body(
                input_ids=input_ids,
                position_ids=position_ids + self.first_position,
                **architectures.within_documents(
                    self.hf.config, document, dtype=body.dtype, dropout=self._attention_dropout
                ),
                output_hidden_states=bool(wanted.hidden),
            )
        hidden_TH = out.last_hidden_state.flatten(0, 1)
        decoder = self.decoder if wanted.factored else None
        head: Any = self.logits if decoder is None else torch.compiler.disable(partial(self._inputs, decoder))
        masked = token = None
        if wanted.masked_logits:
            assert target_positions is not None
            masked = head(hidden_TH.index_select(0, target_positions))
        if wanted.token_logits:
            assert token_positions is not None
            token = head(hidden_TH.index_select(0, token_positions))
        states = {layer: out.hidden_states[layer] for layer in wanted.hidden}
        if decoder is None:
            return EncoderOutput(out.last_hidden_state, masked, token, states, attended)
        return EncoderOutput(out.last_hidden_state, None, None, states, attended, masked, token, decoder)

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

    def _inputs(self, decoder: nn.Linear, hidden_MH: Tensor) -> Tensor:
        """[M, H]: what the head would give its decoder."""
        with left_out(decoder):
            return self.logits(hidden_MH)

    @property
    def _attention_dropout(self) -> float:
        drops = [getattr(self.hf.config, name, 0.0) for name in ATTENTION_DROPOUTS]
        return max(drops) if self.training else 0.0

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
        batch.document,
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
    order = torch.argsort(place[real])

    def by_row(values: Tensor | None) -> Tensor | None:  # they are by document there
        return None if values is None else torch.empty_like(values).index_copy_(0, order, values)

    return out._replace(
        last_hidden=gather(out.last_hidden),
        hidden=hidden,
        token_logits=by_row(out.token_logits),
        token_inputs=by_row(out.token_inputs),
    )


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
