"""README's generated tables. `make readme` writes them; test_architecture.py fails when they are old.

Each stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.
"""

import re
import typing
from collections.abc import Iterable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import tyro

from unibert import errors
from unibert.cli import COMMANDS
from unibert.config import field_help, parallel_help, source_help

README = Path(__file__).parent.parent / "README.md"


def rendered(text: str) -> str:
    """The README with every generated table written anew."""
    for name, make in SECTIONS.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"README.md needs {begin} and {end}, each once")
        head, rest = text.split(begin)
        text = f"{head}{begin}\n{make().strip()}\n{end}{rest.split(end)[1]}"
    return text


def commands() -> str:
    rows = [f"| `{usage(name, kind)}` | {one_line(kind.__doc__)} |" for name, kind in COMMANDS.items()]
    return "\n".join(["| command | what it does |", "|---|---|", *rows])


def usage(name: str, kind: type) -> str:
    """`unibert plan RECIPE [--world 1]`."""
    hints = typing.get_type_hints(kind, include_extras=True)
    words = ["unibert", name]
    for field in fields(kind):
        hint = hints[field.name]
        if tyro.conf.Positional in getattr(hint, "__metadata__", ()):
            inner = get_args(hint)[0]
            choices = get_args(inner) if get_origin(inner) is Literal else ()
            words.append("{" + ",".join(choices) + "}" if choices else field.name.upper())
        else:
            words.append(f"[--{field.name.replace('_', '-')}{value_of(field.default)}]")
    return " ".join(words)


def value_of(default: Any) -> str:
    if default is False:
        return ""
    if isinstance(default, tuple) and default:
        return " " + " ".join(map(str, default))
    return " ..." if default in (None, "", ()) or default is MISSING else f" {default}"


def exit_codes() -> str:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind is not errors.UnibertError]
    meaning = {0: "done", errors.INTERRUPTED: "interrupted"}
    meaning |= {kind.exit_code: one_line(kind.__doc__) for kind in kinds}
    return "\n".join(
        ["| code | meaning |", "|---|---|", *(f"| {code} | {meaning[code]} |" for code in sorted(meaning))]
    )


def keys() -> str:
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for key, default, text in field_help():
        shown = {"": "required", "None": "absent"}.get(default, f"`{default}`")
        rows.append(f"| `{key}` | {shown} | {one_line(text)} |")
    return "\n".join(rows)


def sources() -> str:
    return tables(source_help())


def parallel() -> str:
    return tables(parallel_help())


def tables(found: Iterable[tuple[str, str, str, str]]) -> str:
    rows = ["| kind | key | default | meaning |", "|---|---|---|---|"]
    for kind, key, default, text in found:
        shown = {"": "required", "None": "absent"}.get(default, f"`{default}`")
        rows.append(f"| `{kind}` | `{key}` | {shown} | {one_line(text)} |")
    return "\n".join(rows)


def tags() -> str:
    from unibert.observe import tags

    return tags.table()


def one_line(text: str | None) -> str:
    """A docstring on one line of a table."""
    return re.sub(r"\s+", " ", text or "").strip().replace("|", "\\|")


SECTIONS = {
    "commands": commands,
    "exit-codes": exit_codes,
    "keys": keys,
    "sources": sources,
    "parallel": parallel,
    "tags": tags,
}


if __name__ == "__main__":
    README.write_text(rendered(README.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote the tables of {README.name}: {', '.join(SECTIONS)}")
