"""Encoder rerankers as folders: the same scores in a new process, and in transformers and peft alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_bert
import tiny_encoders
import torch
import transformers
from safetensors.torch import load_file

from rerankkit import Reranker
from rerankkit.errors import InputError

PAIRS = [[tiny.sentence(i, 4), tiny.sentence(50 + i, 3 + 5 * i)] for i in range(5)]
ELSEWHERE = """
import json, sys
import torch
from rerankkit import Reranker
torch.set_num_threads(1)
tasks = json.load(open(sys.argv[1]))
print(json.dumps([Reranker.from_pretrained(folder).compute_score(tasks["pairs"]) for folder in tasks["folders"]]))
"""
LORA = {"": "", "merged": "r = 4\nlora_alpha = 8", "apart": "r = 4\nlora_alpha = 8\nmerge = false"}
CASES = [
    (kind, lora, dtype)
    for kind in ("classifier", "linear", "colbert", "decoder", "decoder-linear")
    for lora in LORA
    for dtype in ("fp32", "bf16")
]


def build(at: Path, kind: str, lora: str, dtype: str) -> Reranker:
    """A reranker all of whose trainable weights have moved."""
    text = tiny_bert.model_sections({"decoder": "classifier", "decoder-linear": "linear"}.get(kind, kind), LORA[lora])
    if kind.startswith("decoder"):
        text = text.replace(str(tiny_bert.classifier()), str(tiny_encoders.classifier("llama")))
        text = text.replace(str(tiny_bert.encoder()), str(tiny_encoders.encoder("llama"))).replace('"mean"', '"last"')
        text = text.replace('"pair.v1"', f'"pointwise.v1"\ntemplate = {json.dumps(tiny.TEMPLATE)}', 1)
        text = text.replace('collators = "pair.v1"', 'collators = "sequence.v1"')
    text = text.replace('@backbones = "hf_', f'dtype = "{dtype}"\n@backbones = "hf_')
    (at / "recipe.cfg").write_text(text)
    found = Reranker.from_recipe(at / "recipe.cfg")
    found.untrained = False
    generator = torch.Generator().manual_seed(9)
    for part in (found.parts.backbone.module, found.parts.head.module):
        for weight in part.parameters() if part is not None else []:
            if weight.requires_grad:
                with torch.no_grad():
                    weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return found


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, tuple[Path, list[float], list[float]]]:
    """Each case's folder, its scores in memory after saving, and those in a process of its own."""
    torch.set_num_threads(1)
    folders, scores = [], []
    for case in CASES:
        home = tmp_path_factory.mktemp("-".join(case))
        of = build(home, *case)
        of.save_pretrained(home / "model")
        folders.append(home / "model")
        scores.append(of.compute_score(PAIRS))
    tasks = tmp_path_factory.mktemp("tasks") / "tasks.json"
    tasks.write_text(json.dumps({"pairs": PAIRS, "folders": list(map(str, folders))}))
    root = Path(__file__).parent.parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), str(root / "kernels")])}
    ran = subprocess.run([sys.executable, "-c", ELSEWHERE, tasks], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    there = json.loads(ran.stdout.splitlines()[-1])
    return dict(zip(CASES, zip(folders, scores, there, strict=True), strict=True))


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_a_new_process_gives_the_same_scores(saved: Any, case: Any) -> None:
    _, here, there = saved[case]
    assert there == here  # bit for bit
    assert len(set(here)) == len(here)


@pytest.mark.parametrize("kind", ["classifier", "decoder"])
@pytest.mark.parametrize("lora", ["", "merged"])
def test_transformers_alone_loads_the_classifier(saved: Any, kind: str, lora: str) -> None:
    folder, scores, _ = saved[(kind, lora, "fp32")]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "backbone").eval()
    words = transformers.AutoTokenizer.from_pretrained(folder / "backbone")
    assert transformers_scores(model, words) == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize("kind", ["classifier", "decoder"])
