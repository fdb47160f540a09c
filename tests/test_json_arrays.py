"""An array's objects are those that json reads, wherever its text is cut, and what is wrong has its line."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankkit import json_arrays
from rerankkit.errors import InputError
from rerankkit.json_arrays import read_objects

texts = st.text(st.characters(exclude_categories=["Cs"]))
objects = st.dictionaries(texts, texts | st.integers() | st.booleans() | st.none() | st.lists(texts))


@given(st.lists(objects, min_size=1), st.sampled_from([None, 0, 2]), st.booleans(), st.integers(1, 40), st.booleans())
def test_the_objects_are_those_of_json(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], indent: int | None, plain: bool, chunk: int, packed: bool
) -> None:
    path = tmp_path_factory.mktemp("data") / "data.json"
    content = ("\ufeff" if plain else "") + json.dumps(rows, indent=indent, ensure_ascii=plain) + "\n"
    path.write_bytes(gzip.compress(content.encode()) if packed else content.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_arrays, "CHUNK", chunk + 4)  # a mark and the bracket are looked for in the first one
        lines = list(read_objects(path))
    assert [line.data for line in lines] == rows
    if indent is not None and all(rows):  # with an indent, the objects' braces are the only ones that stand so
        starts = [n for n, text in enumerate(content.split("\n"), 1) if text.strip("\ufeff") in (" " * indent + "{",)]
        assert [line.number for line in lines] == starts


def test_lines_are_read_as_lines(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text('\n{"a": 1}\n\n{"a": 2}\n')
    assert [(line.number, line.data["a"]) for line in read_objects(path)] == [(2, 1), (4, 2)]


@pytest.mark.parametrize("chunk", [8, 1 << 20])
@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ('[{"a": 1},\n{"a": 2,}\n]', 2, "not valid JSON: "),
        ('[{"a": 1},\n{"a": "\t"}, {"a": 2}, {"a": 3}]', 2, "not valid JSON: Invalid control character"),
        ('[{"a": 1},\n{"a": 2}', 2, "it breaks off"),
        ('[{"a": 1},\n{"a": "tw', 2, "not valid JSON: Unterminated string"),
        ('[{"a": 1},\n', 2, "the array breaks off"),
        ('[{"a": 1}\n{"a": 2}]', 2, "expected ',' in the array, found '{'"),
        ('[{"a": 1},\n2]', 2, "expected a JSON object, {...}, but the item is a number"),
        ('[{"a": 1},\n{"a": NaN}]', 2, "NaN is not a number"),
        ('[{"a": 1},\n{"a": 1, "a": 2}]', 2, 'the key "a" stands twice'),
        ('[{"a": 1},\n{"a": "\\ud800"}]', 2, "half of a surrogate pair"),
        ('[{"a": 1}]\n{"a": 2}', 2, "text after the end of the array"),
        ('[{"a": 1},\n\n]', 3, "not valid JSON: Expecting value"),
        ('[{"a": 1},\n{"a": "\xff"}]', 2, "byte 0xff is not UTF-8"),
        ("[]", 0, "the array is empty"),
    ],
)
def test_what_is_wrong_has_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, text: str, line: int, says: str
) -> None:
    monkeypatch.setattr(json_arrays, "CHUNK", chunk)
    path = tmp_path / "data.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError) as error:
        list(read_objects(path))
    assert says in str(error.value) and not str(error.value).endswith(" at")
    assert str(error.value).startswith(f"{path}:{line}: " if line else f"{path}: ")


@pytest.mark.parametrize("indent", [None, 0])
def test_gzip_that_breaks_off_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indent: int | None) -> None:
    monkeypatch.setattr(json_arrays, "CHUNK", 512)
    path = tmp_path / "data.json.gz"
    whole = gzip.compress(json.dumps([{"a": str(i * 7919 % 10_007)} for i in range(20_000)], indent=indent).encode())
    for cut in (len(whole) // 2, 30):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match="the gzip data breaks off or is damaged after line [0-9]+ ") as error:
            list(read_objects(path))
        number = int(str(error.value).split("after line ")[1].split()[0])
        assert number < 2 if indent is None or cut == 30 else number > 1000


def test_lines_of_small_objects_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, looked = tmp_path / "data.json", 0
    path.write_text(json.dumps([{"a": i} for i in range(3000)], indent=0))
    original = json_arrays._Array._number

    def number(self: Any, position: int) -> int:
        nonlocal looked
        looked += position - self._counted
        return original(self, position)

    monkeypatch.setattr(json_arrays._Array, "_number", number)
    assert [line.number for line in read_objects(path)] == list(range(2, 9002, 3))
    assert looked < 2 * path.stat().st_size


def test_an_error_in_the_middle_is_found_without_reading_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text('[{"a": 1},\n{"a": oops},\n' + '{"a": 1},\n' * 400_000)
    objects = read_objects(path)
    assert next(objects).data == {"a": 1}
    with pytest.raises(InputError, match=r"data\.json:2: not valid JSON"):
        next(objects)
