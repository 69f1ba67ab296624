"""Fetching: what is written, what is skipped, and that a run that was cut off goes on."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from unibert.data import fetch
from unibert.data.lines import read_rows
from unibert.data.sources.base import Row, Source
from unibert.data.sources.packages import PackageMissing
from unibert.errors import ConfigError, DataError
from unibert.languages import LANGUAGES
from unibert.objective_tables import MaskedLM, Objectives
from unibert.schema import Data, Recipe, Student

CODES = tuple(LANGUAGES)[:60]


def recipe_in(folder: Path, languages: tuple[str, ...] = CODES) -> Recipe:
    return Recipe(
        name="test",
        languages=languages,
        data=Data(folder=folder),
        student=Student(start="random"),
        objectives=Objectives(masked_lm=MaskedLM()),
    )


class Registry:
    """Two sources of made-up rows, and a download folder that knows which were asked for."""

    def __init__(self, languages: Sequence[str] = CODES) -> None:
        self.languages = languages
        self.rows_each = fetch.MINIMUM_ROWS
        self.asked: list[str] = []
        self.missing: set[str] = set()
        self.broken: set[str] = set()
        self.sources = tuple(
            Source(name=name, kind=kind, packages=(name,), licence="CC0", rows=self.rows)  # type: ignore[arg-type]
            for name, kind in (("first", "apt"), ("second", "npm"))
        )

    def rows(self, packages: Sequence[Path]) -> Iterator[Row]:
        for code in self.languages:
            yield Row("label", code, "short")
            for number in range(self.rows_each):
                yield Row(f"k{number}", code, f"message number {number} of this language")

    def get(self, source: str, *, kind: str, packages: Sequence[str]) -> list[Path]:
        self.asked.append(source)
        if source in self.missing:
            raise PackageMissing(f"no package {packages[0]}")
        if source in self.broken:
            raise DataError(f"source {source}: download failed")
        return []


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    fake = Registry()
    monkeypatch.setattr(fetch, "SOURCES", fake.sources)
    monkeypatch.setattr(fetch, "Downloads", lambda folder: fake)
    monkeypatch.setattr(fetch, "available", lambda: frozenset({"apt", "npm"}))
    return fake


def test_fetch_writes_rows_and_a_manifest_then_skips(tmp_path: Path, registry: Registry) -> None:
    recipe = recipe_in(tmp_path)
    manifest = fetch.run(recipe)
    assert manifest["rows"] == 2 * 60 * fetch.MINIMUM_ROWS  # the short label is not written
    assert json.loads((tmp_path / "raw" / "manifest.json").read_text()) == manifest
    assert manifest["sources"]["first"]["languages"]["af"] == fetch.MINIMUM_ROWS
    row = next(iter(read_rows(tmp_path / "raw" / "first-00000.jsonl")))
    assert row == {
        "id": "first:k0",
        "language": CODES[0],
        "text": "message number 0 of this language",
        "source": "first",
        "licence": "CC0",
    }
    assert fetch.run(recipe) == manifest and registry.asked == ["first", "second"]
    assert fetch.run(recipe, force=True) == manifest and registry.asked == ["first", "second"] * 2


def test_a_cut_off_fetch_keeps_the_sources_it_has(tmp_path: Path, registry: Registry) -> None:
    recipe = recipe_in(tmp_path)
    registry.broken = {"second"}
    with pytest.raises(DataError, match="second"):
        fetch.run(recipe)
    assert not (tmp_path / "raw" / "manifest.json").exists()
    registry.broken = set()
    assert set(fetch.run(recipe)["sources"]) == {"first", "second"}
    assert registry.asked == ["first", "second", "second"]


def test_a_raw_file_that_was_changed_is_read_again(tmp_path: Path, registry: Registry) -> None:
    recipe = recipe_in(tmp_path)
    manifest = fetch.run(recipe)
    path = tmp_path / "raw" / "second-00000.jsonl"
    path.write_text(path.read_text()[:-40])
    assert fetch.run(recipe) == manifest
    assert registry.asked == ["first", "second", "second"]


def test_a_missing_tool_or_package_is_said_and_the_rest_goes_on(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fetch, "available", lambda: frozenset({"apt"}))
    manifest = fetch.run(recipe_in(tmp_path))
    assert manifest["skipped"] == {"second": "npm is not on this machine"}
    assert "WARNING: second is left out" in capsys.readouterr().out


def test_a_recipe_language_without_text_is_an_error(tmp_path: Path, registry: Registry) -> None:
    registry.languages = CODES[:59]
    with pytest.raises(DataError, match=f"no text was fetched for {CODES[59]}"):
        fetch.run(recipe_in(tmp_path))
    assert not (tmp_path / "raw" / "manifest.json").exists()


def test_too_few_languages_are_an_error_that_says_what_was_left_out(tmp_path: Path, registry: Registry) -> None:
    registry.missing = {"second"}
    registry.rows_each = fetch.MINIMUM_ROWS - 1
    with pytest.raises(DataError, match=r"only 0 languages have 500 rows.*60 are needed.*second: no package"):
        fetch.run(recipe_in(tmp_path))


def test_a_source_without_rows_is_an_error(tmp_path: Path, registry: Registry) -> None:
    registry.languages = ()
    with pytest.raises(DataError, match=r"first.*gave no row"):
        fetch.run(recipe_in(tmp_path))


def test_an_unknown_language_is_refused_before_anything_is_fetched(tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(ConfigError, match="klingon"):
        fetch.run(recipe_in(tmp_path, ("en", "klingon")))
    assert registry.asked == []


def test_raw_files_without_a_fetch_say_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fetch, parallel, clean, dedup"):
        fetch.raw_files(recipe_in(tmp_path))