def test_peft_alone_loads_the_adapter_with_its_classifier(saved: Any, kind: str) -> None:
    import peft

    folder, scores, _ = saved[(kind, "apart", "fp32")]
    base = tiny_bert.classifier() if kind == "classifier" else tiny_encoders.classifier("llama")
    assert json.loads((folder / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base)
    model = peft.PeftModel.from_pretrained(model, folder / "adapter").eval()
    words = transformers.AutoTokenizer.from_pretrained(base)
    assert transformers_scores(model, words) == pytest.approx(scores, abs=1e-5)
    stored = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert any(name.endswith(("classifier.weight", "score.weight")) for name in stored)
    assert not any("lora" in name and ("classifier" in name or "score" in name) for name in stored)


@pytest.mark.parametrize("kind", ["linear", "decoder-linear"])
@pytest.mark.parametrize("lora", ["", "merged"])
def test_transformers_and_the_heads_file_give_the_scores(saved: Any, kind: str, lora: str) -> None:
    folder, scores, _ = saved[(kind, lora, "fp32")]
    model = transformers.AutoModel.from_pretrained(folder / "backbone").eval()
    words = transformers.AutoTokenizer.from_pretrained(folder / "backbone")
    head = load_file(folder / "head.safetensors")
    for (query, document), score in zip(PAIRS, scores, strict=True):
        if words.cls_token is None:
            inputs = words(tiny.TEMPLATE.format(query=query, document=document), return_tensors="pt")
        else:
            inputs = words(query, document, return_tensors="pt")
        with torch.no_grad():
            states = model(**inputs).last_hidden_state[0]
        pooled = states.mean(0) if kind == "linear" else states[-1]
        assert float(pooled @ head["1.weight"][0] + head["1.bias"]) == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize("kind", ["linear", "colbert", "decoder-linear"])
def test_peft_alone_loads_the_adapter_of_an_encoder(saved: Any, kind: str) -> None:
    import peft

    folder, _, _ = saved[(kind, "apart", "fp32")]
    base = tiny_encoders.encoder("llama") if kind == "decoder-linear" else tiny_bert.encoder()
    alone = peft.PeftModel.from_pretrained(transformers.AutoModel.from_pretrained(base), folder / "adapter").eval()
    ours = Reranker.from_pretrained(folder).parts.backbone
    inputs = ours.tokenizer("open a file", return_tensors="pt")
    with torch.no_grad():
        theirs, untouched = alone(**inputs).last_hidden_state, alone.get_base_model()
        assert torch.equal(ours.module(**inputs).last_hidden_state, theirs)
        with alone.disable_adapter():
            assert (untouched(**inputs).last_hidden_state - theirs).abs().max() > 0.01


@pytest.mark.parametrize("lora", LORA)
@pytest.mark.parametrize("kind", ["classifier", "linear", "colbert"])
def test_what_is_new_and_random_stays_so_on_disk(kind: str, lora: str, tmp_path: Path) -> None:
    text = tiny_bert.model_sections(kind, LORA[lora]).replace(str(tiny_bert.classifier()), str(tiny_bert.encoder()))
    (tmp_path / "recipe.cfg").write_text(text)
    Reranker.from_recipe(tmp_path / "recipe.cfg").save_pretrained(tmp_path / "model")
    again = Reranker.from_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="(head|classifier) of this reranker is new and random"):
        again.rank("a", ["b"])
    again.untrained = False
    again.save_pretrained(tmp_path / "trained")
    trained = Reranker.from_pretrained(tmp_path / "trained")
    assert trained.compute_score(PAIRS) == again.compute_score(PAIRS)


@torch.no_grad()
def transformers_scores(model: Any, words: Any) -> list[float]:
    found = []
    for query, document in PAIRS:
        if words.cls_token is None:
            inputs = words(tiny.TEMPLATE.format(query=query, document=document), return_tensors="pt")
        else:
            inputs = words(query, document, return_tensors="pt")
        found.append(model(**inputs).logits.item())
    return found


def test_lora_beside_a_new_classifier_keeps_all_that_is_new(tmp_path: Path) -> None:
    """An encoder without a pooler: what is random in this process would be another in the next."""
    base = transformers.AutoModel.from_pretrained(tiny_bert.encoder())
    base.pooler = None
    base.save_pretrained(tmp_path / "base")
    tiny_bert.tokenizer().save_pretrained(tmp_path / "base")
    text = tiny_bert.model_sections("classifier", LORA["apart"])
    (tmp_path / "recipe.cfg").write_text(text.replace(str(tiny_bert.classifier()), str(tmp_path / "base")))
    of = Reranker.from_recipe(tmp_path / "recipe.cfg")
    with pytest.raises(InputError, match="new and random"):
        of.rank("a", ["b"])
    of.untrained = False
    of.save_pretrained(tmp_path / "model")
    torch.manual_seed(99)
    assert Reranker.from_pretrained(tmp_path / "model").compute_score(PAIRS) == of.compute_score(PAIRS)
