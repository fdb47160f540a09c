"""Training batches, and gradients in chunks against those of the whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_bert
import torch

from rerankkit import Group, Reranker
from rerankkit.batches import chunks_of_rows, training_batch
from rerankkit.registry import registry
from rerankkit.sampling import KnownPositives, fingerprint
from rerankkit.trainer import TrainingModule

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


def reranker(at: Path, kind: str, dropout: float = 0.0) -> Reranker:
    torch.manual_seed(1)
    if kind == "yes_no":
        return Reranker.from_recipe(tiny.recipe(at / "recipe.cfg"))
    (at / "recipe.cfg").write_text(tiny_bert.model_sections(kind, dropout=dropout))
    return Reranker.from_recipe(at / "recipe.cfg")


def gradients(module: TrainingModule, batch: Any) -> tuple[float, dict[str, torch.Tensor]]:
    module.zero_grad()
    loss = module(batch)["loss"]
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def alike(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-6) -> None:
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
        alike(found, expected, 2e-6)


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
