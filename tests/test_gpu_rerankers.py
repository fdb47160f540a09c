"""Every kind of reranker on a GPU against a CPU: scores, orders, half precision, a training step, torch.compile.

Without a GPU the kernels run in Triton's interpreter where `TRITON_INTERPRET=1` asks for it: that proves the tests.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import tiny
import tiny_bert
import tiny_training as run
import torch
from test_encoder_training import recipe as training_recipe
from test_llm_recipes import overrides

from rerankkit import Group, Reranker, train
from rerankkit.batches import training_batch
from rerankkit.losses.negative_log_likelihood import NegativeLogLikelihood
from rerankkit.losses.softmax_cross_entropy import SoftmaxCrossEntropy
from rerankkit.protocols import Taught
from rerankkit.recipe import load_recipe, recipes_folder
from rerankkit.training.trainer import TrainingModule

GPU = torch.cuda.is_available()
CPU = torch.device("cpu")
DEVICE = torch.device("cuda") if GPU else torch.device("cpu", 0)  # another name for the interpreter's part
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(find_spec("triton") is None, reason="needs triton"),
    pytest.mark.skipif(not GPU and os.environ.get("TRITON_INTERPRET") != "1", reason="needs a CUDA device"),
]
ENCODERS = ["classifier", "linear", "colbert"]
POINTWISE = [*ENCODERS, "llm_pointwise", "query_likelihood", "monot5"]
COMPARING = ["pairwise", "setwise", "listwise_likelihood", "setwise_t5"]
WRITING = ["setwise_generation", "listwise"]
GROUPS = [tiny.group(1, 7, 12), tiny.group(4, 9, 10)]
NEAR = {"bf16": 0.06, "fp16": 0.01}
"""By what part of their spread scores may be off, as on a CPU."""


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device's part of a test runs in Triton, also in the interpreter."""
    monkeypatch.setenv("RERANKKIT_KERNELS", "triton")


def built(kind: str, at: Path, dtype: str = "fp32") -> Reranker:
    torch.manual_seed(2)
    if kind in ENCODERS:
        (at / "recipe.cfg").write_text(tiny_bert.model_sections(kind))
        found = Reranker.from_recipe(at / "recipe.cfg", {"model.backbone.dtype": dtype})
    else:
        changes = {"model.backbone.name": str(tiny.folder())} if kind == "llm_pointwise" else overrides(kind)
        changes |= {"model.backbone.dtype": dtype, "model.backbone.lora": None}
        found = Reranker.from_recipe(load_recipe(recipes_folder() / f"{kind}.cfg", changes, purpose="rank"))
    found.untrained = False
    return found


def ranked(of: Reranker, where: torch.device, monkeypatch: pytest.MonkeyPatch) -> list[dict[int, float]]:
    """Scores by the documents' places in the given order, best first."""
    monkeypatch.setenv("RERANKKIT_KERNELS", "triton" if where == DEVICE else "torch")
    rankings = of.to(where).rank_groups(GROUPS)
    return [{document.index: document.score for document in ranking} for ranking in rankings]


def off(one: list[dict[int, float]], other: list[dict[int, float]]) -> float:
    """The largest difference of two scores of a document, as a part of the scores' spread."""
    values = [score for scores in other for score in scores.values()]
    apart = max(abs(a[i] - b[i]) for a, b in zip(one, other, strict=True) for i in b)
    return apart / (max(values) - min(values))


@pytest.mark.parametrize("kind", POINTWISE)
def test_scores_are_those_of_the_cpu(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = built(kind, tmp_path)
    found, wanted = ranked(of, DEVICE, monkeypatch), ranked(of, CPU, monkeypatch)
    assert off(found, wanted) < 1e-4


@pytest.mark.parametrize("kind", COMPARING + WRITING)
def test_orders_are_those_of_the_cpu(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = built(kind, tmp_path)
    found, wanted = ranked(of, DEVICE, monkeypatch), ranked(of, CPU, monkeypatch)
    assert [list(order) for order in found] == [list(order) for order in wanted]
    assert [sorted(order) for order in found] == [list(range(len(group.docs))) for group in GROUPS]


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("kind", [*ENCODERS, "llm_pointwise", "query_likelihood"])
def test_half_precision_is_near(kind: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = ranked(built(kind, tmp_path), CPU, monkeypatch)
    rough = ranked(built(kind, tmp_path, dtype), DEVICE, monkeypatch)
    assert 0 < off(rough, exact) < 2 * NEAR[dtype]


@pytest.mark.parametrize("kind", POINTWISE + COMPARING + WRITING)
def test_a_training_step_is_that_of_the_cpu(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = built(kind, tmp_path)
    size = {"pairwise": 2, "setwise_t5": 3}.get(kind, 4)
    texts = [tiny.sentence(40 + i, 9) for i in range(2 * size)]
    labels = [1.0, *[0.0] * (size - 1)]
    groups = [Group(tiny.sentence(i, 4), texts[i * size : (i + 1) * size], labels) for i in range(2)]
    loss = NegativeLogLikelihood() if isinstance(of.parts.head, Taught) else SoftmaxCrossEntropy()
    batch = training_batch(of.parts, groups)
    values, gradients = [], []
    for device in (DEVICE, CPU):
        monkeypatch.setenv("RERANKKIT_KERNELS", "triton" if device == DEVICE else "torch")
        of.to(device)
        module = TrainingModule(of.parts, loss)
        module.zero_grad()
        value = module(batch.to(device))["loss"]
        value.backward()
        values.append(value.item())
        trained = module.trained_weights().items()
        gradients.append({name: weight.grad.double().cpu() for name, weight in trained if weight.grad is not None})
    assert values[0] == pytest.approx(values[1], rel=1e-4, abs=1e-5)
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 10
    largest = max(float(gradient.abs().max()) for gradient in gradients[1].values())
    for name, wanted in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], wanted, rtol=0.01, atol=1e-4 * largest, msg=name)


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_training_in_bf16(kind: str, tmp_path: Path) -> None:
    """The Trainer on the device, under autocast, from a recipe to a saved model that ranks."""
    few = {"max_steps": 2, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "bf16": True}
    sampling = "in_batch_negatives = true" if kind == "colbert" else ""
    of = train(training_recipe(tmp_path / "recipe", kind, few, sampling=sampling), tmp_path / "model")
    start = Reranker.from_recipe(tmp_path / "recipe" / "recipe.cfg").parts.backbone.module.state_dict()
    trained = of.parts.backbone.module.state_dict()
    assert any(not torch.equal(weight.cpu(), start[name].cpu()) for name, weight in trained.items())
    again = Reranker.from_pretrained(tmp_path / "model").rank("open a file", [run.BAD, run.GOOD])
    assert [document.index for document in again] == [d.index for d in of.rank("open a file", [run.BAD, run.GOOD])]


@pytest.mark.parametrize("kind", ["colbert", "llm_pointwise"])
def test_a_compiled_backbone_scores_alike(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = built(kind, tmp_path)
    wanted = ranked(of, DEVICE, monkeypatch)
    model = of.parts.backbone.module
    (model.get_decoder() if kind == "llm_pointwise" else model).compile(
        dynamic=True, backend="inductor" if GPU else "aot_eager"
    )
    assert off(ranked(of, DEVICE, monkeypatch), wanted) < 1e-3
