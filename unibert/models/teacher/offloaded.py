"""A teacher whose weights rest in host memory or in files, and come to the device layer by layer.

The device holds two layers at a time: the one that computes and the next, under way. The word embeddings never come:
the rows of a batch's tokens are looked up where they rest. The decoder of the masked-LM head comes in pieces no larger
than a layer, through the same two buffers. What is left (norms, positions, the head's dense layer) stays on the device.

ZeRO-3's engine for inference does the same by collectives: all ranks in step, on the group that the student's engine
uses, so never while the student goes back. Measured on a CPU (DeepSpeed 0.19.8, outputs equal bit by bit): by default
all of 8 layers were gathered at once; with stage3_max_live_parameters and stage3_prefetch_bucket_size of about a layer,
2 were there and a third under way, and the word table was gathered whole.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unibert.errors import ConfigError
from unibert.models.encoder import EncoderOutput, encode
from unibert.models.folders import newest_export
from unibert.models.teacher.base import Teacher
from unibert.models.teacher.rest import Rest, empty_encoder, put_to_rest, views
from unibert.models.wanted import Wanted
from unibert.teacher_tables import Teacher as TeacherTable

if TYPE_CHECKING:
    from unibert.data.batches import Batch


class OffloadedTeacher(Teacher):
    """An encoder without weights of its own, which come through a `Conveyor`.

    Args:
        rest: the weights where they rest.
        device: that computes.
        ahead: see `Teacher`.
    """

    def __init__(self, rest: Rest, *, device: torch.device, ahead: bool) -> None:
        self.rest, self.encoder = rest, empty_encoder(rest, device=device)
        gives = self.encoder.gives
        if not rest.has_head:
            gives = Wanted(hidden=gives.hidden, attention=gives.attention)
        super().__init__(self.encoder.hf.config, device=device, gives=gives, ahead=ahead)
        self.conveyor = Conveyor(rest, device=device)
        self._heads = 0  # passes through the decoder that the forward under way still makes
        self._pieces = list(range(rest.layers, rest.units))
        for number, layer in enumerate(rest.layer_modules(self.encoder.hf)):
            layer.register_forward_pre_hook(self._bring(number))
            layer.register_forward_hook(self._let_go)
        body: Any = self.encoder.hf.base_model
        body.set_input_embeddings(_Table(rest, device=device))
        if rest.has_head:
            self.encoder.hf.set_output_embeddings(_Decoder(self._piece, rest, self.encoder.hf.get_output_embeddings()))

    @torch.no_grad()
    def forward(self, batch: Batch, wanted: Wanted) -> EncoderOutput:
        """See `Teacher`."""
        assert not self.encoder.training and not any(p.requires_grad for p in self.encoder.parameters())
        self._heads = int(wanted.masked_logits) + int(wanted.token_logits)
        return encode(self.encoder, batch, wanted)

    def parameters(self) -> list[Tensor]:
        """Those that stay on the device."""
        return [parameter for parameter in self.encoder.parameters() if not parameter.is_meta]

    def close(self) -> None:
        """See `Teacher`."""
        super().close()
        self.conveyor.close()

    def _bring(self, number: int) -> Callable[..., None]:
        last, pieces = number + 1 == self.rest.layers, self._pieces

        def hook(layer: nn.Module, *others: Any) -> None:
            upcoming = number + 1 if not last else pieces[0] if self._heads and pieces else 0
            flat = self.conveyor.take(number, upcoming=upcoming)
            for name, view in views(flat, self.rest.plan[number]):
                owner, _, leaf = str(name).rpartition(".")
                layer.get_submodule(owner)._parameters[leaf] = nn.Parameter(view, requires_grad=False)

        return hook

    def _let_go(self, layer: nn.Module, *_: Any) -> None:
        """Leave the buffer to others: the module keeps shapes alone."""
        for module in layer.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(parameter.to("meta"), requires_grad=False)

    def _piece(self, number: int) -> Tensor:
        """Rows of the decoder's weight, [rows, H]."""
        unit = self._pieces[number]
        upcoming = unit + 1
        if upcoming == self.rest.units:
            self._heads -= 1
            upcoming = self._pieces[0] if self._heads else 0
        return views(self.conveyor.take(unit, upcoming=upcoming), self.rest.plan[unit])[0][1]


