"""TensorBoard's files: scalars with x = step, purged on resume, the layout of the charts, the projector.

Letters: N sentences, H hidden size.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from unibert.languages import LANGUAGES

COLOURS = 50  # TensorBoard colours a column of words only up to this many different ones


class ScalarWriter:
    """Writes scalars to `folder`, of which nothing after `first_step` of an earlier start is shown any more.

    A start writes its own event file; the purge mark at its head tells TensorBoard's reader to forget the
    earlier files' points from that step on. From step 0, everything is forgotten.
    """

    def __init__(self, folder: Path, *, first_step: int, layout: dict[str, dict[str, list]]) -> None:
        earlier = sorted(folder.glob("events.out.tfevents.[0-9]*"))
        _wait_for_a_later_name(earlier)
        self.writer = SummaryWriter(str(folder), purge_step=first_step + 1 if first_step else 0)
        if not first_step or not earlier:
            self.writer.add_custom_scalars(layout)
        self.writer.flush()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One point per tag, handed to the system before this returns."""
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, step)
        self.writer.flush()

    def close(self) -> None:
        """Close the event file; a second call does nothing."""
        self.writer.close()


def _wait_for_a_later_name(earlier: Sequence[Path]) -> None:
    """Wait while a new file would not come last: they are read by name, which begins with the second of opening.

    Clocks of two machines may differ by seconds; a difference beyond ten is not waited for.
    """
    newest = max((int(path.name.split(".")[3]) for path in earlier), default=0)
    wait = newest + 1 - time.time()
    if 0 < wait <= 10:
        time.sleep(wait)


def write_projector(
    writer: SummaryWriter,
    *,
    step: int,
    embeddings_NH: Tensor,
    languages: Sequence[str],
    texts: Sequence[str],
) -> Path:
    """Write sentence embeddings for TensorBoard's projector: "Color by" language, script or language number.

    With more than 50 languages TensorBoard does not offer to colour by their names; then the script and the
    number (tick "Use categorical coloring") remain. The folder of an earlier start at this step is replaced.

    Args:
        writer: the run's writer; the files go beside its event file.
        step: the optimizer step.
        embeddings_NH: one row per sentence.
        languages: each sentence's language code.
        texts: each sentence.

    Returns:
        The folder of tensors.tsv and metadata.tsv.
    """
    numbers = {code: number for number, code in enumerate(dict.fromkeys(languages))}
    rows = [
        [code, LANGUAGES[code].name, LANGUAGES[code].script, numbers[code], " ".join(text.split())[:100]]
        for code, text in zip(languages, texts, strict=True)
    ]
    step_folder = Path(writer.log_dir) / f"{step:05d}"
    shutil.rmtree(step_folder, ignore_errors=True)
    header = ["language", "name", "script", "language_number", "text"]
    writer.add_embedding(
        embeddings_NH.detach().float().cpu(), metadata=rows, metadata_header=header, global_step=step, tag="sentences"
    )
    return step_folder / "sentences"
