"""Reading a recipe: TOML file, layers, clear errors, and TOML back.

Class defaults < `extends` (a recipe, or several, the later over the earlier) < the recipe file < `--a.b value`. All
wrong keys are reported at once. Parsing is pure: no network, no file written, no process group. The fields themselves
are in schema.py.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from unibert.data_tables import SharePhase
from unibert.errors import ConfigError
from unibert.objective_tables import Line, Objectives, Ramp
from unibert.parallel_tables import Alignment
from unibert.schema import Masking, Recipe, Rung, Table
from unibert.source_tables import Corpus, Demo
from unibert.teacher_tables import OtherTeacher

__all__ = [
    "Line",
    "Masking",
    "Objectives",
    "Ramp",
    "Recipe",
    "Table",
    "field_help",
    "load_recipe",
    "parallel_help",
    "source_help",
    "to_toml",
]

RECIPES = Path(__file__).parent / "recipes"


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by its name in unibert/recipes, or by the path of a TOML file.

    Args:
        name_or_path: `demo`, or `my/recipe.toml`.
        overrides: `--a.b value` or `--a.b=value` words, the last layer.

    Raises:
        ConfigError: no such recipe, not TOML, or wrong keys and values, all of them at once.
    """
    path = _find(name_or_path)
    tree = _read_layers(path)
    for key, value in _parse_overrides(overrides):
        _set(tree, key.split("."), value)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, where=str(path))) from None


def to_toml(recipe: Recipe) -> str:
    """The whole resolved recipe as TOML that `load_recipe` reads back to an equal recipe."""
    tree = recipe.model_dump(mode="json", exclude_none=True)
    return "\n".join(_toml_lines(tree, prefix="")) + "\n"


def _toml_lines(tree: dict[str, Any], *, prefix: str) -> Iterator[str]:
    for key, value in tree.items():
        if not isinstance(value, dict):
            yield f"{key} = {_toml_text(value)}"
    for key, value in tree.items():
        if isinstance(value, dict):
            yield f"\n[{prefix}{key}]"
            yield from _toml_lines(value, prefix=f"{prefix}{key}.")


def _toml_text(value: Any) -> str:
    """A value on one line; JSON's strings, numbers and booleans are TOML's too, and a table in a list is inline."""
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_text, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_toml_text(item)}' for key, item in value.items())} }}"
    return json.dumps(value, ensure_ascii=False)


def _find(name_or_path: str | Path, *, beside: Path | None = None) -> Path:
    text = str(name_or_path)
    choices = [Path(text), RECIPES / f"{text}.toml"]
    if beside is not None:
        choices.insert(0, beside / text)
    for path in choices:
        if path.is_file():
            return path
    known = sorted(path.stem for path in RECIPES.glob("[!_]*.toml"))  # the others are parts of recipes
    raise ConfigError(f"no recipe {text!r}: name a TOML file, or one of: {', '.join(known)}{_perhaps(text, known)}")


