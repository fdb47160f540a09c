"""The golden files: the checkpoints that they are of can be written again, and a naive reading of them agrees."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from golden.checkpoints import PYLATE, STANFORD, write_open_retrievals, write_pylate, write_stanford
from safetensors.torch import load_file
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

GOLDEN = Path(__file__).with_name("golden")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A place for about a hundred megabytes, which pytest alone would keep for three runs."""
    yield tmp_path / "checkpoint"
    shutil.rmtree(tmp_path / "checkpoint")


def golden(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))


@torch.no_grad()
def vectors(model: Any, linear: dict[str, torch.Tensor], ids: list[int], seen: list[int]) -> torch.Tensor:
    hidden = model(torch.tensor([ids]), torch.tensor([seen])).last_hidden_state[0]
    return normalize(hidden @ linear["weight"].T + linear.get("bias", 0.0), dim=1)  # [tokens, dim]


def maxsim(queries: list[torch.Tensor], documents: list[torch.Tensor]) -> torch.Tensor:
    return torch.tensor([[float((query @ document.T).amax(1).sum()) for document in documents] for query in queries])


@pytest.mark.parametrize("name", PYLATE)
def test_a_folder_in_pylates_layout_scores_as_pylate_said(name: str, folder: Path) -> None:
    write_pylate(PYLATE[name], folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    weights = load_file(folder / "1_Dense" / "model.safetensors")
    linear = {key.removeprefix("linear."): weight for key, weight in weights.items()}
    said = golden("pylate")["cases"][name]
    assert linear["weight"][0, :4].tolist() == pytest.approx(said["projection"], abs=1e-6)

    texts = {
        kind: [
            vectors(model, linear, text["ids"], text["attention"])[torch.tensor(text["kept"]).bool()]
            for text in said[kind]
        ]
        for kind in ("queries", "documents")
    }
    for kind, found in texts.items():
        for text, there in zip(found, said[kind], strict=True):
            assert list(text.shape) == there["shape"]
            torch.testing.assert_close(text[:2, :16], torch.tensor(there["rows"]), atol=1e-5, rtol=0)
    found = maxsim(texts["queries"], texts["documents"])
    torch.testing.assert_close(found, torch.tensor(said["maxsim"]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", STANFORD)
def test_a_folder_in_stanfords_layout_scores_as_stanford_said(name: str, folder: Path) -> None:
    write_stanford(STANFORD[name], folder)
    weights = load_file(folder / "model.safetensors")
    linear = {"weight": weights.pop("linear.weight")}
    model = BertModel(BertConfig.from_pretrained(folder)).eval()
    model.load_state_dict({key.removeprefix("bert."): weight for key, weight in weights.items()})
    said = golden("stanford")["cases"][name]
    queries = [
        vectors(model, linear, ids, seen) for ids, seen in zip(said["query_ids"], said["query_attention"], strict=True)
    ]
    documents = [
        vectors(model, linear, ids, [1] * len(ids))[torch.tensor(kept).bool()]
        for ids, kept in zip(said["document_ids"], said["document_kept"], strict=True)
    ]
    torch.testing.assert_close(maxsim(queries, documents), torch.tensor(said["scores"]), atol=1e-4, rtol=0)


def test_a_folder_in_open_retrievals_layout_scores_as_its_rules_said(folder: Path) -> None:
    write_open_retrievals(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    linear = torch.load(folder / "colbert_linear.pt", weights_only=True)
    said = golden("open_retrievals")

    def encoded(texts: list[str]) -> list[torch.Tensor]:
        ids = tokenizer(texts, truncation=True, max_length=said["max_length"]).input_ids
        return [vectors(model, linear, row, [1] * len(row))[1:] for row in ids]

    queries = encoded(said["queries"])
    found = maxsim(queries, encoded(said["documents"]))
    torch.testing.assert_close(found, torch.tensor(said["sum"]), atol=1e-4, rtol=0)
    lengths = torch.tensor([len(query) for query in queries])[:, None]
    torch.testing.assert_close(found / lengths, torch.tensor(said["mean"]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("layout", "scores"), [("pylate", "maxsim"), ("stanford", "scores")])
def test_sentence_transformers_agrees_with_the_projects_themselves(layout: str, scores: str) -> None:
    theirs = golden("multi_vector")["cases"]
    for name, case in golden(layout)["cases"].items():
        both = torch.tensor(theirs[f"{layout}/{name}"]["scores"]), torch.tensor(case[scores])
        torch.testing.assert_close(*both, atol=1e-4, rtol=0)


def test_padding_with_zeros_lifts_some_of_pylates_own_scores() -> None:
    """Why `maxsim` is the reference, and not what PyLate's ranking gives."""
    case = golden("pylate")["cases"]["default"]
    lifted = torch.tensor(case["rerank"]) - torch.tensor(case["maxsim"])
    assert lifted.min() > -1e-4
    assert lifted.max() > 0.1


def test_golden_files_stay_small_and_name_their_makers() -> None:
    files = sorted(GOLDEN.glob("*.json"))
    assert sum(file.stat().st_size for file in files) < 300_000
    for file in files:
        assert (GOLDEN / f"make_{file.name}").with_suffix(".py").is_file()
        assert {"torch", "transformers"} <= golden(file.stem)["versions"].keys()
