"""The encoder: a Hugging Face masked-LM model that reads packed rows and answers only where it is asked.

Legend of shapes: R rows, S width of a row, T = R*S, H hidden size, M masked targets, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
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
        if self.packs:
            return self._forward(input_ids, position_ids, document, target_positions, wanted, token_positions)
        apart = _Apart(document)
        out = self._forward(
            apart.spread(input_ids, self.hf.config.pad_token_id or 0),
            apart.spread(position_ids, 0),
            apart.spread(document, -1),
            apart.of(target_positions),
            wanted,
            apart.of(token_positions),
        )
        hidden = {layer: apart.gather(states) for layer, states in out.hidden.items()}
        return out._replace(last_hidden=apart.gather(out.last_hidden), hidden=hidden)

    def _forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        document: Tensor,
        target_positions: Tensor | None,
        wanted: Wanted,
        token_positions: Tensor | None,
    ) -> EncoderOutput:
        """`forward`, of rows that the model can read."""
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
        """Weights in a precision, in place; buffers, as rotary frequencies, and an exact head keep theirs."""
        for parameter in self.hf.parameters():
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
        """Whether documents can share a row inside; the forward takes packed rows of every model."""
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
    return model(
        batch.input_ids,
        batch.position_ids,
        batch.document,
        batch.target_positions if wanted.masked_logits else None,
        wanted,
        batch.token_positions if wanted.token_logits else None,
    )


class _Apart:
    """The documents of packed rows, each in a row of its own, and the way back.

    Args:
        document: int64 [R, S], 0..D-1, each in one piece, -1 for padding.
    """

    def __init__(self, document: Tensor) -> None:
        self.shape = document.shape
        # Not their positions, which may begin anew within one (translation_lm.reset_positions).
        number = torch.arange(document.numel(), device=document.device).view_as(document)
        first = number.new_full((int(document.max()) + 2,), document.numel())
        first.scatter_reduce_(0, (document + 1).flatten(), number.flatten(), "amin")
        within = torch.where(document >= 0, number - first[document + 1], 0)
        self.rows, self.width = max(1, int(document.max()) + 1), int(within.max()) + 1
        self.place = (document.clamp(min=0) * self.width + within).flatten()
        """[R*S]: where each place is apart; without meaning where there is no document."""
        self.real = document.flatten() >= 0

    def spread(self, values_RS: Tensor, empty: int) -> Tensor:
        """[D, longest] of values of places."""
        out = values_RS.new_full((self.rows * self.width,), empty)
        out[self.place[self.real]] = values_RS.flatten()[self.real]
        return out.view(self.rows, self.width)

    def of(self, positions: Tensor | None) -> Tensor | None:
        """Places apart of places of the packed rows."""
        return None if positions is None else self.place[positions]

    def gather(self, states: Tensor) -> Tensor:
        """[R, S, H] of [D, longest, H]; zeros where there is no token."""
        flat = states.new_zeros(self.real.numel(), states.shape[-1])
        flat[self.real] = states.flatten(0, 1)[self.place[self.real]]
        return flat.view(*self.shape, -1)


def load_encoder(
    folder: Path | str, *, dropout: float = 0.0, attention_dropout: float = 0.0, offline: bool = True
) -> tuple[Encoder, bool]:
    """Read a Hugging Face folder in fp32: (encoder, whether the folder brought a masked-LM head).

    A missing head is left as Hugging Face starts it. `offline=False` also takes a name on a hub.

    Raises:
        DataError: the folder is damaged, lacks weights other than the head's, or is of an architecture that cannot be
            read in rows of several texts.
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
    encoder = Encoder(hf)
    if hf.config.model_type not in architectures.TESTED:
        _try(encoder, folder)
    return encoder, not info["missing_keys"]


@torch.no_grad()
def _try(encoder: Encoder, folder: Path | str) -> None:
    """Refuse an architecture that cannot take our rows, or in which a text depends on what is beside it."""
    config, lengths = encoder.hf.config, (7, 3)
    own = [i for i in range(4 * max(lengths)) if i != config.pad_token_id]
    documents = [torch.tensor(own[length : 2 * length]) for length in lengths]
    place_DS = torch.arange(max(lengths)).expand(len(lengths), -1)
    real_DS = place_DS < torch.tensor(lengths)[:, None]
    ids_DS = torch.full(place_DS.shape, config.pad_token_id or 0).masked_scatter(real_DS, torch.cat(documents))
    owner_DS = torch.where(real_DS, torch.arange(len(lengths))[:, None], -1)
    try:
        with torch.random.fork_rng(devices=[]):
            found = encoder(ids_DS, place_DS * real_DS, owner_DS).last_hidden[real_DS]
            alone = torch.cat([encoder.hf.base_model(input_ids=one[None])[0][0] for one in documents])
    except Exception as error:
        raise DataError(
            f"{folder}: a {config.model_type} does not take the rows that are read here "
            f"({type(error).__name__}: {error}); take an encoder of another architecture"
        ) from error
    if (found - alone).abs().max() > 1e-3 * alone.abs().max():
        raise DataError(
            f"{folder}: in a {config.model_type} what is said of a text depends on padding and other texts beside it, "
            "whatever the mask says; take an encoder of another architecture"
        )


def set_dropout(config: PretrainedConfig, *, dropout: float, attention_dropout: float) -> None:
    """Set the dropouts of a configuration, under whatever names its architecture has for them."""
    for names, value in ((HIDDEN_DROPOUTS, dropout), (ATTENTION_DROPOUTS, attention_dropout)):
        for name in names:
            if hasattr(config, name):
                setattr(config, name, value)
