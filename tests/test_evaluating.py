"""What `evaluate` reads of its options, and how it names what it compares."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_cli import Shell, shell

from rerankkit import evaluating
from rerankkit.errors import InputError

__all__ = ["shell"]


def test_the_last_part_of_a_path_names_a_system_where_that_is_enough() -> None:
    assert evaluating.labels(["models/a", "runs/b.trec"]) == ["a", "b.trec"]
    assert evaluating.labels(["x/m", "y/m"]) == ["x/m", "y/m"]
    with pytest.raises(InputError, match="m is given twice"):
        evaluating.labels(["m", "m", "n"])


@pytest.mark.parametrize(("text", "weight"), [(None, None), ("tune", "tune"), ("0", 0.0), ("0.25", 0.25), ("1", 1.0)])
def test_weights(text: str | None, weight: float | str | None) -> None:
    assert evaluating.parse_weight(text) == weight


@pytest.mark.parametrize("text", ["-0.1", "1.1", "nan", "inf", "best", ""])
def test_what_is_no_weight(text: str) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        evaluating.parse_weight(text)


def test_measures() -> None:
    assert evaluating.parse_measures("nDCG@10  RR@5") == ["nDCG@10", "RR@5"]
    assert evaluating.parse_measures(None) is None
    with pytest.raises(InputError, match="RRR@5"):
        evaluating.parse_measures("nDCG@10 RRR@5")


def test_a_file_is_a_run_and_a_recipe_is_not(tmp_path: Path) -> None:
    for name in ("a.trec", "a.cfg"):
        (tmp_path / name).write_text("")
    assert [evaluating.is_run(str(tmp_path / name)) for name in ("a.trec", "a.cfg", "")] == [True, False, False]


def arguments(folder: Path) -> tuple[Path, Path]:
    """A BEIR folder whose query is a document of the corpus under its own id, and a run over it."""
    texts = {"a1": "taxes should rise", "a2": "taxes should not rise", "a3": "cats"}
    lines = [json.dumps({"_id": docid, "text": text}) for docid, text in texts.items()]
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    (folder / "queries.jsonl").write_text(lines[0])
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\na1\ta2\t1\n")
    (folder / "given.trec").write_text("a1 Q0 a1 1 9 x\na1 Q0 a2 2 8 x\n")
    return folder, folder / "given.trec"


@pytest.mark.regression
def test_runs_are_measured_without_the_querys_own_document(shell: Shell, tmp_path: Path) -> None:
    data, run = arguments(tmp_path)
    code, out, err = shell("evaluate", run, "--data", data, "--measures", "RR@10", "--json")
    systems = json.loads(out)["systems"]
    assert code == 0 and {name: found["measures"]["RR@10"] for name, found in systems.items()} == {
        "first stage": 1.0,
        "given.trec": 1.0,
    }
    assert "of the same id, is left out as in BEIR's evaluation" in err
    if "--no-ignore-identical-ids" in shell("evaluate", "--help")[1]:
        kept = shell("evaluate", run, "--data", data, "--measures", "RR@10", "--json", "--no-ignore-identical-ids")
        assert {found["measures"]["RR@10"] for found in json.loads(kept[1])["systems"].values()} == {0.5}


@pytest.mark.regression
def test_measures_may_stand_between_commas(shell: Shell, tmp_path: Path) -> None:
    data, run = arguments(tmp_path)
    code, out, err = shell("evaluate", run, "--data", data, "--measures", "nDCG@10,RR@10, P(rel=1)@5", "--json")
    assert code == 0, err
    assert list(json.loads(out)["systems"]["given.trec"]["measures"]) == ["nDCG@10", "RR@10", "P(rel=1)@5"]


@pytest.mark.regression
def test_a_file_of_a_model_is_no_model(shell: Shell, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / name).write_text('{"model_type": "bert"}')
        for command in (["evaluate", tmp_path / name], ["rank", tmp_path / name, "--query", "q"]):
            code, _, err = shell(*command)
            assert code == 2 and f"is a file of a model; give its folder, {tmp_path}" in err
            assert len(err.splitlines()) == 1
    code, _, err = shell("check", tmp_path / "config.json")
    assert code == 2 and "this is JSON; a recipe has sections" in err and len(err.splitlines()) < 4
    (tmp_path / "recipe.cfg").write_text("[recipe]\n")
    (tmp_path / "origin.json").write_text("{}")
    code, _, err = shell("rank", tmp_path / "recipe.cfg", "--query", "q")
    assert code == 2 and f"is a file of a model; give its folder, {tmp_path}" in err


@pytest.mark.regression
@pytest.mark.parametrize("option", ["--top 5", "--split dev", "--run first.trec", "--no-ignore-identical-ids"])
def test_options_of_a_first_stage_that_nothing_reads(shell: Shell, option: str) -> None:
    name = option.split()[0].replace("--no-", "--")
    code, out, err = shell("evaluate", "cross_encoder", *option.split())
    assert (code, out) == (2, "") and err.startswith(f"error: {name} is for --data; without it the recipe's")


@pytest.mark.regression
def test_groups_in_jsonl_have_no_split_and_are_not_cut(shell: Shell, tmp_path: Path) -> None:
    run, data = tmp_path / "run.trec", tmp_path / "groups.jsonl"
    data.write_text('{"query": "q", "qid": "1", "docs": ["a", "b"], "doc_ids": ["x", "y"], "labels": [0, 1]}\n')
    run.write_text("1 Q0 y 1 2 t\n1 Q0 x 2 1 t\n")
    said = shell("evaluate", run, "--data", data, "--top", "1")
    assert said[0] == 2 and "--top 1: 1 queries of" in said[2] and "bring more candidates" in said[2]
    assert shell("evaluate", run, "--data", data, "--split", "dev")[2].startswith("error: --split dev:")
    assert [shell("evaluate", run, "--data", data, *top)[0] for top in ((), ("--top", "2"))] == [0, 0]
