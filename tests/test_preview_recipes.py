"""`preview` of every shipped recipe, on tiny models: it ends well and shows the prompt, to the letter."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import test_llm_recipes as llm
import tiny
import tiny_bert

from rerankkit import cli
from rerankkit.evaluate import prepare
from rerankkit.preview import as_dict
from rerankkit.recipe import build, load_recipe, recipes_folder

RECIPES = sorted(path.stem for path in recipes_folder().glob("*.cfg") if path.stem != "base")
FOLDERS = {
    "cross_encoder": tiny_bert.classifier, "cross_encoder_new_head": tiny_bert.encoder, "colbert": tiny_bert.encoder,
}  # fmt: skip


@pytest.fixture(autouse=True)
def same_log() -> Iterator[None]:
    """A command sets up the log for the terminal that it has."""
    logger = logging.getLogger("rerankkit")
    before = logger.handlers, logger.level, logger.propagate
    yield
    logger.handlers, logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six queries, each with 22 documents: more than a window holds."""
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    rows = [
        {
            "query": tiny.sentence(number, 4),
            "docs": [tiny.sentence(100 * number + i, 3 + i % 5) for i in range(22)],
            "labels": [int(i == 3 * number) for i in range(22)],
        }
        for number in range(6)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def overrides(name: str, data: Path) -> dict[str, Any]:
    """The recipe's own values but for the model, its single tokens, and data."""
    values = (
        {**llm.overrides(name), "model.backbone.name": str(FOLDERS[name]())} if name in FOLDERS else llm.overrides(name)
    )
    if name == "colbert":
        values["model.head.dim"] = None
    if name == "llm_yes_logit":
        values |= {"model.head.positive": " Yes", "model.head.negative": " No"}
    reader = {"@readers": "jsonl.v1", "path": str(data)}
    return values | {f"data.{part}": reader for part in ("train", "dev", "test")}


def squeezed(text: str) -> str:
    """A text as all tokenizers keep it."""
    return "".join(text.lower().split())


@pytest.mark.parametrize("name", RECIPES)
def test_preview_shows_the_prompts_of_a_recipe(
    name: str, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = overrides(name, data)
    arguments = [text for key, value in given.items() for text in (f"--{key}", json.dumps(value))]
    monkeypatch.setattr(sys, "argv", ["rerankkit", "preview", name, *arguments])
    monkeypatch.setenv("COLUMNS", "120")
    capsys.readouterr()  # of writing the tiny model
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    assert (end.value.code or 0, err) == (0, "")
    assert "training example 0" in out and "inference example 0" in out and "⟦document|" in out and "⟦query|" in out

    recipe = load_recipe(recipes_folder() / f"{name}.cfg", given)
    formatter = build(recipe, "model.formatter")
    own_words = re.findall(r"[a-z]{3,}", re.sub(r"{\w+}", " ", getattr(formatter, "template", "") or "").lower())
    found = as_dict(recipe)
    assert [example["kind"] for example in found["examples"]] == ["training", "inference"] and not found["missing"]
    for example in found["examples"]:
        prompt = example["prompts"][0]
        shown = squeezed("".join(token["text"] for token in prompt["tokens"]))
        assert squeezed(example["query"]) in shown and all(word in shown for word in own_words)
        assert prompt["counts"] == Counter(token["role"] for token in prompt["tokens"])
        if example["kind"] == "inference":
            docs = prepare(list(build(recipe, "data.test")))[0].docs
            assert all(squeezed(docs[position]) in shown for position in prompt["documents"])
