"""Every way a JSON Lines file can be wrong is reported with its line, and every right one passes unchanged."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankkit.errors import InputError
from rerankkit.jsonl_lines import read_lines, text_lines

GOOD = b'{"a": "1"}\n'


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (b'{"a": "1"', "not valid JSON at column"),
        (b'{"a": "1', "not valid JSON at column 9: Invalid control character; expected"),
        (b'{"a": 1,}', "not valid JSON at column"),
        (b'{"a": 1} {"b": 2}', "not valid JSON at column 10"),
        (b'{"a": 1, "a": 2}', 'the key "a" stands twice'),
        (b'{"a": {"b": 1, "b": 2}}', 'the key "b" stands twice'),
        (b'{"a": NaN}', "NaN is not a number"),
        (b'{"a": -Infinity}', "-Infinity is not a number"),
        (b'{"a": 1e999}', "1e999 is too large"),
        (b'{"a": %s}' % (b"9" * 5000), "digits"),
        (b'["a"]', "expected a JSON object, {...}, but the line is a list"),
        (b'"a"', "but the line is text"),
        (b"null", "but the line is null"),
        (b'{"a": "\\ud800"}', "\\ud800 is half of a surrogate pair"),
        (b'{"\\udc00": "a"}', "\\udc00 is half of a surrogate pair"),
        (b'{"a": "\xff"}', "byte 8 of the line (0xff) is not UTF-8"),
        (b'\xef\xbb\xbf{"a": "1"}', "byte-order mark inside the file"),
        (b"[" * 200_000, "nested too deeply"),
        (b"text", "not valid JSON at column 1"),
        (b"{'a': 1}", "not valid JSON at column 2"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_bad_line_is_named(tmp_path: Path, bad: bytes, says: str, packed: bool) -> None:
    path = tmp_path / "data.jsonl"
    content = GOOD + b"\n" + bad + b"\n" + GOOD
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(InputError) as error:
        list(read_lines(path))
    assert str(error.value).startswith(f"{path}:3: ")
    assert says in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\n\n  \n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match="the file is empty"):
        list(read_lines(path))


def test_empty_lines_are_skipped_but_counted_and_a_leading_mark_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": "1"}\r\n\n \t\n{"a": "2"}')
    assert [(line.number, line.data["a"]) for line in read_lines(path)] == [(1, "1"), (4, "2")]


def test_a_missing_file_is_named_with_its_likeliest_neighbour(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text("{}")
    with pytest.raises(InputError, match='no such file.*did you mean "corpus.jsonl"'):
        list(read_lines(tmp_path / "corpos.jsonl"))
    with pytest.raises(InputError, match="is a folder"):
        list(read_lines(tmp_path))


def test_gzip_that_breaks_off_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl.gz"
    whole = gzip.compress(b"".join(b'{"a": "%d"}\n' % (i * 7919 % 1009) for i in range(1000)))
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="gzip data breaks off"):
        list(read_lines(path))


texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.lists(st.dictionaries(texts, texts | st.floats(allow_nan=False, allow_infinity=False)), min_size=1))
def test_every_text_passes_unchanged(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]]) -> None:
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=i % 2 == 0) + "\n" for i, row in enumerate(rows)), "utf-8", newline=""
    )
    assert [line.data for line in read_lines(path)] == rows


def test_text_that_looks_like_something_else_stays_text(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"a": "2024-01-01", "b": "007", "c": "1e3", "d": "x\\u2028y\\u0000"}\n')
    (line,) = read_lines(path)
    assert [line.text(key) for key in "abcd"] == ["2024-01-01", "007", "1e3", "x\u2028y\0"]


@pytest.mark.regression
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_named(encoding: str, tmp_path: Path) -> None:
    for text in ('{"_id": "1", "text": "x"}\n', "1\tx\n"):
        (tmp_path / "q").write_bytes(text.encode(encoding))
        with pytest.raises(InputError, match="q:1: every second byte is 0, as in UTF-16; save the file as UTF-8"):
            list(text_lines(tmp_path / "q"))
