"""Training batches, and gradients in chunks against those of the whole batch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_bert
import torch

from rerankkit import Group, Reranker
from rerankkit.batches import chunks_of_rows, training_batch
from rerankkit.errors import InputError
from rerankkit.registry import registry
from rerankkit.sampling import KnownPositives, TrainingGroups, fingerprint
from rerankkit.settings import Sampling
from rerankkit.training.trainer import TrainingModule

KINDS = ["yes_no", "classifier", "linear", "colbert"]
NOTHING_KNOWN = lambda group: KnownPositives(frozenset(), frozenset())  # noqa: E731
LOSSES = ["softmax_cross_entropy.v1", "binary_cross_entropy.v1", "ranknet.v1"]


def groups() -> list[Group]:
    """Ragged ones, two of which have the same query."""
    found = []
    for number, docs in enumerate((4, 2, 3)):
        group = tiny.group(number + 1, docs, longest=20)
        group.labels = [1.0] + [0.0] * (docs - 1)
        found.append(group)
    found[2].query = found[0].query
    return found


def reranker(at: Path, kind: str, dropout: float = 0.0, lora: str = "") -> Reranker:
    """With large random weights, float32 gradients are 1e-6 from those of float64 by themselves, more on some CPUs."""
    torch.manual_seed(1)
    if kind == "yes_no":
        tiny.recipe(at / "recipe.cfg")
    else:
        (at / "recipe.cfg").write_text(tiny_bert.model_sections(kind, lora, dropout))
    found = Reranker.from_recipe(at / "recipe.cfg")
    with torch.no_grad():
        for weight in found.parts.backbone.module.parameters():
            weight.mul_(0.2 if kind == "colbert" and weight.ndim == 2 else 1.0)
    return found


def gradients(module: TrainingModule, batch: Any) -> tuple[float, dict[str, torch.Tensor]]:
    module.zero_grad()
    loss = module(batch)["loss"]
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def alike(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 4e-6) -> None:
    assert found.keys() == expected.keys()
    size = torch.stack([g.double().norm() for g in expected.values()]).norm()
    apart = torch.stack([(found[name].double() - expected[name].double()).norm() for name in expected]).norm()
    assert size > 1e-4
    assert apart / size < tolerance


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("kind", "in_batch"), [*((kind, False) for kind in KINDS), ("colbert", True)])
def test_gradients_in_chunks_are_those_of_the_whole_batch(kind: str, in_batch: bool, loss: str, tmp_path: Path) -> None:
    of = reranker(tmp_path, kind)
    batch = training_batch(of.parts, groups(), NOTHING_KNOWN if in_batch else None)
    make = registry.losses.get(loss)
    whole, expected = gradients(TrainingModule(of.parts, make(), None, in_batch), batch)
    for size in (1, 2, 3, 100):
        value, found = gradients(TrainingModule(of.parts, make(), size, in_batch), batch)
        assert value == pytest.approx(whole, rel=1e-5)
        alike(found, expected)


@pytest.mark.parametrize("share_prefix", [True, False])
def test_a_language_model_shares_its_prefix_in_chunks_too(share_prefix: bool) -> None:
    parts = tiny.parts(share_prefix=share_prefix)
    parts.backbone.module.double()  # whole prompts of float32 differ by 1.1e-6, from the order of sums alone
    batch = training_batch(parts, groups())
    assert (batch.shared is not None) is share_prefix
    _, expected = gradients(TrainingModule(parts, registry.losses.get(LOSSES[0])()), batch)
    for size in (1, 3, 100):
        alike(gradients(TrainingModule(parts, registry.losses.get(LOSSES[0])(), size), batch)[1], expected, 3e-7)


@pytest.mark.parametrize("kind", ["linear", "colbert"])
def test_double_precision_leaves_the_rounding_of_scores_alone(kind: str, tmp_path: Path) -> None:
    of = reranker(tmp_path, kind)
    of.parts.backbone.module.double()
    batch = training_batch(of.parts, groups())
    _, expected = gradients(TrainingModule(of.parts, registry.losses.get(LOSSES[0])()), batch)
    for size in (1, 3):
        alike(gradients(TrainingModule(of.parts, registry.losses.get(LOSSES[0])(), size), batch)[1], expected, 3e-7)


@pytest.mark.parametrize("lora", ["", "r = 4"])
@pytest.mark.parametrize(
    ("kind", "in_batch"), [("classifier", False), ("linear", False), ("colbert", False), ("colbert", True)]
)
def test_chunks_go_together_with_lora_and_activation_checkpointing(
    kind: str, in_batch: bool, lora: str, tmp_path: Path
) -> None:
    of = reranker(tmp_path, kind, lora=lora)
    for name, weight in of.parts.backbone.module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)  # of zeros, lora_A would have no gradient
    batch = training_batch(of.parts, groups(), NOTHING_KNOWN if in_batch else None)
    plain = TrainingModule(of.parts, registry.losses.get(LOSSES[0])(), None, in_batch)
    assert any("lora" in name for name in plain.trained_weights()) is bool(lora)
    value, expected = gradients(plain, batch)
    chunked = TrainingModule(of.parts, registry.losses.get(LOSSES[0])(), 2, in_batch)
    chunked.activation_checkpointing_enable()
    found_value, found = gradients(chunked, batch)
    assert found_value == pytest.approx(value, rel=1e-6)
    alike(found, expected)


@pytest.mark.parametrize("kind", ["classifier", "linear", "colbert"])
def test_dropout_is_replayed(kind: str, tmp_path: Path) -> None:
    of = reranker(tmp_path, kind, dropout=0.3)
    batch = training_batch(of.parts, groups())
    module = TrainingModule(of.parts, registry.losses.get(LOSSES[0])(), 2).train()
    torch.manual_seed(7)
    value, found = gradients(module, batch)

    torch.manual_seed(7)  # the same chunks, with their graph kept
    scores = torch.zeros(len(batch.answer), 1)
    for rows in chunks_of_rows(batch, 2):
        chunk = batch.take(rows)
        scores[rows] = of.parts.head.score(of.parts.backbone.hidden(chunk), chunk)
    assert batch.place is not None and batch.mask is not None and batch.labels is not None
    matrix = torch.zeros(batch.mask.numel())
    for row, column in enumerate(batch.place[:, 0].tolist()):
        matrix[column] = scores[row, 0]
    loss = module.loss(matrix.view_as(batch.mask), batch.labels, batch.mask)
    module.zero_grad()
    loss.backward()
    expected = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    assert value == pytest.approx(loss.item(), rel=1e-6)
    alike(found, expected)
    torch.manual_seed(8)
    assert gradients(module, batch)[0] != pytest.approx(value, rel=1e-4)


def test_in_batch_every_query_meets_every_document(tmp_path: Path) -> None:
    of, asked = reranker(tmp_path, "colbert"), groups()
    asked[1].docs[1] = asked[0].docs[0]  # a duplicate of a document of group 0
    known = {(0, asked[1].docs[0]), (1, asked[2].docs[1])}
    by_text = KnownPositives(frozenset(), frozenset({fingerprint(asked[1].docs[0])}))
    by_id = KnownPositives(frozenset({fingerprint((asked[2].doc_ids or [])[1])}), frozenset())
    relevant = [by_text, by_id, KnownPositives(frozenset(), frozenset())]
    batch = training_batch(of.parts, asked, lambda group: relevant[asked.index(group)])
    scores = TrainingModule(of.parts, registry.losses.get(LOSSES[0])(), in_batch=True)(batch)["scores"]
    assert batch.mask is not None and batch.labels is not None
    assert scores.shape == batch.mask.shape == batch.labels.shape == (3, 12)
    of.untrained = False
    for row, group in enumerate(asked):
        for other, owner in enumerate(asked):
            for position in range(4):
                column = other * 4 + position
                if position >= len(owner.docs):
                    assert not batch.mask[row, column]
                    continue
                text = owner.docs[position]
                assert scores[row, column].item() == pytest.approx(of.compute_score([group.query, text])[0], abs=1e-5)
                own = row == other
                left_out = not own and (text in group.docs or (row, text) in known)
                assert bool(batch.mask[row, column]) is not left_out
                if not left_out:
                    assert batch.labels[row, column] == (owner.labels[position] if own and owner.labels else 0.0)


def test_the_loss_of_two_groups_in_batch_by_hand(tmp_path: Path) -> None:
    of = reranker(tmp_path, "colbert")
    asked = groups()[:2]
    batch = training_batch(of.parts, asked, NOTHING_KNOWN)
    found = TrainingModule(of.parts, registry.losses.get(LOSSES[0])(), in_batch=True)(batch)["loss"].item()
    of.untrained = False
    documents = [text for group in asked for text in group.docs]
    by_hand = 0.0
    for group, positive in zip(asked, (0, 4), strict=True):
        scores = of.compute_score([[group.query, text] for text in documents])
        by_hand -= scores[positive] - math.log(sum(map(math.exp, scores)))
    assert found == pytest.approx(by_hand / 2, abs=1e-5)


def test_known_positives_of_the_data_are_left_out_for_queries_of_the_same_text_or_id(tmp_path: Path) -> None:
    of = reranker(tmp_path, "colbert")
    data = [
        Group("open file", ["a good one", "bad one"], [1.0, 0.0], qid="1", doc_ids=["d1", "d2"]),
        Group("open file", ["another good one", "worse one"], [1.0, 0.0], doc_ids=["d3", "d4"]),
        Group("sort list", ["a sorted one", "bad two"], [1.0, 0.0], qid="3", doc_ids=["d5", "d6"]),
        Group("rain hills", ["wet", "a good one, newly typed"], [1.0, 0.0], qid="4", doc_ids=["d7", "d1"]),
    ]
    known = TrainingGroups(data, Sampling(group_size=2), seed=0).known_positives
    batch = training_batch(of.parts, data, known)
    left_out = {(0, 2), (1, 0), (0, 7), (1, 7)}  # the positives of both forms of one query, and the id d1 elsewhere
    assert batch.mask is not None and batch.labels is not None
    for row in range(4):
        for column in range(8):
            assert bool(batch.mask[row, column]) is ((row, column) not in left_out)
            assert batch.labels[row, column] == float(column == 2 * row)


def test_other_groups_documents_are_no_better_than_a_teachers_worst(tmp_path: Path) -> None:
    of = reranker(tmp_path, "colbert")
    scored = [Group("open", ["a", "b"], teacher_scores=[2.0, -3.0]), Group("sort", ["c"], teacher_scores=[0.5])]
    batch = training_batch(of.parts, scored, NOTHING_KNOWN)
    assert batch.labels is not None and batch.mask is not None
    assert batch.labels.tolist() == [[2.0, -3.0, -3.0, -3.0], [0.0, 0.0, 0.5, 0.0]]
    assert batch.mask.tolist() == [[True, True, True, False]] * 2


@pytest.mark.parametrize("kind", ["yes_no", "classifier", "linear"])
def test_only_late_interaction_has_in_batch_negatives(kind: str, tmp_path: Path) -> None:
    of = reranker(tmp_path, kind)
    with pytest.raises(InputError, match=r"in_batch_negatives needs a head .* maxsim.v1.*random_negatives"):
        TrainingModule(of.parts, registry.losses.get(LOSSES[0])(), in_batch=True)
