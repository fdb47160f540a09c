"""Sequence classifiers: padding tokens of all kinds, half precision from shards, and LoRA that keeps the classifier."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_bert
import tiny_encoders
import torch
import transformers
from safetensors.torch import load_file, save_file

from rerankkit import Reranker
from rerankkit.backbones.hf_classifier import HFClassifier, hf_classifier
from rerankkit.classifiers import head_names
from rerankkit.collators.pair import PairCollator
from rerankkit.collators.sequence import SequenceCollator
from rerankkit.engine import Parts
from rerankkit.errors import InputError
from rerankkit.formatters.pair import Pair
from rerankkit.formatters.pointwise import Pointwise as Template
from rerankkit.heads.logit import Logit
from rerankkit.lora import Lora
from rerankkit.strategies.pointwise import Pointwise

PAIRS = [[tiny.sentence(i // 2, 4), tiny.sentence(50 + i, 1 + 9 * i)] for i in range(6)]
ENDS_WITH = tiny.tokenizer()(tiny.TEMPLATE)["input_ids"][-1]


def reranker(backbone: HFClassifier) -> Reranker:
    is_decoder = backbone.tokenizer.cls_token is None
    formatter, collator = (Template(tiny.TEMPLATE), SequenceCollator(512)) if is_decoder else (Pair(), PairCollator())
    return Reranker(Parts(formatter, collator, backbone, Logit(), Pointwise()))


def copy(tmp_path: Path, source: Path, file: str, **changes: Any) -> Path:
    """A checkpoint with other settings in one of its files; None leaves one out."""
    folder = Path(shutil.copytree(source, tmp_path / "copy"))
    settings = {**json.loads((folder / file).read_text()), **changes}
    (folder / file).write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))
    return folder


@torch.no_grad()
def last_token_scores(folder: Path) -> list[float]:
    """The classifier's weight times the last token's state, one prompt at a time, whatever the padding token is."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    words, found = transformers.AutoTokenizer.from_pretrained(folder), []
    for query, document in PAIRS:
        ids = words(tiny.TEMPLATE.format(query=query, document=document), return_tensors="pt")["input_ids"]
        found.append(float(model.model(input_ids=ids).last_hidden_state[0, -1] @ model.score.weight[0]))
    return found


@pytest.mark.parametrize("pad", [None, -1, 2, 5], ids=["none", "as in old configs", "as eos", "not the tokenizer's"])
def test_a_causal_classifier_reads_the_last_token(pad: int | None, tmp_path: Path) -> None:
    folder = copy(tmp_path, tiny_encoders.classifier("llama"), "config.json", pad_token_id=pad)
    found = reranker(hf_classifier(str(folder))).compute_score(PAIRS)
    assert found == pytest.approx(last_token_scores(folder), abs=1e-5)
    assert max(found) - min(found) > 0.1


@pytest.mark.parametrize("architecture", ["llama", "llama_without_pad", "bert", "roberta"])
def test_a_tokenizer_without_padding_changes_nothing(architecture: str, tmp_path: Path) -> None:
    source = tiny_encoders.classifier(architecture)
    folder = copy(tmp_path, source, "tokenizer_config.json", pad_token=None)
    backbone = hf_classifier(str(folder))
    assert backbone.tokenizer.pad_token_id is None
    expected = reranker(hf_classifier(str(source))).compute_score(PAIRS)
    assert reranker(backbone).compute_score(PAIRS) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("architecture", ["bert", "xlm_roberta", "qwen3"])
def test_a_checkpoint_without_its_tokenizer_is_refused(architecture: str, tmp_path: Path) -> None:
    """transformers makes one up that knows no word, and every text would be the same."""
    folder = Path(shutil.copytree(tiny_encoders.classifier(architecture), tmp_path / "copy"))
    for file in folder.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            file.unlink()
    with pytest.raises(InputError, match=r"has no tokenizer .*: expected tokenizer.json beside its config.json"):
        hf_classifier(str(folder))


@pytest.mark.parametrize(
    ("architecture", "heads"),
    [("bert", ["classifier"]), ("distilbert", ["pre_classifier", "classifier"]), ("llama", ["score"]),
     ("modernbert", ["head", "classifier"]), ("deberta_v2", ["pooler", "classifier"])],
)  # fmt: skip
def test_all_that_lies_around_the_base_model_is_the_classifier(architecture: str, heads: list[str]) -> None:
    folder = tiny_encoders.classifier(architecture)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    assert head_names(model) == heads
    half = hf_classifier(str(folder), dtype="bf16").module
    kinds = {name: weight.dtype == torch.float32 for name, weight in half.named_parameters()}
    assert {name.partition(".")[0] for name, is_float in kinds.items() if is_float} == set(heads)
    assert not any(is_float for name, is_float in kinds.items() if name.startswith(f"{model.base_model_prefix}."))


HEADS: dict[str, Any] = {
    "deberta_v2": lambda model, states: model.classifier(model.pooler(states)),
    "roberta": lambda model, states: model.classifier(states),
    "qwen3": lambda model, states: model.score(states[:, -1]),
}


