"""Every source of a Hugging Face dataset gives the same groups, and no text is turned into something else."""

import datetime
import json
import socket
import time
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from rerankkit import weights
from rerankkit.errors import InputError, RunError
from rerankkit.protocols import Group
from rerankkit.readers.hf_dataset import HfDataset

ROWS: dict[str, list[Any]] = {
    "qid": ["007", "8"],
    "query": ["2024-01-01", "second"],
    "positive": [["2024-01-01T00:00:00", "b"], ["c"]],
    "negative": [["1e3"], []],
}
GROUPS = [
    Group("2024-01-01", ["2024-01-01T00:00:00", "b", "1e3"], [1, 1, 0], qid="007"),
    Group("second", ["c"], [1], qid="8"),
]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def lines(rows: dict[str, list[Any]]) -> str:
    return "".join(json.dumps(dict(zip(rows, row, strict=True))) + "\n" for row in zip(*rows.values(), strict=True))


def parquet(path: Path, **columns: Any) -> str:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return str(path)


def refused(*args: Any, **options: Any) -> str:
    with pytest.raises((InputError, RunError)) as error:
        list(HfDataset(*args, **options))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_files_and_folders_give_the_same_groups(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", **ROWS)
    datasets.Dataset.from_dict(ROWS).save_to_disk(tmp_path / "saved")
    arrow = next((tmp_path / "saved").glob("*.arrow")).rename(tmp_path / "a.arrow")
    (tmp_path / "a.jsonl").write_text(lines(ROWS))
    (tmp_path / "a.json").write_text("[" + lines(ROWS).replace("\n", ",").rstrip(",") + "]")
    datasets.Dataset.from_dict(ROWS).save_to_disk(tmp_path / "whole")
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(ROWS)}).save_to_disk(tmp_path / "dict")
    for name in ("parquet", "json"):
        folder = tmp_path / f"folder of {name}"
        folder.mkdir()
        (folder / f"train.{name}").write_bytes((tmp_path / f"a.{name}").read_bytes())
    for source in (
        "a.parquet",
        arrow.name,
        "a.jsonl",
        "a.json",
        "whole",
        "dict",
        *(f"folder of {x}" for x in ("parquet", "json")),
    ):
        reader = HfDataset(str(tmp_path / source))
        assert list(reader) == GROUPS, source
        assert list(reader) == GROUPS, source  # and again
    assert list(HfDataset(str(tmp_path / "a.parquet"), limit=1)) == GROUPS[:1]


def test_text_that_looks_like_something_else_stays_text_in_files_without_types(tmp_path: Path) -> None:
    # datasets alone would make a timestamp of the JSON's queries, and 7 and nothing of the CSV's cells
    flat = {"query": ["2024-01-01"] * 2, "document": ["007", "NA"], "label": [1, 0]}
    (tmp_path / "train.jsonl").write_text(lines(flat))
    cells = "query,document,label\n2024-01-01,007,1\n2024-01-01,NA,0\n"
    (tmp_path / "a.csv").write_text(cells)
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "test.tsv").write_text(cells.replace(",", "\t"))
    expected = [Group("2024-01-01", ["007", "NA"], [1, 0])]
    assert list(HfDataset(str(tmp_path / "train.jsonl"))) == expected
    assert list(HfDataset(str(tmp_path / "a.csv"))) == expected
    assert list(HfDataset(str(tmp_path / "csv"), split="test")) == expected
    (tmp_path / "bad.csv").write_text("query,document,label\nq,d,1\nq,e,high\n")
    said = refused(str(tmp_path / "bad.csv"))
    assert said == f'{tmp_path / "bad.csv"}:3: "label" must hold numbers, but it holds text: "high"'


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"query": [datetime.date(2024, 1, 1)], "positive": ["a"]}, '"query" must be text, but it is a date'),
        ({"query": ["q"], "positive": [[datetime.datetime(2024, 1, 1)]]}, "but it holds a date and time"),
        (
            {"query": ["q"], "positive": [[7]]},
            '"positive" must hold text or {"title", "text"} objects, but it holds a number',
        ),
        ({"query": [7], "positive": ["a"]}, '"query" must be text, but it is a number'),
        ({"query": ["q"], "positive": [b"a"]}, "but it holds bytes"),
        ({"query": ["q"], "docs": [["a"]], "labels": [[float("nan")]]}, '"labels" must hold numbers, but it holds nan'),
        ({"query": ["q"], "document": ["a"], "label": [float("inf")]}, '"label" must hold numbers, but it holds inf'),
        ({"query": ["q"], "document": ["a"], "label": ["1"]}, '"label" must hold numbers, but it holds text: "1"'),
        (
            {"query": ["q"], "document": ["a"], "label": [datetime.date(2024, 1, 1)]},
            'but it holds a date: "2024-01-01"',
        ),
        ({"query": ["q"], "document": ["a"], "label": [True]}, "but it holds true or false"),
        ({"query": [None], "positive": ["a"]}, '"query" is null, which counts as absent'),
        ({"query": ["q"], "positives": ["a"]}, 'unknown form: expected the keys "query", "positive" or'),
        ({"query": ["q"], "positive": ["a"], "doc_ids": [["x", "x"]]}, '"doc_ids" has 2 entries for 1 documents'),
    ],
)
def test_a_wrong_column_is_named_with_its_row(tmp_path: Path, columns: dict[str, Any], said: str) -> None:
    path = parquet(tmp_path / "a.parquet", **columns)
    message = refused(path)
    assert message.startswith(f"{path}, row 0: ") and said in message


