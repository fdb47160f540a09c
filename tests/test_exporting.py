"""Exported folders: read back they give the same scores, and what a layout cannot hold is refused."""

from __future__ import annotations

import json
import shutil
import string
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_bert
import torch
import transformers

from rerankkit import Reranker
from rerankkit.errors import InputError
from rerankkit.recipe import load_recipe

PAIRS = [["open a file!", tiny.sentence(i, 2 + 5 * i)] for i in range(6)] + [["a cat", "the cat, sat on the mat."]]
THERE = {
    "query_marker": "", "document_marker": "", "query_expansion": False, "skiplist": None, "compare_first": False,
}  # fmt: skip


def reranker(at: Path, kind: str, lora: str = "", **overrides: Any) -> Reranker:
    """A tiny reranker whose new weights count as trained."""
    (at / "recipe.cfg").write_text(tiny_bert.model_sections(kind, lora))
    torch.manual_seed(1)
    found = Reranker.from_recipe(load_recipe(at / "recipe.cfg", overrides))
    for name, weight in found.parts.backbone.module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    found.untrained = False
    return found


def colbert(at: Path, lora: str = "", head: dict[str, Any] | None = None, **collator: Any) -> Reranker:
    settings = {f"model.collator.{name}": value for name, value in collator.items()}
    head = {"similarity": "sum", "dim": 24, **(head or {})}
    return reranker(at, "colbert", lora, **settings, **{f"model.head.{name}": value for name, value in head.items()})


CASES = {
    "pylate": ("pylate", {}, {}),
    "pylate-bias": ("pylate", {"bias": True}, {"query_expansion": False, "skiplist": ["the", ","]}),
    "pylate-lora": ("pylate", {}, {"attend_to_expansion": True, "skiplist": None, "document_max_length": 20}),
    "stanford": ("stanford", {}, {"query_max_length": 24}),
    "stanford-lora": ("stanford", {}, {"attend_to_expansion": True, "skiplist": list(string.punctuation)}),
    "open_retrievals": ("open_retrievals", {"similarity": "mean", "bias": True}, THERE),
    "open_retrievals-lora": ("open_retrievals", {"similarity": "mean"}, THERE),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_exported_comes_back(tmp_path: Path, name: str) -> None:
    layout, head, collator = CASES[name]
    lora = "r = 2\nmerge = false" if name.endswith("lora") else ""
    model = colbert(tmp_path, lora, head, **collator)
    before = model.compute_score(PAIRS)
    assert len(set(before)) == len(PAIRS)
    model.export(tmp_path / "out", layout)
    back = Reranker.from_pretrained(tmp_path / "out").compute_score(PAIRS)
    assert back == (pytest.approx(before, rel=1e-5) if lora else before)  # merging rounds
    assert model.compute_score(PAIRS) == before  # the adapter is still apart


@pytest.mark.parametrize("lora", ["", "r = 2"])
def test_a_classifier_is_one_for_transformers(tmp_path: Path, lora: str) -> None:
    model = reranker(tmp_path, "classifier", lora)
    model.export(tmp_path / "out", "transformers")
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    query, document = PAIRS[2]
    with torch.no_grad():
        logit = loaded(**words([query], [document], return_tensors="pt")).logits.item()
    assert model.compute_score([query, document]) == pytest.approx([logit], abs=1e-5)
    assert Reranker.from_pretrained(tmp_path / "out").compute_score(PAIRS) == pytest.approx(
        model.compute_score(PAIRS), abs=1e-5
    )


def test_a_cross_encoder_takes_its_limit_along(tmp_path: Path) -> None:
    model = reranker(tmp_path, "classifier", **{"model.collator.max_length": 20})
    scores = model.compute_score(PAIRS)
    assert model.costs.cut_documents > 0
    model.export(tmp_path / "out", "transformers")
    back = Reranker.from_pretrained(tmp_path / "out")
    assert back.compute_score(PAIRS) == scores
    assert model.compute_score(PAIRS) == scores
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out").model_max_length == 20


def test_open_retrievals_folder_scores_as_its_rules_say(tmp_path: Path) -> None:
    """Its rules, written out: the first position dropped, a linear layer, cosines, the mean of the best matches."""
    colbert(tmp_path, "", {"similarity": "mean"}, **THERE).export(tmp_path / "out", "open_retrievals")
    encoder = transformers.AutoModel.from_pretrained(tmp_path / "out").eval()
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    linear = torch.load(tmp_path / "out" / "colbert_linear.pt", weights_only=True)

    @torch.no_grad()
    def vectors(text: str) -> torch.Tensor:
        states = encoder(**words(text, return_tensors="pt")).last_hidden_state[0, 1:]
        return torch.nn.functional.normalize(states @ linear["weight"].T + linear["bias"], dim=1)

    expected = [(vectors(query) @ vectors(document).T).amax(1).mean().item() for query, document in PAIRS]
    assert Reranker.from_pretrained(tmp_path / "out").compute_score(PAIRS) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("lengths", "told"), [((256, 256), False), ((32, 256), True), ((256, 180), True)])
