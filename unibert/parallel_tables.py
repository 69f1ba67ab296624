"""The `[[data.parallel]]` tables of a recipe: where texts that say the same in several languages come from.

One class per kind, told apart by `kind`. Reading is data/sources; which files a table means is data/alignments.py.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from unibert.source_tables import LANGUAGE, Name, Text
from unibert.table import Table

SOURCE_LANGUAGE, TARGET_LANGUAGE = "{source}", "{target}"
"""Stand for the two languages of a dictionary in its path."""

Column = Annotated[int, Field(gt=0)] | Text


class _Named(Table):
    """What every kind but the demo's has."""

    name: Name
    """Name of the source, in the report and as a folder."""
    licence: Text
    """Written into the report."""


class Tsv(_Named):
    """Tables of tab-separated text, a language a column: plain, .gz or .bz2."""

    kind: Literal["tsv"] = "tsv"
    """Tab-separated text."""
    path: Text
    """File, or pattern with `*` and `**`."""
    columns: dict[str, Column] = Field(default_factory=dict)
    """Column of each language, `{ de = 1, en = 2 }` by number or `{ de = "German" }` by its name in the first line."""
    header: bool = False
    """The first line names the columns. Without `columns` the names are language codes, and this is so anyway."""

    @property
    def has_header(self) -> bool:
        """Whether the first line is no text."""
        return self.header or not self.columns or any(isinstance(column, str) for column in self.columns.values())


class Moses(_Named):
    """Files of which line n is the translation of line n of the others (Moses, OPUS): plain, .gz or .bz2."""

    kind: Literal["moses"] = "moses"
    """Aligned files."""
    path: Text
    """Pattern with `{language}`, as in `OPUS.de-en.{language}`, and with `*` and `**` for several sets of files."""

    @model_validator(mode="after")
    def _has_language(self) -> Moses:
        if LANGUAGE not in self.path:
            raise ValueError(f"path has no {LANGUAGE}: write it where the aligned files' names differ")
        return self


class Tmx(_Named):
    """Translation memories, TMX: plain, .gz or .bz2."""

    kind: Literal["tmx"] = "tmx"
    """Translation memories."""
    path: Text
    """File, or pattern with `*` and `**`."""


class Pairs(_Named):
    """A data set of the Hugging Face hub or a local folder, streamed."""

    kind: Literal["datasets"] = "datasets"
    """A Hugging Face data set."""
    dataset: Text
    """Name on the hub, or a local folder."""
    configs: tuple[str, ...] = ()
    """Configurations to read (`de-en`, ...); the one there is when empty."""
    split: Text = "train"
    """Split."""
    revision: str | None = None
    """Commit or tag on the hub; the newest when absent."""
    translation_column: Text = "translation"
    """Column with a text for each language code, read when there are no `columns`."""
    columns: dict[str, Text] = Field(default_factory=dict)
    """Column of each language, where each has its own."""


class _Dictionary(_Named):
    """What kinds of dictionaries have in common."""

    path: Text = ""
    """File, or pattern with `*`, `**`, `{source}` and `{target}`."""
    languages: tuple[str, str] | None = None
    """Language of the entries and of their translations; by the file's name when absent."""


class Muse(_Dictionary):
    """Dictionaries as MUSE has them, a word and its translation a line: plain, .gz or .bz2."""

    kind: Literal["muse"] = "muse"
    """Two words a line, separated by a tab or a space."""

    @model_validator(mode="after")
    def _says_its_languages(self) -> Muse:
        words = [word for word in (SOURCE_LANGUAGE, TARGET_LANGUAGE) if word in self.path]
        if not self.path or len(words) == 1 or bool(words) == (self.languages is not None):
            raise ValueError(
                f"give a path, and its languages either as `languages` or by {SOURCE_LANGUAGE} and {TARGET_LANGUAGE}"
            )
        return self


class Freedict(_Dictionary):
    """FreeDict's dictionaries: dictd files (.dict or .dict.dz with their .index), TEI files, or Debian's packages."""

    kind: Literal["freedict"] = "freedict"
    """FreeDict."""
    name: Name = "freedict"
    licence: Text = "GPL-2+"
    packages: tuple[str, ...] = ()
    """Debian packages, downloaded by apt (`dict-freedict-eng-*`); instead of a path."""

    @model_validator(mode="after")
    def _has_one_place(self) -> Freedict:
        if bool(self.path) == bool(self.packages):
            raise ValueError("give either a path or packages")
        return self


class DemoPairs(Table):
    """The demo's own rows that are the same message, paragraph or verse in several languages."""

    kind: Literal["demo"] = "demo"
    """What [[data.sources]] kind demo fetched."""
    name: Name = "demo"
    """Name of the source, in the report and as a folder."""
    sources: tuple[str, ...] = ()
    """Names of the demo's sources (mediawiki, ...); all when empty."""


Alignment = Tsv | Moses | Tmx | Pairs | Muse | Freedict | DemoPairs
Parallel = Annotated[Alignment, Field(discriminator="kind")]