def _read_layers(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A recipe file over those that it extends, the later named over the earlier."""
    if path in above:
        raise ConfigError(f"{path}: extends itself, by way of {' and '.join(map(str, above[above.index(path) + 1 :]))}")
    own, tree = _read_toml(path), {}
    names = own.pop("extends", [])
    for name in [names] if isinstance(names, str) else names:
        tree = _merge(tree, _read_layers(_find(name, beside=path.parent), (*above, path)))
    return _merge(tree, own)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        both_tables = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = _merge(out[key], value) if both_tables else value
    return out


def _parse_overrides(words: Sequence[str]) -> Iterator[tuple[str, Any]]:
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if not word.startswith("--"):
            raise ConfigError(f"what is {word!r}? A recipe's field is set by --table.field value")
        key, equals, text = word[2:].partition("=")
        if not equals:
            if not queue:
                raise ConfigError(f"--{key} has no value")
            text = queue.pop(0)
        yield key.replace("-", "_"), _toml_value(text)


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word is a string: --train.schedule linear


def _set(tree: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--{'.'.join(keys)}: {key} is a value, not a table")
    tree[keys[-1]] = value


# What pydantic adds to a location to say which member of a union it tried.
UNION_PARTS = ("float", "Ramp", "Line", "int", "constrained-int")


def _explain(error: ValidationError, *, where: str) -> str:
    lines = []
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"] if part not in UNION_PARTS and "[" not in str(part))
        if item["type"] == "extra_forbidden":
            lines.append(f"  {path}: unknown key{_perhaps(str(item['loc'][-1]), _keys_at(item['loc'][:-1]))}")
        elif item["type"] == "missing":
            lines.append(f"  {path}: is missing")
        else:
            # A whole table would bury the message.
            value = "" if isinstance(item["input"], dict) else f" = {item['input']!r}"
            shown = f"{path}{value}: " if path else ""
            lines.append(f"  {shown}{item['msg'].removeprefix('Value error, ')}")
    return f"{where}: {len(lines)} thing(s) to mend:\n" + "\n".join(dict.fromkeys(lines))


def _keys_at(location: Sequence[str | int]) -> list[str]:
    """The field names of the table at a location, through optional tables."""
    tables: list[type[BaseModel]] = [Recipe]
    for key in location:
        if form := [table for table in tables if _form(table) == key]:
            tables = form  # pydantic names the form that it tried
            continue
        field = tables[0].model_fields.get(str(key)) if tables else None
        tables = _tables_in(field.annotation) if field else []
    return list(tables[0].model_fields) if tables else []


def _tables_in(annotation: Any) -> list[type[BaseModel]]:
    """The tables that an annotation names, as in `Teacher | None`, or `Annotated[A | B, ...] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [table for part in get_args(annotation) for table in _tables_in(part)]


def _form(table: type[BaseModel]) -> str | None:
    """Of a table that is one of several forms of an objective."""
    return str(table.model_fields["form"].default) if "form" in table.model_fields else None


def _perhaps(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; perhaps you meant {close[0]!r}" if close else ""


def field_help() -> Iterator[tuple[str, str, str]]:
    """(dotted key, default, help) of every field of a recipe, for `--help` and the README."""
    yield from _field_help(Recipe, prefix="")


def source_help() -> Iterator[tuple[str, str, str, str]]:
    """(kind, key, default, help) of every field of a `[[data.sources]]` table; the key `kind` tells of the kind."""
    yield from _table_help((Demo, *get_args(Corpus)))


def parallel_help() -> Iterator[tuple[str, str, str, str]]:
    """(kind, key, default, help) of every field of a `[[data.parallel]]` table, as source_help."""
    yield from _table_help(get_args(Alignment))


def _table_help(tables: Sequence[type[BaseModel]]) -> Iterator[tuple[str, str, str, str]]:
    for table in tables:
        kind = table.model_fields["kind"].default
        for key, default, text in _field_help(table, prefix=""):
            yield kind, key, default, (table.__doc__ or "").strip() if key == "kind" else text


def _field_help(table: type[BaseModel], *, prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in table.model_fields.items():
        inner = _tables_in(field.annotation)
        if len(inner) > 1 and all(map(_form, inner)):
            yield from _forms_help(inner, prefix=f"{prefix}{name}.")
        elif len(inner) == 1 and inner[0] not in (Ramp, Line, Rung, SharePhase, OtherTeacher):
            yield from _field_help(inner[0], prefix=f"{prefix}{name}.")
        else:
            default = "" if field.is_required() else "demo" if field.default == (Demo(),) else str(field.default)
            yield f"{prefix}{name}", default, field.description or ""


def _forms_help(tables: Sequence[type[BaseModel]], *, prefix: str) -> Iterator[tuple[str, str, str]]:
    """Of an objective with several forms: `form`, and each field with the forms that have it so."""
    yield f"{prefix}form", "", "; ".join(f"`{_form(table)}`: {(table.__doc__ or '').strip()}" for table in tables)
    rows: dict[tuple[str, str, str], list[str]] = {}
    for table in tables:
        for row in _field_help(table, prefix=prefix):
            rows.setdefault(row, []).append(str(_form(table)))
    for (key, default, text), forms in rows.items():
        if not key.endswith(".form"):
            yield key, default, text if len(forms) == len(tables) else f"{text} Form {', '.join(forms)}."
