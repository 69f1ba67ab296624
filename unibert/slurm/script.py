"""A job's script: a file of launch_slurm/ as its reader knows it, with its `#SBATCH` lines filled in.

Nothing else is a template. An option replaces the file's line of the same name or joins the others; below them come the
settings and the script's own arguments, so that `sbatch FILE` alone is the whole command.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from unibert.errors import MachineError

FOLDER = Path("launch_slurm")
LINE = re.compile(r"#SBATCH --([a-z-]+)(?:[= ].*)?$")


def read(name: str) -> str:
    """A file of launch_slurm/ of the checkout in which the command was called: the one that its owner may have edited.

    Raises:
        MachineError: this is not a checkout.
    """
    try:
        return (FOLDER / name).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MachineError(f"{Path.cwd()} has no {FOLDER / name}: call unibert slurm from the checkout") from None


def filled(
    text: str,
    *,
    options: Mapping[str, str | None],
    settings: Mapping[str, str],
    words: Sequence[str],
    command: str,
) -> str:
    """The script.

    Args:
        text: of the file.
        options: sbatch's, by name without dashes; "" for one without a value, None takes the file's line out.
        settings: environment variables that the file reads.
        words: its arguments.
        command: what made it, for the reader.
    """
    lines = text.splitlines()
    places = [number for number, line in enumerate(lines) if LINE.match(line)]
    left = dict(options)
    out = []
    for number, line in enumerate(lines[: places[-1] + 1]):
        match = LINE.match(line) if number in places else None
        if match is None or match[1] not in options:
            out.append(line)
        elif match[1] in left:
            out += _line(match[1], left.pop(match[1]))
    for name, value in left.items():
        out += _line(name, value)
    out += ["", f"# Filled in by: {command}"]
    out += [f"export {name}={shlex.quote(value)}" for name, value in settings.items()]
    return "\n".join([*out, f"set -- {shlex.join(words)}", "", *lines[places[-1] + 1 :]]) + "\n"


def _line(name: str, value: str | None) -> list[str]:
    if value is None:
        return [f"# (--{name} is taken out)"]
    if re.search(r"[\s#\"'\\]", value):
        value = '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'
    return [f"#SBATCH --{name}={value}" if value else f"#SBATCH --{name}"]
