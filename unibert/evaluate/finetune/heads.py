"""An encoder with a task's head. Shapes: W windows, P places of a window, H hidden size, C outputs.

All heads read the hidden states at a window's places and are linear, but for two: classes and numbers pass a dense
layer with tanh first, as BERT's; and a conversation's reader lays the states of all rows of a window side by side (the
context read with the question, with each past question, with each past answer), which a recurrent layer reads before
start and end (Ohsugi et al. 2019; two ways and its width H are ours). Both of its ways begin and end at a window's own
places: padding is not read, so that an answer does not depend on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import AutoModel, PreTrainedModel

from unibert.errors import DataError, NumericsError
from unibert.evaluate.finetune.windows import Window
from unibert.evaluate.tasks.base import Head
from unibert.models.folders import quiet_hf

NOT_A_TARGET = -100
"""What cross-entropy leaves out."""


@dataclass(frozen=True)
class Batch:
    """Windows as tensors, the rows of all windows one after the other."""

    ids: Tensor
    types: Tensor
    real: Tensor
    places: Tensor
    """int64 [rows, P]; 0 where a window has fewer."""
    place_real: Tensor
    """bool [W, P]."""
    present: Tensor
    """bool [rows]: false for a past turn that there was not."""
    targets: Tensor
    """fp32 [W, P] (tokens), [W, 1] or [W, 2]."""

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(*(value.to(device) for value in vars(self).values()))


def collate(windows: Sequence[Window], *, padding: int) -> Batch:
    """Windows of one head as tensors."""
    rows = [row for window in windows for row in window.rows]
    width = max(len(row.ids) for row in rows)
    places = max(len(window.rows[0].places) for window in windows)
    targets = max(len(window.targets) for window in windows)

    def filled(values: Sequence[Sequence[float]], size: int, empty: float) -> list[list[float]]:
        return [[*value, *[empty] * (size - len(value))] for value in values]

    lengths = torch.tensor([len(row.ids) for row in rows])
    seconds = torch.tensor([row.second for row in rows])
    place_S = torch.arange(width)
    real = place_S < lengths[:, None]
    real[:, 0] = True  # a row of nothing sees one padding token, so that no softmax is over nothing
    own = torch.tensor([len(window.rows[0].places) for window in windows])
    return Batch(
        ids=torch.tensor(filled([row.ids for row in rows], width, padding), dtype=torch.long),
        types=((place_S >= seconds[:, None]) & (place_S < lengths[:, None])).long(),
        real=real,
        places=torch.tensor(filled([row.places for row in rows], places, 0), dtype=torch.long),
        place_real=torch.arange(places) < own[:, None],
        present=lengths > 0,
        targets=torch.tensor(filled([window.targets for window in windows], targets, NOT_A_TARGET)),
    )


def load_body(folder: Path) -> PreTrainedModel:
    """A Hugging Face folder's encoder in fp32, without heads.

    Raises:
        DataError: the folder holds no encoder, is damaged, or lacks weights other than the pooler's (nobody reads it).
    """
    try:
        with quiet_hf():
            body, info = AutoModel.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{folder}: cannot be read as an encoder: {error}") from error
    lost = sorted(name for name in info["missing_keys"] if "pooler" not in name)
    if lost:
        raise DataError(
            f"{folder}: {len(lost)} weights of the encoder are missing, the first is {lost[0]}; write the folder again"
        )
    return body


class TaskModel(nn.Module):
    """A Hugging Face encoder and a head."""

    def __init__(self, folder: Path, head: Head, *, outputs: int, turns: int = 1, dropout: float = 0.1) -> None:
        """Load the encoder in fp32 and begin the head at random.

        Args:
            folder: Hugging Face folder.
            head: of the task.
            outputs: C: labels; 1 for a number, 2 for start and end.
            turns: rows of a window: 1, or 1 + twice the history.
            dropout: before the head.

        Raises:
            DataError: the folder holds no encoder, or not all of it.
        """
        super().__init__()
        self.body = load_body(folder)
        width = self.body.config.hidden_size
        self.head: Head = head
        self.turns = turns
        self.segments = getattr(self.body.config, "type_vocab_size", 0) > 1
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(width, width) if head in ("classes", "value") else None
        both = head == "conversation"
        self.reader = nn.GRU(turns * width, width // 2, batch_first=True, bidirectional=True) if both else None
        self.out = nn.Linear(width // 2 * 2 if both else width, outputs)
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)

    def forward(self, batch: Batch) -> Tensor:
        """[W, P, C]; where a window has no place, without meaning.

        Raises:
            NumericsError: outputs of a model that is no longer trained are not finite.
        """
        types = {"token_type_ids": batch.types} if self.segments else {}
        hidden = self.body(input_ids=batch.ids, attention_mask=batch.real.long(), **types).last_hidden_state
        index = batch.places[..., None].expand(-1, -1, hidden.shape[-1])
        states = hidden.gather(1, index) * batch.present[:, None, None]
        if self.reader is not None:
            rows, places, width = states.shape
            states = states.view(rows // self.turns, self.turns, places, width).transpose(1, 2).flatten(2)
            states = self._read(self.dropout(states), batch.place_real.sum(1))
        if self.dense is not None:
            states = torch.tanh(self.dense(self.dropout(states)))
        outputs = self.out(self.dropout(states))
        if not self.training and not torch.isfinite(outputs).all():
            raise NumericsError(
                f"{self.body.name_or_path}: it answers with numbers that are not finite: look whether its weights are "
                "finite, and use a lower learning rate (--rates)"
            )
        return outputs

    def _read(self, states: Tensor, lengths: Tensor) -> Tensor:
        """The recurrent layer's states of each window's own places, one at least; zeros behind them."""
        assert self.reader is not None
        packed = pack_padded_sequence(states, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.reader(packed)[0], batch_first=True, total_length=states.shape[1])[0]

    def loss(self, batch: Batch) -> Tensor:
        """Mean cross-entropy of labels, of start and end, or mean squared distance of numbers."""
        logits = self(batch).float()
        if self.head == "value":
            return (logits[:, 0, 0] - batch.targets[:, 0]).square().mean()
        if self.head in ("tokens", "classes"):
            return nn.functional.cross_entropy(
                logits.flatten(0, 1), batch.targets.long().flatten(), ignore_index=NOT_A_TARGET
            )
        scores = over_places(logits, batch)
        halves = [nn.functional.cross_entropy(scores[..., i], batch.targets[:, i].long()) for i in (0, 1)]
        return (halves[0] + halves[1]) / 2


def over_places(logits: Tensor, batch: Batch) -> Tensor:
    """Scores [W, P, 2] of start and end, so low where there is no place that a softmax gives it nothing."""
    return logits.masked_fill(~batch.place_real[..., None], torch.finfo(logits.dtype).min)
