"""Results files to a folder with report.md, report.json, report.tex and charts; TensorBoard when asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from unibert.data.lines import atomic, say
from unibert.evaluate.compare import charts
from unibert.evaluate.compare.analysis import Analysis, analyse
from unibert.evaluate.compare.consistency import newest
from unibert.evaluate.compare.pages import as_json, latex, markdown
from unibert.evaluate.results_file import read_results


def write_report(
    files: Sequence[Path],
    folder: Path,
    *,
    reference: str | None = None,
    ours: Sequence[str] = (),
    resamples: int = 1000,
    tensorboard: bool = False,
    cards: Sequence[str] = (),
) -> Analysis:
    """Join results files and write the report into a folder.

    Args:
        files: results files.
        folder: written to.
        reference: the model that improvements are relative to.
        ours: models that are compared, as a group, with the others.
        resamples: of each bootstrap.
        tensorboard: also write scalars, into the folder's tb.
        cards: NAME=FOLDER of models whose cards are told their scores.

    Raises:
        ConfigError: names of which there are no results.
        DataError: nothing that can be compared, or a card that cannot be read. Nothing is written then.
    """
    read = [newest(read_results(path)) for path in files]
    rows = list({row.key: row for kept, _ in read for row in kept}.values())
    found = analyse(rows, reference=reference, ours=ours, resamples=resamples)
    found.left_out += [line for _, replaced in read for line in replaced]
    for _, replaced in read:
        for line in replaced:
            say(f"report: {line}")
    made: dict[Path, str] = {}
    if cards:
        from unibert.evaluate.compare.cards import make_cards

        made = make_cards(rows, cards)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [("Languages and models", charts.heatmap(found, folder / "heatmap.png"))]
    if found.against:
        drawn.append(("Relative improvement", charts.improvements(found, folder / "improvement.png")))
    with atomic(folder / "report.json") as file:
        file.write(json.dumps(as_json(found), ensure_ascii=False, indent=1) + "\n")
    with atomic(folder / "report.tex") as file:
        file.write(latex(found))
    with atomic(folder / "report.md") as file:
        named = [(title, path.name) for title, path in drawn]
        file.write(markdown(found, charts=named, files=[path.name for path in files]))
    say(f"report: {folder / 'report.md'}")
    if tensorboard:
        from unibert.evaluate.compare.scalars import write_scalars

        say(f"report: tensorboard --logdir {write_scalars(found, folder / 'tb')}")
    if made:
        from unibert.evaluate.compare.cards import write_cards

        write_cards(made)
    return found
