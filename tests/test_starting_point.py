"""A training begins as `rank` reads the checkpoint that it starts from, unless somebody says otherwise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_bert
import tiny_encoders
import tiny_training as run

from rerankkit import Reranker, load_recipe, train
from rerankkit.errors import InputError
from rerankkit.recipe import check, read

pytestmark = pytest.mark.regression
READ = {
    "model.collator.query_max_length": 20,
    "model.collator.document_max_length": 50,
    "model.collator.query_expansion": False,
    "model.collator.query_marker": "cat",
    "model.collator.document_marker": "mat",
    "model.collator.skiplist": None,
    "model.collator.compare_first": True,
    "model.head.similarity": "sum",
}


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Late interaction in PyLate's layout, with markers, lengths and more that no default has."""
    Reranker.from_pretrained(tiny_bert.with_projection(), READ).export(tmp_path / "published", "pylate")
    return tmp_path / "published"


def data(at: Path) -> dict[str, Any]:
    at.mkdir(exist_ok=True)
    rows = {"train": run.write_rows(at / "train.jsonl", 8), "dev": run.write_rows(at / "dev.jsonl", 3, start=900)}
    settings = {**run.SETTINGS, "max_steps": 1, "warmup_steps": 0, "eval_steps": 1, "save_steps": 1}
    return {
        **{f"data.{split}": {"@readers": "jsonl.v1", "path": str(path)} for split, path in rows.items()},
        "data.test": None,
        **{f"training.{key}": value for key, value in settings.items()},
    }


def test_late_interaction_is_trained_with_its_own_markers_and_lengths(published: Path, tmp_path: Path) -> None:
    given = {"model.backbone.name": str(published), **data(tmp_path / "data")}
    of = train("colbert", tmp_path / "model", given)
    before = Reranker.from_pretrained(published).recipe
    assert of.recipe is not None and before is not None
    for part in ("formatter", "collator"):
        ours, theirs = of.recipe.get(f"model.{part}"), before.get(f"model.{part}")
        assert {key: ours.get(key) for key in theirs} == theirs
    saved = Reranker.from_pretrained(tmp_path / "model").recipe
    assert saved is not None and saved.get("model.collator")["query_marker"] == "cat"


def test_what_is_said_otherwise_stays_and_is_told(published: Path, tmp_path: Path) -> None:
    from rerankkit.starting_point import with_checkpoint_settings
    from rerankkit.warnings import collecting

    name = {"model.backbone.name": str(published)}
    with collecting() as counted:
        same = with_checkpoint_settings(load_recipe("colbert", name)).get("model.collator")
    assert {
        f"model.collator.{key}": same[key] for key in ("query_max_length", "document_marker")
    }.items() <= READ.items()
    assert counted.counts == {}
    with collecting() as counted:
        other = with_checkpoint_settings(load_recipe("colbert", {**name, "model.collator.query_max_length": 24}))
    assert other.get("model.collator")["query_max_length"] == 24
    assert other.get("model.collator")["document_max_length"] == 50
    assert counted.counts == {"checkpoint_settings_overridden": 1}
    assert "query_max_length = 24, where " in counted.examples["checkpoint_settings_overridden"]
    mine = tmp_path / "mine.cfg"
    mine.write_text('[recipe]\nextends = "colbert"\n[model]\n[model.collator]\ndocument_max_length = 60\n')
    with collecting() as counted:
        other = with_checkpoint_settings(load_recipe(mine, name))
    assert other.get("model.collator")["document_max_length"] == 60 and counted.counts != {}
    new = {**name, "model.head.start": "new", "model.head.dim": 8}
    assert with_checkpoint_settings(load_recipe("colbert", new)).get("model.head")["dim"] == 8


def test_a_cross_encoders_prompts_and_length(tmp_path: Path) -> None:
    from rerankkit.starting_point import with_checkpoint_settings

    folder = Path(shutil.copytree(tiny_encoders.classifier("bert"), tmp_path / "ce"))
    transformer = "sentence_transformers.base.modules.transformer.Transformer"
    (folder / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": transformer}]))
    prompts = {"prompts": {"query": "find: "}, "default_prompt_name": "query", "model_type": "CrossEncoder"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 48}))
    recipe = with_checkpoint_settings(load_recipe("cross_encoder", {"model.backbone.name": str(folder)}))
    assert recipe.get("model.collator")["max_length"] == 48
    assert recipe.get("model.formatter")["query"] == "find: {query}"
    body = {"model.backbone.name": str(tiny_bert.encoder())}
    plain = load_recipe("cross_encoder_new_head", body)
    assert with_checkpoint_settings(plain).values == plain.values


@pytest.mark.parametrize("architecture", ["roberta", "xlm_roberta", "qwen3"])
def test_markers_that_a_vocabulary_has_not_are_told_by_check_and_refused(architecture: str, tmp_path: Path) -> None:
    name = {"model.backbone.name": str(tiny_encoders.encoder(architecture))}
    found = [problem.message for problem in check(read("colbert", name))]
    for argument, marker in (("query_marker", "[unused0]"), ("document_marker", "[unused1]")):
        assert any(message.startswith(f"{argument}: '{marker}' is no entry of this model's voc") for message in found)
    assert not [message for message in map(str, check(read("colbert", {**name, **MARKERS}))) if "marker" in message]
    of = Reranker.from_recipe(read("colbert", {**name, **MARKERS}))
    of.untrained = False
    assert of.compute_score([["a", "b"]])
    with pytest.raises(InputError, match="'<absent>' is no entry of this model's vocabulary"):
        Reranker.from_recipe("colbert", {**name, **MARKERS, "model.collator.document_marker": "<absent>"})


MARKERS = {"model.collator.query_marker": "query: ", "model.collator.document_marker": ""}


def test_the_model_of_a_shipped_recipe_need_not_be_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from rerankkit import starting_point

    def absent(name: str) -> None:
        raise InputError(f"{name} is carried by a package that is not installed")

    monkeypatch.setattr("rerankkit.weights.locate", absent)
    overrides = {"model.backbone.name": str(tiny_bert.classifier()), **data(tmp_path / "data")}
    recipe = load_recipe("cross_encoder", overrides, purpose="train")
    assert starting_point.with_checkpoint_settings(recipe).get("model.backbone")["name"] == str(tiny_bert.classifier())
