"""CSV cells stay text, and what is wrong has its line."""

import csv
import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankkit.csv_lines import read_csv
from rerankkit.errors import InputError


def test_cells_stay_text_and_labels_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text('\ufeffquery,text,label\n2024-01-01,007,1\n\nNA,"a ""b"",\nc",\n1e3,null,x\n', "utf-8")
    assert [(line.number, line.data) for line in read_csv(path, numbers=["label"])] == [
        (2, {"query": "2024-01-01", "text": "007", "label": 1.0}),
        (5, {"query": "NA", "text": 'a "b",\nc'}),  # an empty cell is absent
        (6, {"query": "1e3", "text": "null", "label": "x"}),
    ]


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), min_size=1)


@given(st.lists(st.tuples(cells, cells), min_size=1), st.booleans())
def test_every_text_passes_unchanged(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], packed: bool
) -> None:
    path = tmp_path_factory.mktemp("data") / "data.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("a", "b"), *rows])
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    assert [(line.data["a"], line.data["b"]) for line in read_csv(path)] == rows


def test_a_cell_may_be_long(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("a,b\n" + "x" * 200_000 + ",y\n")
    assert [len(line.data["a"]) for line in read_csv(path)] == [200_000]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", ": the file is empty"),
        (b"a,b\n", ": no row after the header"),
        (b"a,b,a\n1,2,3\n", ':1: the header names "a" twice'),
        (b"a,b\n1,2\n1,2,3\n", ":3: 3 cells for 2 columns"),
        (b"a,b\n1\n", ":2: 1 cells for 2 columns"),
        (b'a,b\n1,"2"x\n', ":2: not valid CSV"),
        (b'a,b\n1,"2\n', ":2: not valid CSV: unexpected end of data"),
        (b"a,b\n1,\xff\n", ": not UTF-8 after line"),
        (gzip.compress(b"a,b\n" + bytes(range(97, 123)) * 50)[:-12], ": the gzip data breaks off or is damaged after"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        list(read_csv(path))
    assert str(error.value).startswith(f"{path}{says}")
