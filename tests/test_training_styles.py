"""Training of every style of language model ranker: its gradient against a naive one, and what a tiny run learns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_rankers
import tiny_training as run
import torch
from test_batches import alike, gradients
from test_training_kinds import history, measured, seen  # noqa: F401

from rerankkit import Group, Reranker, train
from rerankkit.batches import training_batch
from rerankkit.engine import Parts
from rerankkit.errors import InputError
from rerankkit.heads.choice import Choice
from rerankkit.heads.generated_order import GeneratedOrder
from rerankkit.heads.query_likelihood import QueryLikelihood
from rerankkit.losses.negative_log_likelihood import NegativeLogLikelihood
from rerankkit.losses.ranknet import RankNet
from rerankkit.losses.softmax_cross_entropy import SoftmaxCrossEntropy
from rerankkit.preview import preview
from rerankkit.protocols import Batch
from rerankkit.recipe import load_recipe
from rerankkit.training.requirements import LIKELIHOOD
from rerankkit.training.trainer import GroupTrainer, TrainingModule

QUERY = tiny_rankers.QueryAfter()
NUMBERED = tiny_rankers.Listed("12345678")
STYLES: dict[str, tuple[Callable[[], Any], Any, int, Any]] = {
    "pairwise": (Choice, None, 2, SoftmaxCrossEntropy()),
    "setwise": (Choice, None, 4, SoftmaxCrossEntropy()),
    "listwise": (Choice, None, 8, RankNet()),
    "listwise_written": (GeneratedOrder, NUMBERED, 8, NegativeLogLikelihood()),
    "setwise_written": (lambda: GeneratedOrder(one=True), NUMBERED, 4, NegativeLogLikelihood()),
    "query_likelihood": (QueryLikelihood, QUERY, 1, SoftmaxCrossEntropy()),
    "mean_likelihood": (lambda: QueryLikelihood("mean"), QUERY, 1, SoftmaxCrossEntropy()),
}


def groups(shown: int) -> list[Group]:
    """One that fills its prompts, and one that does not."""
    found = [tiny.group(1, max(shown, 3) if shown > 2 else 2, 12), tiny.group(2, 2 if shown > 1 else 3, 12)]
    for group in found:
        group.labels = [float(i % 2) + (i == 3) for i in range(1, len(group.docs) + 1)]
    return found


def naive_loss(of: Parts, batch: Batch, asked: list[Group], loss: Any) -> torch.Tensor:
    """The scores of one whole prompt after another, from all logits, and the loss of their matrix."""
    assert batch.scored is not None or batch.choices is not None
    width = max(len(group.docs) for group in asked)
    matrix = [[torch.zeros(()) for _ in range(width)] for _ in asked]
    row = 0
    for number, group in enumerate(asked):
        for docs in of.strategy.training_asks(group):
            ids = batch.tokens.ids[row][batch.tokens.mask[row].bool()]
            every = of.backbone.module(input_ids=ids[None]).logits[0]
            for i, position in enumerate(docs):
                if batch.scored is None:
                    name = of.backbone.tokenizer(tiny_rankers.LETTERS[i])["input_ids"][0]
                    matrix[number][position] = every[-1, name]
                    continue
                marked = [t for t in range(1, len(ids)) if batch.scored[row, t] == i]
                each = [every[t - 1].log_softmax(-1)[ids[t]] for t in marked]
                mean = isinstance(of.head, QueryLikelihood) and of.head.reduction == "mean"
                matrix[number][position] = sum(each, torch.zeros(())) / (len(each) if mean else 1)
            row += 1
    assert row == len(batch.answer)
    scores = torch.stack([torch.stack(line) for line in matrix])
    labels = torch.tensor([[*(g.labels or []), *[0.0] * (width - len(g.docs))] for g in asked])
    mask = torch.tensor([[i < len(g.docs) for i in range(width)] for g in asked])
    return loss(scores, labels, mask)


@pytest.mark.parametrize("lora", ["", "output"])
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "phi"])
@pytest.mark.parametrize("style", STYLES)
def test_gradients_are_those_of_all_logits(style: str, architecture: str, lora: str) -> None:
    head, formatter, shown, loss = STYLES[style]
    of = tiny_rankers.parts(head(), architecture, formatter, shown, lora)
    if architecture != "gemma2":  # whose attention is computed in float32, and masked with float64's lowest number
        of.backbone.module.double()
    asked = groups(shown)
    batch = training_batch(of, asked)
    module = TrainingModule(of, loss)
    value, found = gradients(module, batch)
    module.zero_grad()
    wanted = naive_loss(of, batch, asked, loss)
    wanted.backward()
    expected = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    assert value == pytest.approx(wanted.item(), rel=1e-5)
    alike(found, expected, 1e-4)
    for size in (1, 2):
        alike(gradients(TrainingModule(of, loss, size), batch)[1], expected, 1e-4)


PAIR = """[model.formatter]
@formatters = "documents.v1"
template = "Query: {query}\\n{documents}\\nBest:"
document = "[{label}] {document}"
separator = "\\n"
"""
CHOICES = 'answers = "{label}"\n[model.head]\n@heads = "choice.v1"\n'
WRITTEN = '[model.head]\n@heads = "generated_order.v1"\nmax_new_tokens = 16\ntaught = "{label}"\n'
RUNS: dict[str, tuple[str, str, int, str]] = {
    "pairwise": (PAIR + CHOICES, "pairwise_heapsort.v1", 2, "softmax_cross_entropy.v1"),
    "setwise": (PAIR + CHOICES, "setwise_heapsort.v1", 4, "softmax_cross_entropy.v1"),
    "listwise": (PAIR + CHOICES, "sliding_window.v1", 6, "ranknet.v1"),
    "listwise_written": (PAIR + WRITTEN, "sliding_window.v1", 4, LIKELIHOOD),
    "setwise_written": (PAIR + WRITTEN + "one = true\n", "setwise_heapsort.v1", 4, LIKELIHOOD),
    "query_likelihood": (
        '[model.formatter]\n@formatters = "query_generation.v1"\n[model.head]\n@heads = "query_likelihood.v1"\n',
        "pointwise.v1",
        4,
        "softmax_cross_entropy.v1",
    ),
}


def recipe(at: Path, style: str, size: int = 0, loss: str = "") -> Path:
    """The recipe of a style with a tiny model and LoRA."""
    sections, strategy, shown, own_loss = RUNS[style]
    batches = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
    steps = 400 if "generated_order" in sections else 200
    rate = 1e-2 if style == "listwise_written" else 5e-3
    settings = {"max_steps": steps, "eval_steps": steps, "save_steps": steps, "learning_rate": rate, **batches}
    path = run.recipe(
        at, settings, {"group_size": size or shown}, {"r": 8, "lora_alpha": 16}, loss or own_loss, groups=200, dev=12
    )
    text = path.read_text()
    text = text.replace('[model.formatter]\n@formatters = "pointwise.v1"\n', "").replace(
        '[model.head]\n@heads = "yes_no.v1"\n', sections
    )
    windows = "\nwindow = 4\nstep = 2" if style == "listwise_written" else ""
    path.write_text(text.replace('@strategies = "pointwise.v1"', f'@strategies = "{strategy}"{windows}'))
    return path


SLOW = ("pairwise", "setwise_written")


@pytest.mark.parametrize("style", [pytest.param(style, marks=[pytest.mark.slow] * (style in SLOW)) for style in RUNS])
def test_a_tiny_run_learns_and_is_saved_bit_by_bit(
    style: str,
    tmp_path: Path,
    seen: list[GroupTrainer],  # noqa: F811
) -> None:
    path = recipe(tmp_path, style)
    run.write_rows(tmp_path / "held_out.jsonl", 10, negatives=5, start=400)
    start = Reranker.from_recipe(path)
    of = train(path, tmp_path / "out")
    before, after = measured(start, tmp_path), measured(of, tmp_path)
    losses, dev = history(seen[0], "loss"), history(seen[0], "eval_nDCG@10")
    assert sum(losses[-5:]) < 0.4 * sum(losses[:5])
    assert before < 0.75 and min(after, dev[-1]) > before + 0.08
    if style == "listwise_written":
        assert right_orders(start) <= 5 and right_orders(of) > 12
    group = tiny.group(5, 5)
    loaded = Reranker.from_pretrained(tmp_path / "out")
    assert loaded.rank(group.query, group.docs) == of.rank(group.query, group.docs)


def right_orders(of: Reranker) -> int:
    """How many of 20 lists of four come with the good document first and the others as they were given."""
    found = 0
    for number in range(20):
        place, query = number % 4, tiny.sentence(300 + number, 4)
        docs = [f"{run.BAD} {tiny.sentence(40 * number + i, 2)}" for i in range(3)]
        docs.insert(place, f"{run.GOOD} {tiny.sentence(900 + number, 2)}")
        found += [r.index for r in of.rank(query, docs)] == [place, *(i for i in range(4) if i != place)]
    return found


@pytest.mark.parametrize(
    ("style", "size", "loss", "message"),
    [
        ("pairwise", 3, "", r"^\[sampling\] group_size = 3: pairwise_heapsort.v1 shows 2 documents"),
        ("setwise", 8, "", r"^\[sampling\] group_size = 8: .* group_size = 4 or less"),
        ("setwise", 4, LIKELIHOOD, r"^\[loss\] negative_log_likelihood.v1 is for heads that learn to write"),
        ("query_likelihood", 4, LIKELIHOOD, r"^\[loss\] negative_log_likelihood.v1 is for heads"),
        ("listwise_written", 4, "ranknet.v1", r"^\[loss\] ranknet.v1 compares the scores of documents"),
    ],
)
def test_what_cannot_be_learned_is_refused_at_the_start(
    style: str, size: int, loss: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        train(recipe(tmp_path, style, size=size, loss=loss), tmp_path / "out")
    assert not (tmp_path / "out.training").exists()


@pytest.mark.parametrize("style", ["setwise", "listwise_written", "query_likelihood"])
def test_preview_shows_what_is_taught_and_what_is_scored(style: str, tmp_path: Path) -> None:
    training, inference = preview(load_recipe(recipe(tmp_path, style))).examples
    shown, asked = training.prompts[0], inference.prompts[0]
    assert len(shown.documents) == (1 if style == "query_likelihood" else 4) and shown.tokens and asked.tokens
    text = "".join(shown.tokens[i].text for i in shown.scored)
    assert (shown.answer is None) is bool(shown.scored)
    if style == "setwise":
        assert not shown.scored and shown.answer == shown.length - 1 and not asked.written
    elif style == "query_likelihood":
        assert text == training.query
        assert "".join(asked.tokens[i].text for i in asked.scored) == inference.query
    else:
        best = (shown.labels or []).index(1.0)
        order = [best, *(i for i in range(4) if i != best)]
        assert text == " > ".join("ABCD"[i] for i in order) + "<|im_end|>"
        assert asked.written and not asked.scored