@pytest.mark.parametrize("architecture", HEADS)
def test_only_the_body_is_rounded(architecture: str) -> None:
    folder = tiny_encoders.classifier(architecture)
    exact = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    body = transformers.AutoModel.from_pretrained(folder, dtype=torch.bfloat16).eval()
    of, words = reranker(hf_classifier(str(folder), dtype="bf16")), transformers.AutoTokenizer.from_pretrained(folder)
    for query, document in PAIRS:
        texts = [tiny.TEMPLATE.format(query=query, document=document)] if words.cls_token is None else [query, document]
        with torch.no_grad():
            states = body(**words(*texts, return_tensors="pt")).last_hidden_state
            expected = HEADS[architecture](exact, states.float()).item()
        assert of.compute_score([query, document]) == pytest.approx([expected], abs=1e-5)


@pytest.mark.parametrize("architecture", ["distilbert", "qwen3"])
def test_weights_in_shards_are_the_same_weights(architecture: str, tmp_path: Path) -> None:
    folder = tiny_encoders.classifier(architecture)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    model.save_pretrained(tmp_path, max_shard_size="12KB")
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors").exists() and len(list(tmp_path.glob("*.safetensors"))) > 2
    for dtype in ("fp32", "bf16"):
        whole, shards = (reranker(hf_classifier(str(f), dtype=dtype)) for f in (folder, tmp_path))
        assert shards.compute_score(PAIRS) == whole.compute_score(PAIRS)
    stored = load_file(folder / "model.safetensors")
    for name, weight in hf_classifier(str(tmp_path), dtype="bf16").module.named_parameters():
        if weight.dtype == torch.float32:
            assert torch.equal(weight, stored[name])
    next(iter(sorted(tmp_path.glob("*.safetensors")))).unlink()
    with pytest.raises(Exception, match="its weights are incomplete"):
        hf_classifier(str(tmp_path))


@pytest.mark.parametrize("architecture", ["bert", "roberta", "llama"])
def test_under_autocast_the_classifier_stays_in_float32(architecture: str) -> None:
    of = reranker(hf_classifier(str(tiny_encoders.classifier(architecture))))
    exact = of.compute_score(PAIRS)
    seen: list[torch.dtype] = []
    last = dict(of.parts.backbone.module.named_modules())[head_names(of.parts.backbone.module)[-1]]
    last.register_forward_hook(lambda module, given, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        rough = of.compute_score(PAIRS)
        assert torch.is_autocast_enabled("cpu")  # left as it was
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert set(seen) == {torch.float32} and rough != exact
    assert of.compute_score(PAIRS) == exact


def with_lora(source: Path, lora: Lora) -> HFClassifier:
    backbone = hf_classifier(str(source), lora=lora)
    generator = torch.Generator().manual_seed(4)
    for weight in backbone.module.parameters():
        if weight.requires_grad:
            with torch.no_grad():
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return backbone


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "modernbert", "deberta_v2", "llama_without_pad"])
def test_beside_lora_the_classifier_trains_whole(architecture: str, tmp_path: Path) -> None:
    source = tiny_encoders.classifier(architecture)
    for merge in (True, False):
        at, of = tmp_path / str(merge), with_lora(source, Lora(r=4, merge=merge))
        whole = {name for name, weight in of.module.named_parameters() if weight.requires_grad and "lora_" not in name}
        assert whole and all("modules_to_save" in name for name in whole)
        moved, before = reranker(of).compute_score(PAIRS), reranker(hf_classifier(str(source))).compute_score(PAIRS)
        assert max(abs(a - b) for a, b in zip(moved, before, strict=True)) > 0.01
        of.save(at)
        assert reranker(of).compute_score(PAIRS) == pytest.approx(moved, abs=0 if not merge else 1e-4)
        again = Lora(r=4, merge=False, start=str(at / "adapter"))
        loaded = hf_classifier(str(at / "backbone")) if merge else hf_classifier(str(source), lora=again)
        assert reranker(loaded).compute_score(PAIRS) == reranker(of).compute_score(PAIRS)


@pytest.mark.parametrize("start", [tiny_bert.classifier, tiny_bert.encoder])
def test_an_adapter_without_the_classifier_is_refused(start: Any, tmp_path: Path) -> None:
    with_lora(start(), Lora(r=4, merge=False)).save(tmp_path)
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    lora_alone = {name: weight for name, weight in load_file(weights).items() if "lora_" in name}
    save_file(lora_alone, weights)
    with pytest.raises(InputError, match=r"adapter .* lacks \S*classifier\.weight, which is trained whole"):
        hf_classifier(str(start()), lora=Lora(r=4, start=str(tmp_path / "adapter")))


def test_the_adapter_of_a_new_classifier_makes_it_a_trained_one(tmp_path: Path) -> None:
    of = with_lora(tiny_bert.encoder(), Lora(r=4, merge=False))
    assert of.untrained
    of.save(tmp_path)
    again = hf_classifier(str(tiny_bert.encoder()), lora=Lora(r=4, start=str(tmp_path / "adapter")))
    assert not again.untrained
    of_one = reranker(of)
    of_one.untrained = False
    assert reranker(again).compute_score(PAIRS) == of_one.compute_score(PAIRS)
