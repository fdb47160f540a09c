"""Single tensors come from the files that transformers reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny_bert
import torch
from safetensors.torch import load_file, save_file

from rerankkit.errors import InputError
from rerankkit.registry import registry


@pytest.mark.regression
def test_a_classifier_is_of_the_file_that_the_rest_is_of(tmp_path: Path) -> None:
    """Beside the one file that transformers takes may lie the shards of another model, which it does not."""
    folder = Path(shutil.copytree(tiny_bert.classifier(), tmp_path / "classifier"))
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, folder / "model-00001-of-00001.safetensors")
    places = dict.fromkeys(tensors, "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    backbone = registry.backbones.get("hf_classifier.v1")
    found, right = (backbone(str(at), dtype="bf16").module.classifier for at in (folder, tiny_bert.classifier()))
    assert torch.equal(found.weight, right.weight)


@pytest.mark.regression
def test_shards_without_their_index_are_no_pickles(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bert.classifier(), tmp_path / "classifier"))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    with pytest.raises(InputError, match="has model-00001-of-00002.safetensors and neither"):
        registry.backbones.get("hf_classifier.v1")(str(folder))
