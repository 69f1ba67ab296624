"""A results file is appended to: what a crash left is mended, and what is no results file not touched."""

import gzip

import pytest

from unibert.errors import DataError
from unibert.evaluate.results_file import ResultRow, Results, read_results


def row(key):
    facts = {"purpose": "test", "model": "m", "task": "nli", "set": "nli", "split": "test", "language": "de", "seed": 0}
    facts |= {"way": "untuned", "source": "", "metric": "accuracy", "kind": "mean", "values": {"accuracy": 1.0}}
    facts |= {"rows": [[1.0]], "ids": "i", "data": "d", "learning_rate": None, "seconds": 1.0}
    return ResultRow(key=key, parameters=2, parameters_without_embeddings=1, **facts)


@pytest.fixture
def lines():
    return [row(key).model_dump_json().encode() + b"\n" for key in ("a", "b")]


def keys(path):
    return [one.key for one in read_results(path)]


def test_a_last_row_without_its_end_is_kept(tmp_path, lines):
    path = tmp_path / "r.jsonl"
    path.write_bytes(b"".join(lines).rstrip(b"\n"))
    assert [one.key for one in Results(path).rows] == ["a", "b"] and path.read_bytes() == b"".join(lines)
    open_one = Results(path)
    path.write_bytes(b"".join(lines).rstrip(b"\n"))
    open_one.add(row("c"))
    assert keys(path) == ["a", "b", "c"]


@pytest.mark.parametrize("size", [1, 3, 50, 1 << 18])
def test_what_a_crash_left_is_taken_away(tmp_path, lines, size):
    path = tmp_path / "r.jsonl"
    cut = lines[1].replace(b"[[1.0]]", b"[" + b"[1.0]," * 50_000 + b"[1.0]]")[:size]
    path.write_bytes(lines[0] + cut)
    assert keys(path) == ["a"]
    assert len(Results(path).rows) == 1 and path.read_bytes() == lines[0]
    open_one = Results(path)
    path.write_bytes(lines[0] + cut)
    open_one.add(row("c"))
    assert keys(path) == ["a", "c"]
    path.write_bytes(cut)
    assert Results(path).rows == [] and path.read_bytes() == b""


@pytest.mark.parametrize(
    "content",
    [b'{"hello": 1}', b'{"key": 1}', b'{\n "a": [\n  1,\n  2\n ]\n}', b"a,b\n1,2\n", b"\x1f\x8b\x08 no text", b"words"],
)
def test_a_file_of_something_else_is_left_as_it_is(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"config\.json:1: not a row of results"):
        Results(path)
    assert path.read_bytes() == content
    path.unlink()
    file = Results(path)
    path.write_bytes(content.rstrip(b"\n"))
    with pytest.raises(DataError, match="last line: not a row of results"):
        file.add(row("a"))
    assert path.read_bytes() == content.rstrip(b"\n")


def test_a_damaged_line_is_named_by_its_first_problem_alone(tmp_path, lines):
    path = tmp_path / "r.jsonl"
    path.write_bytes(lines[0] + lines[1].replace(b"[[1.0]]", b"[[null],[null],[null]]") + lines[0])
    before = path.read_bytes()
    for read in (read_results, Results):
        with pytest.raises(DataError) as refused:
            read(path)
        said = f"{path}:2: not a row of results (rows.0.0: Input should be a valid number); remove the line"
        assert str(refused.value) == f"{said}, or name a results file"
    assert path.read_bytes() == before


def test_a_compressed_file_is_read_and_not_written(tmp_path, lines):
    path = tmp_path / "r.jsonl.gz"
    path.write_bytes(gzip.compress(b"".join(lines)))
    before = path.read_bytes()
    assert keys(path) == ["a", "b"]
    with pytest.raises(DataError, match="gunzip"):
        Results(path)
    assert path.read_bytes() == before
    path.write_bytes(before[:20] + b"xxxxxxxx" + before[28:])
    with pytest.raises(DataError, match="cannot be read"):
        read_results(path)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(DataError, match="cannot be written"):
        Results(tmp_path)