class Conveyor:
    """Two buffers on the device, through which units of weights go, one in use and one under way."""

    def __init__(self, rest: Rest, *, device: torch.device) -> None:
        self.rest, self.device = rest, device
        size = max(rest.elements(unit) for unit in range(rest.units))
        self.buffers = [torch.empty(size, dtype=rest.dtype, device=device) for _ in range(2)]
        cuda = device.type == "cuda"
        on_disk = rest.on_disk and cuda  # files are read into pinned memory first
        self._staging = [torch.empty(size, dtype=rest.dtype, pin_memory=True) for _ in range(2)] if on_disk else None
        self._stream = torch.cuda.Stream(device) if cuda else None
        self._sent: list[Any] = [None, None]
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="conveyor")
        self._under_way: tuple[int, int, Future[Any]] | None = None
        self._slot = 0

    def take(self, unit: int, *, upcoming: int) -> Tensor:
        """The flat weights of a unit, until the next call; the one that will be asked for next sets out."""
        if self._under_way is None or self._under_way[0] != unit:
            self._start(unit)
        assert self._under_way is not None
        _, slot, future = self._under_way
        if (arrived := future.result()) is not None:
            torch.cuda.current_stream(self.device).wait_event(arrived)
        self._slot = slot
        self._start(upcoming)
        return self.buffers[slot][: self.rest.elements(unit)]

    def close(self) -> None:
        """End its thread."""
        self._pool.shutdown()

    def _start(self, unit: int) -> None:
        """Send a unit to the buffer that is not in use, after what was computed with it."""
        if self._under_way is not None:
            self._under_way[2].result()
        slot = 1 - self._slot
        free = torch.cuda.current_stream(self.device).record_event() if self._stream is not None else None
        self._under_way = (unit, slot, self._pool.submit(self._send, unit, slot, free))

    def _send(self, unit: int, slot: int, free: Any) -> Any:
        target = self.buffers[slot][: self.rest.elements(unit)]
        if self._stream is None or free is None:
            self.rest.read(unit, into=target)
            return None
        source = None
        if self._staging is not None:
            if (sent := self._sent[slot]) is not None:
                sent.synchronize()
            source = self._staging[slot][: self.rest.elements(unit)]
            self.rest.read(unit, into=source)
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(free)
            target.copy_(self.rest.resting(unit) if source is None else source, non_blocking=True)
            self._sent[slot] = self._stream.record_event()
        return self._sent[slot]


class _Table(nn.Module):
    """Word embeddings looked up where they rest."""

    def __init__(self, rest: Rest, *, device: torch.device) -> None:
        super().__init__()
        self.rest, self.device = rest, device

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.rest.rows(input_ids.cpu()).to(self.device)


class _Decoder(nn.Module):
    """The last product of the masked-LM head, a piece of the vocabulary at a time."""

    def __init__(self, piece: Callable[[int], Tensor], rest: Rest, decoder: Any) -> None:
        super().__init__()
        self.piece, self.pieces, self.bias = piece, rest.units - rest.layers, decoder.bias

    def forward(self, hidden: Tensor) -> Tensor:
        logits, begin = [], 0
        for number in range(self.pieces):
            weight = self.piece(number)
            bias = None if self.bias is None else self.bias[begin : begin + len(weight)]
            logits.append(F.linear(hidden, weight, bias))
            begin += len(weight)
        return torch.cat(logits, dim=-1)


def load_offloaded(table: TeacherTable, *, device: torch.device) -> OffloadedTeacher:
    """The teacher of a table, its weights at rest; the files are written first where they are not there yet.

    Raises:
        ConfigError: a head in fp32 below bf16 layers.
        DataError: there is no model in the folder, or it is damaged.
    """
    from unibert.models.teacher import teacher_dtype

    dtype = teacher_dtype(table, device=device)
    if table.head_dtype == "fp32" and dtype != torch.float32:
        raise ConfigError('teacher.head_dtype = "fp32" with kind = "offloaded" needs teacher.dtype = "fp32" too')
    source = newest_export(table.path or table.trimmed)
    folder = table.offload_folder if table.offload == "nvme" else None
    rest = put_to_rest(source, dtype=dtype, folder=folder, pinned=device.type == "cuda")
    return OffloadedTeacher(rest, device=device, ahead=table.ahead != "off")