def test_rows_are_counted_from_0(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", query=["a", "b", " "], positive=["x", "y", "z"], qid=["1", "2", "3"])
    assert refused(path).startswith(f'{path}, row 2: "query" is empty')
    path = parquet(tmp_path / "b.parquet", query=["a", "b"], positive=["x", "y"], qid=["1", "1"])
    assert refused(path).startswith(f"{path}, row 1: query id '1' was given before, at {path}, row 0, with something")


@pytest.mark.regression
def test_numbered_negatives(tmp_path: Path) -> None:
    """As sentence-transformers' mine_hard_negatives(output_format="n-tuple") writes them."""
    columns = {"query": ["q", "r"], "positive": ["p", "o"], "negative_1": ["a", "b"], "negative_2": ["c", None]}
    expected = [Group("q", ["p", "a", "c"], [1, 0, 0]), Group("r", ["o", "b"], [1, 0])]
    assert list(HfDataset(parquet(tmp_path / "a.parquet", **columns))) == expected
    (tmp_path / "a.csv").write_text("query,positive,negative_1,negative_2\nq,p,a,c\nr,o,b,\n")
    assert list(HfDataset(str(tmp_path / "a.csv"))) == expected


def test_keys_splits_and_configs(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", question=["q"], good=[{"title": "t", "text": "p"}], bad=["n"])
    keys = {"query_key": "question", "positive_key": "good", "negative_key": "bad"}
    assert list(HfDataset(path, **keys)) == [Group("q", ["t p", "n"], [1, 0])]
    assert refused(path, split="test") == f"{path}: no split 'test'; splits: train"
    assert refused(path, config="x") == f"{path} has no configs; leave config = 'x' out"
    dataset = datasets.Dataset.from_dict(ROWS, split="train")  # what it was once, which a dict overrules
    dataset.save_to_disk(tmp_path / "one")
    assert refused(str(tmp_path / "one"), split="dev") == f"{tmp_path / 'one'}: no split 'dev'; splits: train"
    datasets.DatasetDict({"dev": dataset, "test": dataset}).save_to_disk(tmp_path / "dict")
    assert "no split 'tset'; splits: dev, test; did you mean \"test\"" in refused(str(tmp_path / "dict"), split="tset")
    assert list(HfDataset(str(tmp_path / "dict"), split="dev")) == GROUPS
    folder = tmp_path / "two"
    folder.mkdir()
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: en\n  data_files: en.jsonl\n- config_name: de\n  data_files:\n"
        "  - split: dev\n    path: de.jsonl\n---\n"
    )
    for name in ("en", "de"):
        (folder / f"{name}.jsonl").write_text(json.dumps({"query": name, "positive": "p"}) + "\nbroken\n")
    assert "several configs, of which `config` must name one: ['en', 'de']" in refused(str(folder))
    assert "`config` must name one: ['en', 'de']" in refused(str(folder), config="fr")
    assert "no split 'train'; splits: dev" in refused(str(folder), config="de")
    reader = HfDataset(str(folder), config="de", split="dev", limit=1)
    assert [group.query for group in reader] == ["de"]
    assert refused(str(folder), config="en").startswith(f"{folder / 'en.jsonl'}:2: not valid JSON")


def test_code_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "repo.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert "brings code of its own, which is not run" in refused(str(tmp_path / "repo"))
    assert "hf_dataset.v1 reads files that end in .parquet" in refused(str(tmp_path / "repo" / "repo.py"))
    assert not (tmp_path / "ran").exists()


def test_sources_without_rows(tmp_path: Path) -> None:
    assert "no file or folder './nope'" in refused("./nope")
    (tmp_path / "empty").mkdir()
    assert "holds no data files" in refused(str(tmp_path / "empty"))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "train.txt").write_text("a")
    assert "holds text files; hf_dataset.v1 reads" in refused(str(tmp_path / "text"))
    nothing = datasets.Dataset.from_dict({name: [] for name in ROWS})
    nothing.save_to_disk(tmp_path / "nothing")
    datasets.DatasetDict({"dev": nothing}).save_to_disk(tmp_path / "nothings")
    assert refused(str(tmp_path / "nothing")) == f"{tmp_path / 'nothing'}: this split has no rows"
    assert refused(str(tmp_path / "nothings"), split="dev") == f"{tmp_path / 'nothings'}: this split has no rows"
    schema = pyarrow.schema({"query": pyarrow.string()})
    with pyarrow.ipc.new_stream(str(tmp_path / "empty.arrow"), schema) as writer:
        writer.write_table(schema.empty_table())
    assert "this split has no rows" in refused(str(tmp_path / "empty.arrow"))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    assert "bad.parquet could not be read: ArrowInvalid" in refused(str(tmp_path / "bad.parquet"))
    (tmp_path / "a.jsonl").write_text("")
    assert "the file is empty" in refused(str(tmp_path / "a.jsonl"))
    with pytest.raises(InputError, match="limit must be at least 1"):
        HfDataset(str(tmp_path / "a.jsonl"), limit=0)