def test_open_retrievals_lengths_are_said_not_lost_in_silence(
    tmp_path: Path, lengths: tuple[int, int], told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    limits = dict(zip(("query_max_length", "document_max_length"), lengths, strict=True))
    with caplog.at_level("WARNING", "rerankkit"):
        colbert(tmp_path, "", {"similarity": "mean"}, **THERE, **limits).export(tmp_path / "out", "open_retrievals")
    assert any("left out by the layout" in record.getMessage() for record in caplog.records) == told


def test_a_language_model_goes_without_its_prompt_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = Reranker.from_recipe("llm_pointwise", {"model.backbone.name": str(tiny.folder())})
    with caplog.at_level("WARNING", "rerankkit"):
        model.export(tmp_path / "out", "transformers")
    assert "1 setting left out by the layout, such as the prompt" in caplog.text
    words = model.parts.backbone.tokenizer("open a file", return_tensors="pt")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        assert torch.equal(loaded(**words).logits, model.parts.backbone.module(**words).logits)


def test_signs_that_the_vocabulary_lacks_are_not_exported_as_skipped(tmp_path: Path) -> None:
    """PyLate would take them for the unknown token, and skip every unknown word."""
    folder = tmp_path / "fewer"
    shutil.copytree(tiny_bert.encoder(), folder)
    words = json.loads((folder / "tokenizer.json").read_text())
    words["model"]["vocab"]["instead"] = words["model"]["vocab"].pop("~")
    (folder / "tokenizer.json").write_text(json.dumps(words))
    model = reranker(tmp_path, "colbert", **{"model.backbone.name": str(folder), "model.head.similarity": "sum"})
    model.export(tmp_path / "out", "pylate")
    settings = json.loads((tmp_path / "out" / "config_sentence_transformers.json").read_text())
    assert settings["skiplist_words"] == [sign for sign in string.punctuation if sign != "~"]
    assert Reranker.from_pretrained(tmp_path / "out").compute_score(PAIRS) == model.compute_score(PAIRS)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"model.formatter.query": "query: {query}"}, "no room for the instructions"),
        ({"model.collator.document_max_length": 9}, "cannot say document_max_length = 9"),
    ],
)
def test_what_a_plain_classifier_cannot_hold_is_refused(tmp_path: Path, override: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        reranker(tmp_path, "classifier", **override).export(tmp_path / "out", "transformers")
    assert not (tmp_path / "out").exists()


REFUSED = {
    "no layout 'onnx'; known are pylate": ("onnx", {}, {}),
    "cannot say similarity = 'mean' .it has 'sum'.": ("pylate", {"similarity": "mean"}, {}),
    "cannot say compare_first = False": ("pylate", {}, {"compare_first": False}),
    "cannot say bias = True .it has False.$": ("stanford", {"bias": True}, {}),
    "query_expansion = False": ("stanford", {}, {"query_expansion": False}),
    "and this collator's skiplist has others": ("stanford", {}, {"skiplist": ["the"]}),
    "skips the first token of each punctuation sign": ("stanford", {}, {"skiplist": None}),
    "needs a query_marker and a document_marker": ("stanford", {}, {"query_marker": ""}),
    "cannot say query_marker = '.unused0.'": ("open_retrievals", {"similarity": "mean"}, {"skiplist": None}),
    "needs a projection": ("pylate", {"dim": None}, {}),
    "'a query:' is text": ("pylate", {}, {"query_marker": "a query:"}),
    "holds models whose own head gives the score": ("transformers", {}, {}),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_a_layout_cannot_hold_is_refused(tmp_path: Path, message: str) -> None:
    layout, head, collator = REFUSED[message]
    with pytest.raises(InputError, match=message):
        colbert(tmp_path, "", head, **collator).export(tmp_path / "out", layout)
    assert not (tmp_path / "out").exists()


def test_a_cross_encoder_is_no_late_interaction(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='the layout "stanford" is for late interaction'):
        reranker(tmp_path, "classifier").export(tmp_path / "out", "stanford")


def test_instructions_have_no_place(tmp_path: Path) -> None:
    model = reranker(tmp_path, "colbert", **{"model.formatter.query": "query: {query}", "model.head.similarity": "sum"})
    with pytest.raises(InputError, match="no room for the instructions"):
        model.export(tmp_path / "out", "pylate")


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("here")
    with pytest.raises(InputError, match="already exists and is not empty"):
        colbert(tmp_path).export(tmp_path / "out", "pylate")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
