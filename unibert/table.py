"""The base of every table of a recipe, and the numbers that several of them share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]


class Table(BaseModel):
    """One TOML table. Field docstrings are the help text of `--table.field`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