def test_without_a_network_the_hub_is_given_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*args: Any, **options: Any) -> None:
        raise OSError("unreachable")

    monkeypatch.setattr(socket, "create_connection", nobody)
    monkeypatch.setattr(weights, "_hub_answers", lambda: False)
    start = time.perf_counter()
    assert "'org/name' is neither a file, nor a folder, nor in the cache, and the hub cannot be reached" in refused(
        "org/name"
    )
    assert time.perf_counter() - start < 5


def test_a_hub_repository_is_read_by_the_names_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub itself is played by a folder, in which datasets finds what it would find in the repository."""
    (tmp_path / "train.jsonl").write_text(lines(ROWS) + "{}\n")
    load = datasets.load_dataset_builder
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda path, config: load(str(tmp_path), config))
    monkeypatch.setattr(weights, "_hub_answers", lambda: True)
    fetched = tmp_path / "blob"
    fetched.write_bytes((tmp_path / "train.jsonl").read_bytes())
    monkeypatch.setattr(datasets.DownloadManager, "download", lambda self, files: [str(fetched)])
    assert list(HfDataset("org/name", limit=2)) == GROUPS
    assert refused("org/name").startswith(f'{tmp_path / "train.jsonl"}:3: no "query", "positive"')


@pytest.mark.regression
@pytest.mark.parametrize("as_folder", [False, True])
def test_quotes_of_a_tsv_are_text(tmp_path: Path, as_folder: bool) -> None:
    path = tmp_path / "train.tsv"
    path.write_text('query\ttext\tlabel\na\t"c\t0\na\td"\t1\na\t"e" f\t0\nb\t"g\th\r"\t0\n'.replace("\th\r", " h"))
    groups = list(HfDataset(str(tmp_path if as_folder else path)))
    assert [(group.query, group.docs, group.labels) for group in groups] == [
        ("a", ['"c', 'd"', '"e" f'], [0, 1, 0]),
        ("b", ['"g h"'], [0]),
    ]


@pytest.mark.regression
def test_cells_in_quotes_of_a_tsv_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "train.tsv").write_text('query\ttext\tlabel\nq\t"a ""b"""\t1\nq\tc\t0\n')
    with caplog.at_level("WARNING", "rerankkit"):
        (group,) = HfDataset(str(tmp_path / "train.tsv"))
    assert group.docs == ['"a ""b"""', "c"]
    assert "1 TSV cell taken with its double quotes, such as" in caplog.text
