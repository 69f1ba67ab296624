"""Append rows to results.csv; its columns are explained in README.md beside it."""

from __future__ import annotations

import csv
import datetime
import subprocess
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).with_name("results.csv")


def save(rows: Sequence[Sequence[object]]) -> None:
    """Append rows from the column `script` on; date and commit are filled in."""
    tree = RESULTS.parent
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=tree, text=True).strip()
    with RESULTS.open("a", newline="") as file:
        writer = csv.writer(file)
        for row in rows:
            writer.writerow([datetime.date.today().isoformat(), commit, *row])
