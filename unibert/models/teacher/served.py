"""A teacher in a process of its own (unibert serve-teacher), on its own device, that answers the ranks of its machine.

The ranks of a training are all of the world, so that DeepSpeed's groups stay as they are; the server is outside of
it. They meet at a Unix socket, whose file only its owner can open, and speak in arrays: a batch and what is wanted,
then the answer. One thread for each rank reads and writes, one forward runs at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unibert.errors import DataError, MachineError, UnibertError
from unibert.models.attention import Attended
from unibert.models.encoder import EncoderOutput
from unibert.models.teacher.base import Teacher
from unibert.models.wanted import Wanted

if TYPE_CHECKING:
    from unibert.data.batches import Batch

SECONDS_TO_MEET = 120.0


class ServedTeacher(Teacher):
    """Asks the server at a socket.

    Args:
        socket: of the server on this machine.
        fingerprint: of the teacher that must be there.
        device: answers go to.
        ahead: see `Teacher`.

    Raises:
        MachineError: nobody is there.
        DataError: another teacher is.
    """

    def __init__(self, socket: Path, *, fingerprint: str, device: torch.device, ahead: bool) -> None:
        self._line = _meet(socket)
        facts = self._line.recv()
        if facts["fingerprint"] != fingerprint:
            raise DataError(f"{socket}: another teacher is served there than the recipe names; start it again")
        super().__init__(facts["config"], device=device, gives=facts["gives"], ahead=ahead)
        self.gives_unmasked, self._socket = facts["gives_unmasked"], socket

    def forward(self, batch: Batch, wanted: Wanted) -> EncoderOutput:
        """See `Teacher`."""
        host = batch.to("cpu")
        try:
            self._line.send(({item.name: _array(getattr(host, item.name)) for item in fields(host)}, wanted))
            answer = self._line.recv()
        except (EOFError, OSError) as error:
            raise MachineError(f"{self._socket}: the teacher's server is gone; start it and the run again") from error
        if isinstance(answer, str):
            raise UnibertError(f"the teacher's server at {self._socket}: {answer}")
        return _output(answer, self.device)

    def close(self) -> None:
        """See `Teacher`."""
        super().close()
        self._line.close()


def serve(teacher: Teacher, *, fingerprint: str, socket: Path) -> None:
    """Answer at a socket until the process is ended."""
    socket.parent.mkdir(parents=True, exist_ok=True)
    socket.unlink(missing_ok=True)
    alone = threading.Lock()
    facts = {"fingerprint": fingerprint, "config": teacher.config, "gives": teacher.gives}
    facts["gives_unmasked"] = teacher.gives_unmasked
    with Listener(str(socket), family="AF_UNIX") as listener:
        socket.chmod(0o600)
        while True:
            line = listener.accept()
            threading.Thread(target=_answer, args=(teacher, line, facts, alone), daemon=True).start()


def _answer(teacher: Teacher, line: Connection, facts: Mapping[str, Any], alone: threading.Lock) -> None:
    """Answer one rank until it leaves, at whatever moment: the others are not to notice."""
    from unibert.data.batches import Batch

    with line, suppress(EOFError, OSError):
        line.send(facts)
        while True:
            told, wanted = line.recv()
            try:
                batch = Batch(**{name: _tensor(value) for name, value in told.items()}).to(teacher.device)
                with alone:
                    answer: Any = _told(teacher.forward(batch, wanted))
            except Exception as error:
                answer = f"{type(error).__name__}: {error}"
            line.send(answer)


def _meet(socket: Path) -> Connection:
    """A line to the server, which may still be reading its weights."""
    began = time.monotonic()
    while True:
        try:
            return Client(str(socket), family="AF_UNIX")
        except (FileNotFoundError, ConnectionRefusedError) as error:
            if time.monotonic() - began > SECONDS_TO_MEET:
                raise MachineError(f"{socket}: no teacher answers; start it: unibert serve-teacher RECIPE") from error
            time.sleep(0.2)


def _array(value: Any) -> Any:
    """A tensor as an array that pickle copies plainly; bf16, which numpy lacks, as its bits."""
    if not isinstance(value, Tensor):
        return value
    host = value.detach().cpu().contiguous()
    return ("bf16", host.view(torch.int16).numpy()) if host.dtype == torch.bfloat16 else ("", host.numpy())


def _tensor(value: Any) -> Any:
    if not isinstance(value, tuple):
        return value
    kind, array = value
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if kind == "bf16" else tensor


def _told(out: EncoderOutput) -> dict[str, Any]:
    plain = {name: _array(getattr(out, name)) for name in ("last_hidden", "masked_logits", "token_logits")}
    hidden = {layer: _array(states) for layer, states in out.hidden.items()}
    attention = {layer: [_array(part) for part in kept] for layer, kept in out.attention.items()}
    return plain | {"hidden": hidden, "attention": attention}


def _output(told: dict[str, Any], device: torch.device) -> EncoderOutput:
    def here(value: Any) -> Any:
        return None if value is None else _tensor(value).to(device)

    hidden = {layer: here(states) for layer, states in told["hidden"].items()}
    attention = {
        layer: Attended(here(parts[0]), here(parts[1]), here(parts[2])) for layer, parts in told["attention"].items()
    }
    masked, each = here(told["masked_logits"]), here(told["token_logits"])
    return EncoderOutput(here(told["last_hidden"]), masked, each, hidden, attention)
