"""Which rows of a language are held out and kept: how many, from where, whole documents, whatever the order."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from unibert.data import duplicates, holdout, units
from unibert.data.units import Unit

Chosen = dict[str, Counter[str]]


def unit(folder: Path, number: int, source: str, documents: Sequence[int]) -> Unit:
    """A unit with one language, of documents with these numbers of lines; a single line is a row without number."""
    rows = []
    for name, count in enumerate(documents):
        identity = f"{source}:{name}"
        numbered = [{"line": line} for line in range(count)] if count > 1 else [{}]
        rows += [{"id": identity, **more, "text": f"{identity} {n}"} for n, more in enumerate(numbered)]
    return unit_of(folder / str(number), number, source, rows)


def unit_of(folder: Path, number: int, source: str, rows: Sequence[dict]) -> Unit:
    result, _ = units.write(folder, source=source, kept={"en": [units.Line(row, row["text"]) for row in rows]})
    return Unit.from_result(number, folder, result)


def chosen(found: Sequence[Unit], *, heldout: int, cap: int) -> Chosen:
    """How many lines of each document are held out and kept."""
    bounds = holdout.set_bounds(found, "en", [], heldout=heldout, cap=cap)
    parts: Chosen = {"held": Counter(), "kept": Counter()}
    for each in found:
        held = holdout.is_held(each, "en", bounds[each.source])
        kept = holdout.is_kept(each, "en", bounds[each.source]) & ~held
        for row, *members in zip(each.rows("en"), held, kept, strict=True):
            for part, member in zip(("held", "kept"), members, strict=True):
                if member:
                    parts[part][row["id"]] += 1
    return parts


def by_source(counts: Counter[str]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for identity, count in counts.items():
        found[identity.partition(":")[0]] += count
    return dict(found)


def test_lines_are_drawn_evenly_from_the_sources(tmp_path: Path) -> None:
    sizes = {"big": 1000, "small": 10, "middle": 100}
    found = [unit(tmp_path, n, source, [1] * count) for n, (source, count) in enumerate(sizes.items())]
    parts = chosen(found, heldout=0, cap=90)
    assert not parts["held"] and by_source(parts["kept"]) == {"small": 10, "middle": 40, "big": 40}
    of_big = sorted(int(identity.partition(":")[2]) for identity in parts["kept"] if identity.startswith("big"))
    assert of_big[0] < 150 and of_big[-1] > 850  # from all over the source


def test_what_is_held_out_has_the_same_mixture(tmp_path: Path) -> None:
    found = [unit(tmp_path, 0, "big", [1] * 5000), unit(tmp_path, 1, "small", [1] * 300)]
    parts = chosen(found, heldout=100, cap=2000)
    assert parts["held"].total() == 100 and parts["kept"].total() == 2000
    assert not parts["held"].keys() & parts["kept"].keys()
    share, of_kept = (by_source(counts)["small"] / counts.total() for counts in parts.values())
    assert share == pytest.approx(of_kept, abs=0.02)


def test_a_poor_language_gives_a_quarter_at_most(tmp_path: Path) -> None:
    parts = chosen([unit(tmp_path, 0, "big", [1] * 40)], heldout=100, cap=2000)
    assert (parts["held"].total(), parts["kept"].total()) == (10, 30)


def test_documents_are_held_out_and_kept_whole(tmp_path: Path) -> None:
    sizes = [1 + n % 9 for n in range(400)]
    parts = chosen([unit(tmp_path, 0, "wiki", sizes)], heldout=100, cap=1000)
    for part, asked in (("held", 100), ("kept", 1000)):
        assert asked - 9 < parts[part].total() <= asked
        assert all(parts[part][f"wiki:{number}"] in (0, size) for number, size in enumerate(sizes))
    only = chosen([unit(tmp_path, 1, "book", [50])], heldout=10, cap=20)
    assert only["held"].total() == 50  # there is no smaller piece of it


def test_how_a_source_is_cut_into_units_does_not_matter(tmp_path: Path) -> None:
    rows = [{"id": f"s:{n}", "text": f"text {n}"} for n in range(600)]
    results = []
    for pieces in ([rows], [rows[:7], rows[7:400], rows[400:]]):
        folder = tmp_path / str(len(pieces))
        results.append([unit_of(folder / str(n), n, "s", piece) for n, piece in enumerate(pieces)])
    whole, cut = (chosen(found, heldout=50, cap=200) for found in results)
    assert whole == cut and (whole["held"].total(), whole["kept"].total()) == (50, 200)


def test_a_source_that_is_held_out_is_not_the_one_that_is_kept(tmp_path: Path) -> None:
    """The hashes by which rows are held out and kept are independent: neither favours the other's."""
    found = unit(tmp_path, 0, "s", [1] * 4000)
    held, kept = (holdout._ranks(found, "en", purpose) for purpose in (holdout._TO_HOLD, holdout._TO_KEEP))
    order = np.argsort(held)
    assert abs(np.corrcoef(np.argsort(order), np.argsort(np.argsort(kept)))[0, 1]) < 0.05


def test_duplicates_are_neither_held_out_nor_counted(tmp_path: Path) -> None:
    found = unit(tmp_path, 0, "s", [1] * 100)
    verdicts = np.array([[row, duplicates.DUPLICATE] for row in range(0, 100, 2)], dtype=np.uint64)
    np.save(tmp_path / "v.npy", verdicts)
    bounds = holdout.set_bounds([found], "en", [tmp_path / "v.npy"], heldout=10, cap=30)["s"]
    fresh = duplicates.verdicts_of(found, "en", [tmp_path / "v.npy"]) == 0
    held = fresh & holdout.is_held(found, "en", bounds)
    assert (fresh.sum(), held.sum()) == (50, 10)
    assert (fresh & ~held & holdout.is_kept(found, "en", bounds)).sum() == 30


@pytest.mark.parametrize(
    ("available", "total", "given"),
    [
        ({"a": 1000, "b": 10, "c": 100}, 90, {"a": 40, "b": 10, "c": 40}),
        ({"a": 5, "b": 5}, 90, {"a": 5, "b": 5}),
        ({"a": 5, "b": 5, "c": 5}, 10, {"a": 3, "b": 3, "c": 4}),
        ({"a": 0, "b": 7}, 3, {"a": 0, "b": 3}),
        ({}, 3, {}),
    ],
)
def test_evenly(available: dict[str, int], total: int, given: dict[str, int]) -> None:
    assert holdout._evenly(available, total) == given


@pytest.mark.parametrize(
    ("amounts", "total", "given"),
    [
        ({"a": 900, "b": 100}, 10, {"a": 9, "b": 1}),
        ({"a": 2, "b": 2, "c": 2}, 4, {"a": 2, "b": 1, "c": 1}),
        ({"a": 0, "b": 3}, 2, {"a": 0, "b": 2}),
        ({"a": 0}, 0, {"a": 0}),
    ],
)
def test_proportionally(amounts: dict[str, int], total: int, given: dict[str, int]) -> None:
    assert holdout._proportionally(amounts, total) == given
