"""Published checkpoints against the golden scores of the projects that wrote their layouts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_bert
import torch
from golden.checkpoints import PYLATE, STANFORD, write_open_retrievals, write_pylate, write_stanford

from rerankkit import Group, Reranker
from rerankkit.errors import InputError, RunError

GOLDEN = Path(__file__).with_name("golden")


def golden(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A place for about a hundred megabytes, which pytest alone would keep for three runs."""
    yield tmp_path / "checkpoint"
    shutil.rmtree(tmp_path / "checkpoint")


def scores(reranker: Reranker, queries: list[str], documents: list[str]) -> torch.Tensor:
    pairs = [[query, document] for query in queries for document in documents]
    return torch.tensor(reranker.compute_score(pairs)).view(len(queries), -1)


@pytest.mark.parametrize("name", PYLATE)
def test_pylates_layout(name: str, folder: Path) -> None:
    write_pylate(PYLATE[name], folder)
    said, texts = golden("pylate")["cases"][name], golden("pylate")
    reranker = Reranker.from_pretrained(folder)
    found = scores(reranker, texts["queries"], texts["documents"])
    torch.testing.assert_close(found, torch.tensor(said["maxsim"]), atol=2e-5, rtol=0)
    for kind, several in (("query", "queries"), ("document", "documents")):
        for vectors, one in zip(reranker.encode(texts[several], kind), said[several], strict=True):
            assert list(vectors.shape) == one["shape"]
            torch.testing.assert_close(vectors[:2, :16], torch.tensor(one["rows"]), atol=1e-5, rtol=0)
    ranked = reranker.rank_groups([Group(query, texts["documents"]) for query in texts["queries"]])
    for order, row in zip(ranked, said["maxsim"], strict=True):
        assert order[0].index == row.index(max(row))


@pytest.mark.parametrize("name", STANFORD)
def test_stanfords_layout(name: str, folder: Path) -> None:
    write_stanford(STANFORD[name], folder)
    said = golden("stanford")
    found = scores(Reranker.from_pretrained(folder), said["queries"], said["documents"])
    torch.testing.assert_close(found, torch.tensor(said["cases"][name]["scores"]), atol=2e-5, rtol=0)


def test_open_retrievals_layout(folder: Path) -> None:
    write_open_retrievals(folder)
    said = golden("open_retrievals")
    mean = Reranker.from_pretrained(folder)
    torch.testing.assert_close(
        scores(mean, said["queries"], said["documents"]), torch.tensor(said["mean"]), atol=1e-5, rtol=0
    )
    total = Reranker.from_pretrained(folder, {"model.head.similarity": "sum"})
    torch.testing.assert_close(
        scores(total, said["queries"], said["documents"]), torch.tensor(said["sum"]), atol=2e-5, rtol=0
    )


def test_a_cross_encoder_of_transformers() -> None:
    said = golden("cross_encoder")
    reranker = Reranker.from_pretrained("embedded:ms-marco-minilm-l12")
    asked = [number for number, (query, _) in enumerate(said["pairs"]) if query.strip()]  # an empty one is refused
    pairs = [said["pairs"][number] for number in asked]
    assert len(pairs) >= 39
    assert reranker.compute_score(pairs) == pytest.approx([said["logits"][i] for i in asked], abs=1e-5)
    normalized = reranker.compute_score(pairs, normalize=True)
    assert normalized == pytest.approx([said["sentence_transformers"][i] for i in asked], abs=1e-5)
    for length in (512, 128):
        shorter = Reranker.from_pretrained("embedded:ms-marco-minilm-l12", {"model.collator.max_length": length})
        assert shorter.compute_score(said["long_pairs"]) == pytest.approx(said[f"long_logits_{length}"], abs=1e-5)
        assert shorter.costs.cut_documents == len(said["long_pairs"])
    apart = reranker.compute_score(said["special_pairs"])[0] - said["special_logits"][0]
    assert abs(apart) > 1e-3  # text that spells [SEP] is text here


def test_what_an_override_says_wins() -> None:
    reranker = Reranker.from_pretrained(tiny_bert.with_projection(), {"model.head.similarity": "sum"})
    assert reranker.recipe is not None and reranker.recipe.get("model.head")["dim"] == 24
    assert reranker.recipe.get("model.head")["similarity"] == "sum"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (lambda: tiny_bert.encoder(), InputError, "is no reranker: it has neither a classifier nor a projection"),
        (lambda: tiny.folder(), InputError, "is a language model, and nothing in it says what to ask it"),
        (lambda: tiny_bert.classifier(3), InputError, "classifies into 3 .* needs one logit; train a new head"),
        (lambda: "./nowhere/at/all", InputError, "no folder './nowhere/at/all'"),
        (lambda: "embedded:nothing", InputError, "no embedded model 'nothing'"),
        (lambda: "org/not-on-this-machine", RunError, "is neither a folder nor in the cache"),
    ],
)  # fmt: skip
def test_what_is_no_reranker_is_refused(name: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Reranker.from_pretrained(name())


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config_sentence_transformers.json", '{"model_type": "ColBERT", "similarity_fn_name": "XTR"}', "XTR"),
        ("config_sentence_transformers.json", '{"model_type": "SparseEncoder"}', "Pooling .SparseEncoder., which"),
        ("config_sentence_transformers.json", "{", "is not JSON"),
        ("colbert_linear.pt", "not a pickle", "no state dict of a linear layer"),
    ],
)
def test_files_that_say_something_else_are_refused(tmp_path: Path, file: str, content: str, message: str) -> None:
    shutil.copytree(tiny_bert.with_projection(), tmp_path / "copy")
    if file.endswith(".json"):
        (tmp_path / "copy" / "colbert_linear.pt").unlink()
        (tmp_path / "copy" / "modules.json").write_text(
            '[{"path": "", "type": "a.Transformer"}, {"type": "b.Pooling"}]'
        )
    (tmp_path / "copy" / file).write_text(content)
    with pytest.raises((InputError, RunError), match=message):
        Reranker.from_pretrained(tmp_path / "copy")
