"""Rerankers on encoders with decoders, from recipe to folder: trained with LoRA, saved, loaded, the same bits."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_t5
import tiny_training
import torch
import transformers
from rich.console import Console

from rerankkit import Group, Reranker, load_recipe, pretrained, train
from rerankkit.errors import InputError
from rerankkit.preview import preview

PAIRS = [[tiny.sentence(i, 4), tiny.sentence(50 + i, 3 + 5 * i)] for i in range(5)]
LORA = {
    "": "",
    "merged": "[model.backbone.lora]\nr = 4\n",
    "apart": "[model.backbone.lora]\nr = 4\nmerge = false\n",
}
STYLES = {
    "yes_no": (
        f'[model.formatter]\n@formatters = "pointwise.v1"\ntemplate = {json.dumps(tiny_t5.TEMPLATE)}\n'
        '[model.head]\n@heads = "yes_no.v1"\npositive = "true"\nnegative = "false"\n'
        '[model.strategy]\n@strategies = "pointwise.v1"\n[loss]\n@losses = "softmax_cross_entropy.v1"\n'
    ),
    "choice": (
        '[model.formatter]\n@formatters = "documents.v1"\ntemplate = "Query: {query} {documents}"\n'
        'document = "Passage {label} : {document}"\nanswers = " {label}"\nanswer_prefix = "Passage"\n'
        '[model.head]\n@heads = "choice.v1"\n[model.strategy]\n@strategies = "all_pairs.v1"\n'
        '[loss]\n@losses = "softmax_cross_entropy.v1"\n'
    ),
    "likelihood": (
        '[model.formatter]\n@formatters = "query_generation.v1"\ntemplate = "Passage: {document} Query:"\n'
        'answer_prefix = ""\n'
        '[model.head]\n@heads = "query_likelihood.v1"\nreduction = "mean"\n'
        '[model.strategy]\n@strategies = "pointwise.v1"\n[loss]\n@losses = "softmax_cross_entropy.v1"\n'
    ),
}


def recipe(at: Path, style: str, architecture: str = "t5", lora: str = "", dtype: str = "fp32") -> Path:
    """A recipe with its data, in a folder of its own."""
    settings = tiny_training.SETTINGS | {"max_steps": 12, "learning_rate": 1e-2, "eval_strategy": "no"}
    settings |= {"save_strategy": "no", "load_best_model_at_end": False, "warmup_steps": 0}
    tiny_training.write_rows(at / "train.jsonl", 15)
    fields = "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
    (at / "recipe.cfg").write_text(
        f'[model]\n[model.collator]\n@collators = "encoder_decoder.v1"\nmax_length = 256\n'
        f'[model.backbone]\n@backbones = "hf_encoder_decoder.v1"\nname = "{tiny_t5.folder(architecture)}"\n'
        f'dtype = "{dtype}"\n{LORA[lora]}{STYLES[style]}[data]\n[data.train]\n@readers = "jsonl.v1"\n'
        f'path = "{at / "train.jsonl"}"\n[sampling]\ngroup_size = {2 if style == "choice" else 4}\n[training]\n{fields}'
    )
    return at / "recipe.cfg"


def held_out(at: Path) -> list[Group]:
    """Queries with one relevant document each, which comes last."""
    rows = tiny_training.write_rows(at / "held_out.jsonl", 8, start=300).read_text().splitlines()
    made = [json.loads(row) for row in rows]
    return [Group(row["query"], [*row["negative"], *row["positive"]]) for row in made]


def place_of_relevant(of: Reranker, groups: list[Group]) -> float:
    """On average, from 1 for the first."""
    rankings = zip(groups, of.rank_groups(groups), strict=True)
    places = [[document.index for document in ranked].index(len(group.docs) - 1) + 1 for group, ranked in rankings]
    return sum(places) / len(places)


@pytest.mark.parametrize(
    ("architecture", "style", "lora"),
    [
        *((architecture, "yes_no", lora) for architecture in ("t5", "t5_v1_1", "bart") for lora in ("merged", "apart")),
        ("t5", "choice", "merged"),
        ("bart", "choice", ""),
    ],
)
def test_trained_saved_and_loaded_is_the_same(tmp_path: Path, architecture: str, style: str, lora: str) -> None:
    path = recipe(tmp_path, style, architecture, lora)
    groups = held_out(tmp_path)
    torch.manual_seed(0)
    before = place_of_relevant(Reranker.from_recipe(path), groups)
    trained = train(path, tmp_path / "model")
    if style == "yes_no":  # a tiny model learns no names of documents in so short a time
        assert place_of_relevant(trained, groups) < before - 1.5
    again = Reranker.from_pretrained(tmp_path / "model")
    assert again.rank_groups(groups) == trained.rank_groups(groups)  # scores too, bit for bit
    names = {entry.name for entry in (tmp_path / "model").iterdir()}
    assert ("adapter" in names) == (lora == "apart") and ("backbone" in names) == (lora != "apart")


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("lora", LORA)
def test_a_saved_model_scores_the_same_in_transformers_alone(tmp_path: Path, lora: str, dtype: str) -> None:
    of = Reranker.from_recipe(recipe(tmp_path, "yes_no", "t5", lora, dtype))
    generator = torch.Generator().manual_seed(9)
    for weight in of.parts.backbone.module.parameters():
        if weight.requires_grad:
            with torch.no_grad():
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    of.save_pretrained(tmp_path / "model")
    scores = of.compute_score(PAIRS)
    assert Reranker.from_pretrained(tmp_path / "model").compute_score(PAIRS) == scores
    if lora == "apart" or dtype == "bf16":
        return
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model" / "backbone").eval()
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "model" / "backbone")
    yes, no = (words(word, add_special_tokens=False)["input_ids"][0] for word in ("true", "false"))
    for (query, document), score in zip(PAIRS, scores, strict=True):
        inputs = words(tiny_t5.TEMPLATE.format(query=query, document=document), return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs, decoder_input_ids=torch.tensor([[0]])).logits[0, -1]
        assert (logits[yes] - logits[no]).item() == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("style", STYLES)
def test_alone_and_together_scores_are_the_same(tmp_path: Path, style: str) -> None:
    path = recipe(tmp_path, style)
    groups = held_out(tmp_path)
    small, large = ({"engine.batch_tokens": n, "engine.prefix_tokens": n} for n in (1, 100_000))
    alone, together = (Reranker.from_recipe(path, settings).rank_groups(groups) for settings in (small, large))
    for one, other in zip(alone, together, strict=True):
        assert [ranked.index for ranked in one] == [ranked.index for ranked in other]
        assert [r.score for r in one] == pytest.approx([r.score for r in other], abs=1e-4)


def test_query_likelihood_is_the_decoders(tmp_path: Path) -> None:
    of = Reranker.from_recipe(recipe(tmp_path, "likelihood", "bart"))
    model, words = of.parts.backbone.module, of.parts.backbone.tokenizer
    for (query, document), score in zip(PAIRS, of.compute_score(PAIRS), strict=True):
        ids = words(query, add_special_tokens=False)["input_ids"]
        read = torch.tensor([words(f"Passage: {document} Query:")["input_ids"]])
        with torch.no_grad():
            logits = model(input_ids=read, decoder_input_ids=torch.tensor([[1, *ids[:-1]]])).logits[0]
        naive = logits.log_softmax(-1)[range(len(ids)), ids].mean().item()
        assert score == pytest.approx(naive, abs=1e-4)


@pytest.mark.parametrize("name", ["monot5", "duot5"])
def test_recipes_of_published_models_run(name: str) -> None:
    group = tiny.group(3, 4)
    reranker = Reranker.from_recipe(name, {"model.backbone.name": str(tiny_t5.folder())})
    ranked = reranker.rank(group.query, group.docs)
    assert sorted(r.index for r in ranked) == [0, 1, 2, 3] and len({r.score for r in ranked}) > 1


def test_a_preview_reads_no_weights_and_shows_both_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = recipe(tmp_path, "yes_no", "bart")

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("it read weights")

    monkeypatch.setattr(pretrained, "load", refuse)
    found = preview(load_recipe(at))
    shown = found.examples[0].prompts[0]
    words = tiny_t5.tokenizer(opened=True)
    assert shown.tokens is not None and shown.answer == shown.length - 1 == shown.shared
    assert [token.id for token in shown.tokens][-2:] == [1, 1]  # the text's end, and what BART's decoder begins with
    assert [token.id for token in shown.tokens][:5] == words("Query: " + found.examples[0].query)["input_ids"][:5]
    screen = io.StringIO()
    Console(width=200, file=screen).print(found)
    assert "nothing is shared: each prompt has an encoder's part" in screen.getvalue()


def test_a_published_model_alone_says_which_recipe_asks_it() -> None:
    folder: Any = tiny_t5.folder()
    with pytest.raises(InputError, match=r'text-to-text model, .* such as monot5: Reranker.from_recipe\("monot5"'):
        Reranker.from_pretrained(folder)
