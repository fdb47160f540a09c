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
import transformers
from golden.checkpoints import (
    MULTI_VECTOR,
    PYLATE,
    STANFORD,
    write_multi_vector,
    write_open_retrievals,
    write_pylate,
    write_stanford,
)
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from rerankkit import Group, Reranker
from rerankkit.errors import InputError, RunError
from rerankkit.protocols import Ask
from rerankkit.published import stanford_skiplist

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


def changed(at: Path, checkpoint: Path, file: str, **values: Any) -> Path:
    """A copy of a checkpoint, one of whose files says something else."""
    folder = at / "copy"
    if not folder.exists():
        shutil.copytree(checkpoint, folder)
    said = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    (folder / file).write_text(json.dumps(said | values))
    return folder


def sentence_transformers(at: Path, checkpoint: Path, settings: dict[str, Any], *parts: str) -> Path:
    """A copy of a checkpoint as sentence-transformers saves it."""
    folder = changed(at, checkpoint, "config_sentence_transformers.json", **settings)
    modules = [{"path": "" if kind == "Transformer" else kind, "type": f"a.{kind}"} for kind in ("Transformer", *parts)]
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def collator(folder: Path) -> dict[str, Any]:
    recipe = Reranker.from_pretrained(folder).recipe
    assert recipe is not None
    return recipe.get("model.collator")


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


@pytest.mark.parametrize("name", MULTI_VECTOR)
def test_sentence_transformers_own_layout(name: str, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_multi_vector(MULTI_VECTOR[name], folder)
    said = golden("multi_vector")
    case = said["cases"][f"multi_vector/{name}"]
    with caplog.at_level("WARNING", "rerankkit"):
        reranker = Reranker.from_pretrained(folder)
    left_out = [record.getMessage() for record in caplog.records if "skiplist" in record.getMessage()]
    assert ["1 skiplist word left out, being no token, such as 'no entry' of" in text for text in left_out] == (
        [True] if name == "markers" else []
    )
    found = scores(reranker, said["queries"], said["documents"])
    torch.testing.assert_close(found, torch.tensor(case["scores"]), atol=2e-5, rtol=0)
    for kind, texts in (("query", "queries"), ("document", "documents")):
        vectors = reranker.encode(said[texts], kind)
        assert [list(one.shape) for one in vectors] == case[f"{kind}_shapes"]


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
        cut = {"model.collator.max_length": length, "model.collator.truncation": "documents_first"}
        shorter = Reranker.from_pretrained("embedded:ms-marco-minilm-l12", cut)
        assert shorter.compute_score(said["long_pairs"]) == pytest.approx(said[f"long_logits_{length}"], abs=1e-5)
        assert shorter.costs.cut_documents == len(said["long_pairs"])
    assert reranker.compute_score(said["long_pairs"], normalize=True) == pytest.approx(
        said["long_sentence_transformers"], abs=1e-5
    )
    apart = reranker.compute_score(said["special_pairs"])[0] - said["special_logits"][0]
    assert abs(apart) > 1e-3  # text that spells [SEP] is text here


@pytest.mark.parametrize(
    ("stored", "cut_at"),
    [({}, 300), ({"max_seq_length": 90}, 90), ({"processing_kwargs": {"text": {"max_length": 40}}}, 40)],
)
def test_a_cross_encoder_is_cut_where_its_files_say(tmp_path: Path, stored: dict[str, Any], cut_at: int) -> None:
    folder = changed(tmp_path, tiny_bert.classifier(), "tokenizer_config.json", model_max_length=300)
    (folder / "sentence_bert_config.json").write_text(json.dumps(stored))
    assert collator(folder)["max_length"] == cut_at


def test_a_cross_encoder_without_a_limit_has_as_many_tokens_as_positions(tmp_path: Path) -> None:
    folder = changed(tmp_path, tiny_bert.classifier(), "tokenizer_config.json", model_max_length=10**30)
    assert collator(folder)["max_length"] == tiny_bert.SHAPE["max_position_embeddings"]


def test_the_prompt_of_a_cross_encoder_stands_before_the_query(tmp_path: Path) -> None:
    settings = {"model_type": "CrossEncoder", "prompts": {"web": "{web}: "}, "default_prompt_name": "web"}
    folder = sentence_transformers(tmp_path, tiny_bert.classifier(), settings)
    plain = Reranker.from_pretrained(tiny_bert.classifier())
    query, document = "open a file", "the cat sat"
    expected = plain.compute_score([f"{{web}}: {query}", document])
    assert Reranker.from_pretrained(folder).compute_score([query, document]) == expected
    assert expected != plain.compute_score([query, document])


def test_a_prompt_is_tokenized_with_its_text(tmp_path: Path) -> None:
    prompts = {"prompts": {"query": "a query: ", "document": ""}}
    folder = sentence_transformers(
        tmp_path, tiny.folder(), {"model_type": "MultiVectorEncoder", **prompts}, "MultiVectorMask", "Normalize"
    )
    reranker = Reranker.from_pretrained(folder)
    words = reranker.parts.backbone.tokenizer
    apart = [*words("a query: ")["input_ids"], *words("open")["input_ids"]]
    together = words("a query: open")["input_ids"]
    assert together != apart  # a byte-level tokenizer gives the blank to the word behind it
    prompt = reranker.parts.formatter.format(Ask(Group("open", ["a file"]), (0,)), words)
    assert list(reranker.parts.collator.encode([prompt], words)[0].shared) == together


def test_the_markers_of_pylate_are_those_of_its_code_where_the_file_names_none(tmp_path: Path) -> None:
    folder = sentence_transformers(tmp_path, tiny_bert.encoder(), {"model_type": "ColBERT"})
    with pytest.raises(InputError, match="without a vector for its marker '.Q. '"):
        Reranker.from_pretrained(folder)


def test_words_that_the_vocabulary_lacks_do_not_skip_the_unknown_token(tmp_path: Path) -> None:
    settings = {"model_type": "ColBERT", "query_prefix": "", "document_prefix": "", "skiplist_words": [",", "no entry"]}
    folder = sentence_transformers(tmp_path, tiny_bert.encoder(), settings)
    (skipped, kept) = Reranker.from_pretrained(folder, {"model.head.dim": None}).encode(["a, b", "a \u6771 b"])
    assert len(kept) == len(skipped) + 1


def test_stanfords_punctuation_is_the_first_token_of_each_sign() -> None:
    words = Tokenizer(models.Unigram([("[UNK]", 0.0), ("\u2581", -2.0), (",", -1.0), ("\u2581.", -1.0)], unk_id=0))
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    assert tokenizer.tokenize(",") == ["\u2581", ","]
    assert stanford_skiplist(tokenizer) == ["\u2581", "\u2581."]


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
        (lambda: "embedded:minilm-l6", InputError, "Transformer, Pooling, Normalize .*train cross_encoder_new_head"),
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
            '[{"path": "", "type": "a.Transformer"}, {"path": "1", "type": "b.Pooling"}]'
        )
    (tmp_path / "copy" / file).write_text(content)
    with pytest.raises((InputError, RunError), match=message):
        Reranker.from_pretrained(tmp_path / "copy")


