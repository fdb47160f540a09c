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
from rerankkit.backbones.hf_classifier import hf_classifier
from rerankkit.collators.pair import PairCollator
from rerankkit.collators.sequence import SequenceCollator
from rerankkit.engine import Parts
from rerankkit.errors import InputError, RunError
from rerankkit.formatters.pair import Pair
from rerankkit.formatters.pointwise import Pointwise as Template
from rerankkit.heads.logit import Logit
from rerankkit.settings import Engine
from rerankkit.strategies.pointwise import Pointwise

PAIRS = [[tiny.sentence(i // 3, 4), tiny.sentence(50 + i, 1 + 7 * i % 40)] for i in range(14)] + [["one", ""]]


def reranker(folder: Path, settings: Engine | None = None, **options: Any) -> Reranker:
    backbone = hf_classifier(str(folder), **options)
    is_decoder = backbone.tokenizer.cls_token is None
    formatter, collator = (Template(tiny.TEMPLATE), SequenceCollator(512)) if is_decoder else (Pair(), PairCollator())
    return Reranker(Parts(formatter, collator, backbone, Logit(), Pointwise()), settings)


@torch.no_grad()
def transformers_scores(folder: Path, pairs: list[list[str]]) -> torch.Tensor:
    """What transformers says of each pair alone, without padding."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    words = transformers.AutoTokenizer.from_pretrained(folder)
    found = []
    for query, document in pairs:
        if words.cls_token is None:
            inputs = words(tiny.TEMPLATE.format(query=query, document=document), return_tensors="pt")
        else:
            inputs = words([query], [document], return_tensors="pt")  # in lists: alone, "" would be no second text
        found.append(model(**inputs).logits.item())
    return torch.tensor(found)


@pytest.mark.parametrize("architecture", [*tiny_encoders.ENCODERS, *tiny_encoders.DECODERS])
def test_scores_are_the_logits_of_transformers_whatever_the_batch(architecture: str) -> None:
    folder = tiny_encoders.classifier(architecture)
    expected = transformers_scores(folder, PAIRS)
    assert expected.std() > 0.05
    tolerance = 1e-5 * max(1.0, float(expected.abs().max()))
    for batch_tokens in (1, 150, 100_000):
        found = torch.tensor(reranker(folder, Engine(batch_tokens=batch_tokens)).compute_score(PAIRS))
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)
    turned = torch.tensor(reranker(folder).compute_score(PAIRS[::-1])).flip(0)
    torch.testing.assert_close(turned, expected, atol=tolerance, rtol=0)


@pytest.mark.regression
def test_token_types_count() -> None:
    folder = tiny_encoders.classifier("bert")
    model = reranker(folder)
    typed = model.compute_score(PAIRS)
    model.parts.backbone.tokenizer.model_input_names = ["input_ids", "attention_mask"]
    assert max(abs(a - b) for a, b in zip(typed, model.compute_score(PAIRS), strict=True)) > 1e-3


@pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert", "llama", "llama_without_pad"])
def test_in_bf16_the_classifier_computes_in_float32_from_its_stored_weights(architecture: str, tmp_path: Path) -> None:
    folder = tiny_encoders.classifier(architecture)
    model = reranker(folder, dtype="bf16")
    module = model.parts.backbone.module
    stored = load_file(folder / "model.safetensors")
    name = next(name for name in stored if name in ("classifier.weight", "classifier.out_proj.weight", "score.weight"))
    assert torch.equal(dict(module.named_parameters())[name], stored[name])
    assert {weight.dtype for weight in module.base_model.parameters()} == {torch.bfloat16}
    exact, near = transformers_scores(folder, PAIRS), torch.tensor(model.compute_score(PAIRS))
    assert (near - exact).abs().max() < 0.05 * exact.std() + 0.05 * exact.abs().max()
    assert len(set(near.tolist())) == len(set(exact.tolist()))  # logits in bf16 would tie


def test_several_labels_are_refused_with_the_fix() -> None:
    with pytest.raises(InputError, match=r"classifies into 3 .*hf_encoder.v1 and linear.v1"):
        hf_classifier(str(tiny_encoders.classifier("bert", labels=3)))


def test_a_new_classifier_refuses_to_rank() -> None:
    model = reranker(tiny_encoders.encoder("bert"))
    assert model.untrained
    with pytest.raises(InputError, match="classifier of this reranker is new and random.*train it first"):
        model.compute_score(PAIRS)


def test_a_checkpoint_without_part_of_its_body_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_encoders.classifier("bert"), tmp_path / "cut"))
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "layer.1.attention" not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(RunError, match=r"lacks weights of its architecture, such as bert\.encoder\.layer\.1"):
        hf_classifier(str(folder))


def test_an_encoder_with_a_decoder_is_refused(tmp_path: Path) -> None:
    config = transformers.T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=20)
    config.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="encoder with a decoder"):
        hf_classifier(str(tmp_path))


def test_unknown_checkpoints_are_named(tmp_path: Path) -> None:
    for name in (str(tmp_path / "nowhere"), str(tmp_path)):
        with pytest.raises((InputError, RunError), match=str(tmp_path)):
            hf_classifier(name)


def test_the_saved_classifier_stays_float32_beside_a_bf16_body(tmp_path: Path) -> None:
    model = reranker(tiny_bert.classifier(), dtype="bf16")
    model.parts.backbone.save(tmp_path)
    stored = load_file(tmp_path / "backbone" / "model.safetensors")
    assert stored["classifier.weight"].dtype == torch.float32
    assert stored["bert.encoder.layer.0.output.dense.weight"].dtype == torch.bfloat16
    assert json.loads((tmp_path / "backbone" / "config.json").read_text())["dtype"] == "bfloat16"
    again = reranker(tmp_path / "backbone", dtype="bf16")
    assert again.compute_score(PAIRS) == model.compute_score(PAIRS)


@pytest.fixture(scope="module")
def published() -> Reranker:
    return reranker(Path("embedded:ms-marco-minilm-l12"))


def test_a_published_cross_encoder_scores_as_transformers_said(published: Reranker) -> None:
    said = json.loads((Path(__file__).parent.parent / "golden" / "cross_encoder.json").read_text("utf-8"))
    for texts, logits in (("pairs", "logits"), ("long_pairs", "long_logits_512")):
        known = {(q, d): logit for (q, d), logit in zip(said[texts], said[logits], strict=True) if q.strip()}
        found = published.compute_score([list(pair) for pair in known])
        assert found == pytest.approx(list(known.values()), abs=1e-5, rel=0)


def test_a_published_cross_encoder_gives_each_pair_its_score_in_any_batch(published: Reranker) -> None:
    pairs = [[f"what is {tiny.sentence(i, 2)}", tiny.sentence(40 + i, 2 + 9 * i % 50)] for i in range(12)]
    together = published.compute_score(pairs)
    alone = [published.compute_score(pair)[0] for pair in pairs]
    turned = published.compute_score(pairs[::-1])[::-1]
    assert together == pytest.approx(alone, abs=1e-5)
    assert turned == pytest.approx(alone, abs=1e-5)
