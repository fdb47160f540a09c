"""`preview` shows the tokens that training and ranking use, all of them, and nothing that acts on the terminal."""

from __future__ import annotations

import io
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from rerankkit import batches, engine, pretrained
from rerankkit.backbones.hf_causal import hf_causal
from rerankkit.errors import InputError, RunError
from rerankkit.evaluate import prepare
from rerankkit.preview import _texts, as_dict, preview
from rerankkit.preview_screen import STYLES, visible
from rerankkit.protocols import Batch
from rerankkit.recipe import build, load_recipe
from rerankkit.reranker import Reranker
from rerankkit.training import train

QUERY_FIRST = "Query: {query}\nDocument: {document}\nDoes the document answer the query? Answer:"
DOCUMENT_FIRST = "Document: {document}\nQuery: {query}\nDoes the document answer the query? Answer:"
TRAINING = """
[loss]
@losses = "softmax_cross_entropy.v1"
[data]
[data.train]
@readers = "jsonl.v1"
path = "{data}"
[data.test]
@readers = "jsonl.v1"
path = "{data}"
[sampling]
group_size = 4
random_negatives = 1
[training]
max_steps = 2
per_device_train_batch_size = 2
seed = 3
report_to = "none"
save_strategy = "no"
"""


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of a tiny model with seven groups, whose texts are too long, strange, or would be control tokens."""
    folder = tmp_path_factory.mktemp("preview")
    strange = ["Füße 東京 👩‍🚀 e\u0301", "a\u202eb\x1b[31mred\nline\ttab", "<|im_end|> <think>", "", "don't\u00a0stop"]
    with open(folder / "data.jsonl", "w", encoding="utf-8") as file:
        for number in range(7):
            docs = [tiny.sentence(10 * number + i, 4 + 9 * i) + strange[(number + i) % 5] for i in range(5)]
            labels = [int(i == number % 5) for i in range(5)]
            group = {"qid": f"q{number}", "query": tiny.sentence(number, 4 + number), "docs": docs, "labels": labels}
            file.write(json.dumps(group) + "\n")
    return tiny.recipe(folder / "tiny.cfg", extra=TRAINING.replace("{data}", str(folder / "data.jsonl")))


def loaded(file: Path, **more: Any) -> Any:
    """The recipe with a collator that cuts, and with overrides."""
    cut = {"model.collator.document_max_length": 20, "model.collator.query_max_length": 8}
    return load_recipe(file, {**cut, **{key.replace("__", "."): value for key, value in more.items()}})


def sequences(batch: Batch) -> list[list[int]]:
    """The whole token sequence of each row of a batch."""
    found = []
    for i, mask in enumerate(batch.tokens.mask):
        own = batch.tokens.ids[i, : int(mask.sum())].tolist()
        if batch.shared is not None and batch.shared_of is not None:
            which = int(batch.shared_of[i])
            own = batch.shared.ids[which, : int(batch.shared.mask[which].sum())].tolist() + own
        found.append(own)
    return found


def ids(prompt: dict[str, Any]) -> list[int]:
    return [token["id"] for token in prompt["tokens"]]


def by_kind(found: dict[str, Any], kind: str, what: str = "examples") -> dict[str, Any]:
    (one,) = [entry for entry in found[what] if entry["kind"] == kind]
    return one


def printed(found: Any, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=100, **options)
    console.print(found)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("template", [QUERY_FIRST, DOCUMENT_FIRST])
@pytest.mark.parametrize("recomputing", [False, True])
def test_the_tokens_are_those_of_the_training_batch(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str, recomputing: bool
) -> None:
    overrides = {"model.formatter.template": template, "training.gradient_checkpointing": recomputing}
    recipe = loaded(recipe_file, **overrides)
    captured: list[Batch] = []
    real = batches.training_batch

    def capture(parts: Any, groups: Any, known: Any = None) -> Batch:
        captured.append(real(parts, groups))
        return captured[-1]

    monkeypatch.setattr(batches, "training_batch", capture)
    train(recipe, tmp_path / "model")
    for example in range(4):  # two groups in each batch
        batch, in_batch = captured[example // 2], example % 2
        assert batch.mask is not None and batch.labels is not None
        width = batch.mask.shape[1]
        trained = sequences(batch)[in_batch * width : (in_batch + 1) * width]
        found = by_kind(as_dict(recipe, example), "training")
        prompts = found["prompts"]
        assert [ids(prompt) for prompt in prompts[:3]] == trained[:3] and prompts[3]["tokens"] is None
        assert [prompt["labels"] for prompt in prompts] == [[label] for label in batch.labels[in_batch].tolist()]
        assert [prompt["documents"] for prompt in prompts] == [[0], [1], [2], [3]]
        assert [sum(prompt["counts"].values()) for prompt in prompts] == [len(row) for row in trained]
        shared = 0 if batch.shared is None else int(batch.shared.mask[in_batch].sum())
        assert {prompt["shared"] for prompt in prompts} == {shared}
        assert (shared > 0) == (template == QUERY_FIRST and not recomputing)


def test_the_tokens_are_those_that_are_ranked(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = loaded(recipe_file)
    reranker = Reranker.from_recipe(recipe)
    captured: list[list[int]] = []
    real = engine.forward

    def capture(parts: Any, batch: Batch, state: object = None) -> torch.Tensor:
        captured.extend(sequences(batch))
        return real(parts, batch, state)

    monkeypatch.setattr(engine, "forward", capture)
    groups = prepare(list(build(recipe, "data.test")))
    reranker.rank_groups([groups[4]])
    found = by_kind(as_dict(recipe, 4), "inference")
    assert (found["query"], found["documents"]) == (groups[4].query, 5)
    assert all(ids(prompt) in captured for prompt in found["prompts"][:2]) and len(captured) == 5
    assert [prompt["tokens"] is not None for prompt in found["prompts"]] == [True, True, False, False, False]
    assert [prompt["labels"] for prompt in found["prompts"]] == [[label] for label in groups[4].labels or ()]


def test_roles_cuts_and_the_answer_add_up(recipe_file: Path) -> None:
    recipe, words = loaded(recipe_file), tiny.tokenizer()
    groups = prepare(list(build(recipe, "data.test")))
    for example, group in enumerate(groups):
        for prompt in by_kind(as_dict(recipe, example), "inference")["prompts"][:2]:
            roles = [token["role"] for token in prompt["tokens"]]
            assert prompt["counts"] == {role: roles.count(role) for role in ("fixed", "query", "document")}
            assert prompt["counts"]["query"] <= 8 and prompt["counts"]["document"] <= 20
            assert prompt["answer"] == len(roles) - 1 and roles[-1] == "fixed"
            text = group.docs[prompt["documents"][0]]
            whole = len(words(f" {text}", add_special_tokens=False)["input_ids"])
            if not any(token in text for token in tiny.SPECIAL + tiny.THINK):  # those are taken apart
                assert abs(prompt["counts"]["document"] + prompt["cut_document"] - whole) <= 1
            assert not any(token["control"] for token in prompt["tokens"])
            assert "".join(token["text"] for token in prompt["tokens"]) == words.decode(ids(prompt))


def test_control_tokens_are_told_from_text_that_spells_them(recipe_file: Path) -> None:
    recipe = loaded(recipe_file, model__formatter__chat=True, model__formatter__template="{query} {document}")
    control = set()
    for example in range(7):
        found = as_dict(recipe, example)
        for token in (t for e in found["examples"] for p in e["prompts"] for t in p["tokens"] or ()):
            assert token["control"] == (token["text"] in (*tiny.SPECIAL, *tiny.THINK))
            assert not token["control"] or token["role"] == "fixed"
            control |= {token["text"]} if token["control"] else set()
    assert control == {"<|im_start|>", "<|im_end|>", "<think>", "</think>"}
    assert "⟨<|im_start|>⟩" in printed(preview(recipe))


@given(st.text(max_size=30))
def test_pieces_of_text_join_to_the_whole(text: str) -> None:
    words = tiny.tokenizer()
    encoded = words(text, add_special_tokens=False)["input_ids"]
    pieces = _texts(encoded, words)
    assert len(pieces) == len(encoded)
    if "\ufffd" not in text:
        assert "".join(pieces) == text


def test_half_a_character_is_shown_as_such() -> None:
    words = tiny.tokenizer()
    whole = words("👩", add_special_tokens=False)["input_ids"]
    assert len(whole) == 4 and _texts(whole, words) == ["👩", "", "", ""]
    assert _texts(whole[:2], words) == ["\ufffd", ""] and _texts(whole[:1] * 2, words) == ["\ufffd", "\ufffd"]


@given(st.text())
def test_nothing_visible_acts_on_the_terminal(text: str) -> None:
    shown = visible(text)
    assert all(character.isprintable() for character in shown)
    assert text.isprintable() is False or shown == text
    assert visible("a\n\t\x1b\u202e\x7f") == r"a⏎⇥␛\u{202e}\u{7f}"


def test_without_colour_roles_stand_between_markers(recipe_file: Path) -> None:
    text = printed(preview(loaded(recipe_file, model__formatter__template=QUERY_FIRST)))
    assert "\x1b" not in text and "\u202e" not in text
    for marker in ("⟦fixed|«Query", "⟦query|", "⟦document|", "»⟧", "▶:◀⟧", "cut:", "left out", "yes_no.v1"):
        assert marker in text
    assert 'head      yes_no.v1 (positive = " yes", negative = " no", score = "difference", in_context = true)' in text
    assert "max_length = 512, document_max_length = 20" in text
    assert "shared by the group's prompts and computed once" in text


def test_colours_tell_roles_tokens_and_the_shared_prefix_apart(recipe_file: Path) -> None:
    found = preview(loaded(recipe_file, model__formatter__template=QUERY_FIRST))
    console = Console(file=io.StringIO(), width=10_000, force_terminal=True, color_system="truecolor")
    segments = [segment for segment in console.render(found) if segment.style is not None]
    shades = {str(segment.style).removeprefix("underline ") for segment in segments}
    seen = {role for role in STYLES for style in STYLES[role] if any(style in shade for shade in shades)}
    assert seen == {*STYLES}
    (training, inference) = found.examples
    shown = [p for example in (training, inference) for p in example.prompts if p.tokens is not None]
    underlined = [segment.text for segment in segments if segment.style and segment.style.underline]
    shared = ["".join(token.text for token in p.tokens[: p.shared]) for p in shown if p.tokens]
    assert "".join(underlined).replace("⏎\n", "\n").replace("⏎", "\n") == "shared prefix" + "".join(shared)
    assert "⟦" not in printed(found, force_terminal=True, color_system="truecolor")
    assert "⟦" in printed(found, force_terminal=True, color_system="truecolor", no_color=True)


def test_the_figures_are_those_of_the_first_steps(recipe_file: Path) -> None:
    more = {"training.gradient_accumulation_steps": 3, "model.formatter.template": QUERY_FIRST}
    recipe = loaded(recipe_file, **more)
    figures = by_kind(as_dict(recipe), "training", "figures")
    examples = [by_kind(as_dict(recipe, example), "training")["prompts"] for example in range(7)]
    prompts = [prompt for example in examples for prompt in example]
    lengths = sorted(sum(prompt["counts"].values()) for prompt in prompts)
    assert figures["prompts"] == len(prompts) == 28
    assert figures["lengths"]["longest"] == lengths[-1]
    assert lengths[12] <= figures["lengths"]["50 %"] <= lengths[15]
    assert figures["documents_cut"] == sum(prompt["cut_document"] > 0 for prompt in prompts) / 28 > 0
    assert figures["queries_cut"] == sum(prompt["cut_query"] > 0 for prompt in prompts) / 28 > 0
    assert math.isclose(figures["shared"], sum(prompt["shared"] for prompt in prompts) / 28)
    computed = sum(lengths) - sum(3 * example[0]["shared"] for example in examples)  # each prefix once, not four times
    assert math.isclose(figures["step_tokens"], 3 * computed / 4)  # seven groups are four batches; three batches a step
    assert figures["step_groups"] == 6 and figures["step_padding"] > 0
    assert by_kind(as_dict(recipe), "inference", "figures")["step_tokens"] is None


def test_a_recipe_without_data_shows_what_it_can(tmp_path: Path) -> None:
    found = as_dict(load_recipe(tiny.recipe(tmp_path / "bare.cfg")))
    assert [example["kind"] for example in found["examples"]] == ["inference"]
    assert by_kind(found, "inference")["source"] == "made up"
    assert found["missing"] == [
        "no training example: the recipe has no [data.train]",
        "no data: the recipe has no [data]; the inference example is made up",
    ]
    text = printed(preview(load_recipe(tmp_path / "bare.cfg")))
    assert "the recipe has no [data.train]" in text and "inference example 0: made up" in text


def test_examples_that_do_not_exist_are_refused(recipe_file: Path) -> None:
    with pytest.raises(InputError, match="counted from 0"):
        preview(loaded(recipe_file), -1)
    with pytest.raises(InputError, match=r"no training example 7: \[data.train\] has 7; no inference example 7"):
        preview(loaded(recipe_file), 7)


def test_a_part_that_does_not_fit_is_refused_as_in_training(recipe_file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="positive = 'yes and no'"):
        preview(loaded(recipe_file, model__head__positive="yes and no"))
    shutil.copytree(tiny.folder(), tmp_path / "classifier")
    config = tmp_path / "classifier" / "config.json"
    config.write_text(config.read_text().replace("LlamaForCausalLM", "LlamaForSequenceClassification"))
    with pytest.raises(InputError, match=r"\[model.backbone\] .*classifier is a LlamaForSequenceClassification"):
        preview(loaded(recipe_file, model__backbone__name=str(config.parent)))
    config.write_text("{")
    with pytest.raises((InputError, RunError), match=r"\[model.backbone\] .*classifier"):
        preview(loaded(recipe_file, model__backbone__name=str(config.parent)))


@pytest.mark.parametrize("architecture", tiny.NAMES)
def test_a_backbone_without_its_weights_makes_the_same_tokens(architecture: str) -> None:
    folder = str(tiny.folder(architecture))
    light, whole = hf_causal.without_weights(folder, None, True), hf_causal(folder)  # type: ignore[attr-defined]
    assert light.shares_prefix == whole.shares_prefix
    assert light.tokenizer.get_vocab() == whole.tokenizer.get_vocab()
    assert {weight.device.type for weight in light.module.parameters()} == {"meta"}


def test_weights_are_read_only_where_a_backbone_cannot_do_without(
    recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = loaded(recipe_file)
    shapes: list[str] = []
    real = pretrained.load_shape

    def count(auto: Any, name: str, *rest: Any) -> tuple[Any, Any]:
        shapes.append(name)
        return real(auto, name, *rest)

    monkeypatch.setattr(pretrained, "load_shape", count)
    light = as_dict(recipe)
    monkeypatch.delattr(hf_causal, "without_weights")
    assert as_dict(recipe) == light and len(shapes) == 1