MULTI_VECTOR_PARTS = ("Normalize",)


@pytest.mark.parametrize(
    ("settings", "lengths", "parts", "message"),
    [
        ({"similarity_fn_name": "xtr"}, {}, MULTI_VECTOR_PARTS, "compares by xtr"),
        ({}, {}, (), "is made of Transformer; rerankkit reads"),
        ({}, {}, ("Pooling", "Normalize"), "is made of Transformer, Pooling, Normalize"),
        ({}, {"query_expansion": {"strategy": "min", "length": 8}}, MULTI_VECTOR_PARTS, "expands its queries by .*min"),
        (
            {},
            {"query_expansion": {"strategy": "fixed", "length": 8}},
            MULTI_VECTOR_PARTS,
            "does not compare what it adds",
        ),
    ],
)
def test_multi_vector_encoders_of_another_kind_are_refused(
    tmp_path: Path, settings: dict[str, Any], lengths: dict[str, Any], parts: tuple[str, ...], message: str
) -> None:
    folder = sentence_transformers(
        tmp_path, tiny_bert.encoder(), {"model_type": "MultiVectorEncoder", **settings}, *parts
    )
    (folder / "sentence_bert_config.json").write_text(json.dumps(lengths))
    with pytest.raises(InputError, match=message):
        Reranker.from_pretrained(folder)


def test_a_cross_encoder_that_reads_the_logit_of_a_token_is_named_as_what_it_is(tmp_path: Path) -> None:
    folder = sentence_transformers(tmp_path, tiny.folder(), {"model_type": "CrossEncoder"}, "LogitScore")
    with pytest.raises(InputError, match="model of Transformer, LogitScore .CrossEncoder.*such as llm_pointwise"):
        Reranker.from_pretrained(folder)


def test_texts_that_are_lower_cased_by_nobody_here_are_refused(tmp_path: Path) -> None:
    folder = changed(tmp_path, tiny_bert.encoder(), "sentence_bert_config.json", do_lower_case=True)
    sentence_transformers(tmp_path, folder, {"model_type": "ColBERT", "query_prefix": "", "document_prefix": ""})
    Reranker.from_pretrained(folder, {"model.head.dim": None})  # its tokenizer does it anyway
    words = json.loads((folder / "tokenizer.json").read_text())
    words["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(InputError, match="texts lower-cased before its tokenizer"):
        Reranker.from_pretrained(folder, {"model.head.dim": None})


def test_stanfords_layout_without_its_projection_is_incomplete(folder: Path) -> None:
    write_stanford(STANFORD["attend"], folder)
    weights = load_file(folder / "model.safetensors")
    del weights["linear.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError, match="has no linear.weight"):
        Reranker.from_pretrained(folder)


@pytest.mark.parametrize("content", ['{"a": 1}', '["Transformer"]', '[{"path": ""}]'])
def test_a_list_of_modules_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    folder = sentence_transformers(tmp_path, tiny_bert.encoder(), {"model_type": "ColBERT"})
    (folder / "modules.json").write_text(content)
    with pytest.raises(RunError, match="is no list of modules, each with a path and a type"):
        Reranker.from_pretrained(folder)


def test_settings_that_are_no_object_are_refused(tmp_path: Path) -> None:
    folder = sentence_transformers(tmp_path, tiny_bert.encoder(), {})
    (folder / "config_sentence_transformers.json").write_text("[]")
    with pytest.raises(RunError, match="config_sentence_transformers.json should hold an object"):
        Reranker.from_pretrained(folder)
