"""What a loss or gradient that is not finite was made of: the samples of the step, by rank and micro-batch."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import torch
from torch import Tensor

from unibert.assembly import Run
from unibert.data.batches import Batch
from unibert.errors import NumericsError
from unibert.observe.meter import Reading
from unibert.runtime.dist import everyone_says


def report_nonfinite(reading: Reading, *, step: int, micros: list[Batch], losses: list[Tensor], run: Run) -> NoReturn:
    """Write nonfinite_step_<step>.json with every document of the step, and end the run. Every rank calls it.

    Args:
        reading: the step's numbers, with something that is not finite.
        step: the optimizer step.
        micros: this rank's micro-batches.
        losses: the student's loss in each of them.
        run: the run.

    Raises:
        NumericsError: always; with the place, the samples and the way on.
    """
    finite = torch.stack(losses).isfinite().tolist()
    own = [_micro_batch(batch, good, run=run) for batch, good in zip(micros, finite, strict=True)]
    everyone = [{"rank": rank, **micro} for rank, said in enumerate(everyone_says(own)) for micro in said]
    file = run.folder / f"nonfinite_step_{step:08d}.json"
    if run.ranks.is_first:
        facts = {"step": step, "not_finite": reading.nonfinite, "micro_batches": everyone}
        file.write_text(json.dumps(facts, indent=1), encoding="utf-8")
    samples = [sample for micro in everyone for sample in micro["samples"]]
    broken = [micro for micro in everyone if not micro["loss_is_finite"]]
    where = f", ranks {', '.join(map(str, reading.nonfinite_ranks))}" if reading.nonfinite_ranks else ""
    first = f"; the loss breaks in samples {_span(broken[0]['samples'])} of rank {broken[0]['rank']}" if broken else ""
    raise NumericsError(
        f"step {step}, samples {_span(samples)}{where}: not finite: {', '.join(reading.nonfinite)}{first}. All "
        f"documents of the step are in {file}. Nothing of it is saved: pass it over with --train.skip-steps "
        f"{step}:{step}, lower the learning rate, or train in fp32 (always the same rank? suspect its machine)"
    )


def _micro_batch(batch: Batch, finite: bool, *, run: Run) -> dict[str, Any]:
    samples = batch.sample_ids.tolist()
    documents = run.stream.mixture.names(samples[0], samples[-1] + 1)
    return {"loss_is_finite": finite, "samples": samples, "documents": documents}


def _span(samples: list[int]) -> str:
    return f"{min(samples)}..{max(samples)}"
