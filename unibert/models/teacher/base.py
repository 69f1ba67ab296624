"""What every teacher is: it says what it gives, and answers now or, asked early, later."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unibert.models.encoder import EncoderOutput
from unibert.models.wanted import Sizes, Wanted

if TYPE_CHECKING:
    from unibert.data.batches import Batch


class Teacher(ABC):
    """A frozen encoder, wherever its weights or its answers are.

    Not an nn.Module, so that no `train()`, optimizer or engine of a parent can reach it.

    Args:
        config: of the encoder, a Hugging Face config.
        device: that batches come on and answers go to.
        gives: of its reading of masked text.
        ahead: answer in a thread of its own, so that `ask` returns at once and the work goes on beside the caller's.
    """

    reads_anything = True
    """Whether it can answer to other text than training's, as to held-out text."""
    gives_unmasked: Wanted | None
    """Of its reading of text as it was before masking; None when it cannot read that."""
    gives_factors = False
    """Whether it can leave the last product of its head to the loss."""
    why = (
        "a teacher without masked-LM head needs one fitted first (unibert train demo_teacher), and one whose attention "
        "has no plain queries, keys and values gives none; or turn those objectives off"
    )
    """What to say where it cannot give what is wanted."""

    def __init__(self, config: Any, *, device: torch.device, gives: Wanted, ahead: bool) -> None:
        self.config, self.device, self.gives, self.gives_unmasked = config, device, gives, gives
        self.sizes = Sizes.of(config)
        self._worker = _Worker(device) if ahead else None
        self._asked: deque[Callable[[], EncoderOutput]] = deque()

    @abstractmethod
    def forward(self, batch: Batch, wanted: Wanted) -> EncoderOutput:
        """The answer to a micro-batch on its device, in the teacher's own dtype, as constants for autograd.

        Args:
            batch: what the student reads too.
            wanted: what to give, all of it among `gives`.
        """

    @property
    def works_ahead(self) -> bool:
        """Whether it answers in a thread of its own."""
        return self._worker is not None

    def ask(self, batch: Batch, wanted: Wanted) -> None:
        """Begin to answer, if it works ahead; `answer` gives the answers in the order of the questions."""
        if self._worker is None:
            self._asked.append(lambda: self.forward(batch, wanted))
        else:
            self._asked.append(self._worker.begin(lambda: self.forward(batch, wanted)))

    def answer(self) -> EncoderOutput:
        """The answer to the oldest question that has none yet."""
        return self._asked.popleft()()

    def forget(self) -> None:
        """Let questions without answer be."""
        while self._asked:
            question = self._asked.popleft()
            if self._worker is not None:
                question()  # it is under way: an error there is an error here

    def parameters(self) -> list[Tensor]:
        """Weights it holds in this process, all of them frozen and in no optimizer."""
        return []

    def close(self) -> None:
        """End its thread and let go of its files."""
        if self._worker is not None:
            self._worker.close()


class _Worker:
    """Calls one after another in a thread, on a stream of its own where the device is a GPU.

    The same kernels run on the same numbers as in the caller's thread, so the answers are the same bits.
    """

    def __init__(self, device: torch.device) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="teacher")
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def begin(self, call: Callable[[], EncoderOutput]) -> Callable[[], EncoderOutput]:
        """Start a call after those that were begun before; returns what waits for its result."""
        if self._stream is None:
            return self._pool.submit(call).result
        stream, given = self._stream, torch.cuda.current_stream(self._stream.device).record_event()

        def on_stream() -> tuple[EncoderOutput, Any]:
            with torch.cuda.stream(stream):
                stream.wait_event(given)  # the batch is whole
                return call(), stream.record_event()

        future: Future[tuple[EncoderOutput, Any]] = self._pool.submit(on_stream)

        def result() -> EncoderOutput:
            out, done = future.result()
            here = torch.cuda.current_stream(stream.device)
            here.wait_event(done)
            for tensor in _tensors(out):
                tensor.record_stream(here)  # its memory is not given away while this stream reads it
            return out

        return result

    def close(self) -> None:
        """End the thread after the calls that were begun."""
        self._pool.shutdown()


def _tensors(out: EncoderOutput) -> list[Tensor]:
    own = [
        out.last_hidden,
        *(out.masked_logits, out.token_logits, out.masked_inputs, out.token_inputs),
        *out.hidden.values(),
    ]
    return [tensor for tensor in own if tensor is not None] + [t for kept in out.attention.values() for t in kept]


class Lessons:
    """What a teacher says of one micro-batch after another, asked as soon as the micro-batch is known.

    Args:
        teacher: who answers.
        masked: wanted of its reading of the text as the student sees it; None when that is not read.
        unmasked: of the text as it was.
    """

    def __init__(self, teacher: Teacher, *, masked: Wanted | None, unmasked: Wanted | None) -> None:
        self.teacher = teacher
        self.masked, self.unmasked = (
            wanted and replace(wanted, factored=wanted.factored and teacher.gives_factors)
            for wanted in (masked, unmasked)
        )
        self.early = teacher.works_ahead
        """Whether asking before the answer is needed saves time."""
        self._batch: Batch | None = None

    def ask(self, batch: Batch) -> None:
        """Begin with a micro-batch; what was asked of another one is forgotten."""
        if batch is self._batch:
            return
        self.teacher.forget()
        self._batch = batch
        if self.masked is not None:
            self.teacher.ask(batch, self.masked)
        if self.unmasked is not None:
            self.teacher.ask(batch.unmasked, self.unmasked)

    def answers(self, batch: Batch) -> tuple[EncoderOutput | None, EncoderOutput | None]:
        """Its readings of the masked and of the unmasked text, once."""
        self.ask(batch)
        self._batch = None
        return (
            None if self.masked is None else self.teacher.answer(),
            None if self.unmasked is None else self.teacher.answer(),
        )
