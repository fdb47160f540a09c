"""Every loss as its formula, written out document by document in plain Python, and batches to try them on."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st

Rows = list[list[float]]
Batch = tuple[Rows, Rows, list[list[bool]]]
LABELS = [0.0, 1.0, 2.0, 0.5, 3.0, -1.0]


class Doc(NamedTuple):
    """A document that exists; `still` is its score before a step that measures the slope, for weights without one."""

    score: float
    label: float
    still: float


Group = list[Doc]
OfGroup = Callable[[Group], tuple[float, int]]
"""The sum of a group's terms, and by how many it is to be divided."""


def averaged(of_group: OfGroup, batch: Batch, still: Rows | None = None) -> float:
    """The loss of a batch: the sum of all terms over their number."""
    scores, labels, mask = batch
    total, count = 0.0, 0
    for row, wanted, there, before in zip(scores, labels, mask, still or scores, strict=True):
        group = [Doc(*doc) for *doc, exists in zip(row, wanted, before, there, strict=True) if exists]
        terms, number = of_group(group)
        total, count = total + terms, count + number
    return total / max(count, 1)


def softmax(values: list[float]) -> list[float]:
    top = max(values)
    powers = [math.exp(value - top) for value in values]
    return [power / sum(powers) for power in powers]


def binary(weight: float) -> OfGroup:
    def loss(group: Group) -> tuple[float, int]:
        total = 0.0
        for doc in group:
            p, y = 1 / (1 + math.exp(-doc.score)), min(max(doc.label, 0.0), 1.0)
            total += -weight * y * math.log(p) - (1 - y) * math.log(1 - p)
        return total, len(group)

    return loss


def mse(group: Group) -> tuple[float, int]:
    return sum((doc.score - doc.label) ** 2 for doc in group), len(group)


def negative_log_likelihood(group: Group) -> tuple[float, int]:
    return -sum(doc.score for doc in group), min(len(group), 1)


def over_pairs(cost: Callable[[float], float]) -> OfGroup:
    def loss(group: Group) -> tuple[float, int]:
        terms = [cost(a.score - b.score) for a in group for b in group if a.label > b.label]
        return sum(terms), len(terms)

    return loss


def ranknet(sigma: float) -> OfGroup:
    return over_pairs(lambda lead: math.log(1 + math.exp(-sigma * lead)))


def hinge(margin: float) -> OfGroup:
    return over_pairs(lambda lead: max(0.0, margin - lead))


def softmax_cross_entropy(temperature: float, epsilon: float = 0.0) -> OfGroup:
    """With an epsilon it is poly-1 softmax."""

    def loss(group: Group) -> tuple[float, int]:
        total = sum(max(doc.label, 0.0) for doc in group)
        if total == 0:
            return 0.0, 0
        chances = softmax([doc.score / temperature for doc in group])
        entropy = -sum(max(d.label, 0.0) / total * math.log(p) for d, p in zip(group, chances, strict=True))
        positive = sum(p for doc, p in zip(group, chances, strict=True) if doc.label > 0)
        return entropy + epsilon * (1 - positive), 1

    return loss


def listnet(temperature: float) -> OfGroup:
    def loss(group: Group) -> tuple[float, int]:
        if len(group) < 2:
            return 0.0, 0
        target, found = softmax([d.label / temperature for d in group]), softmax([d.score for d in group])
        return -sum(t * math.log(p) for t, p in zip(target, found, strict=True)), 1

    return loss


def kl_divergence(student: float, teacher: float) -> OfGroup:
    def loss(group: Group) -> tuple[float, int]:
        if len(group) < 2:
            return 0.0, 0
        target, found = softmax([d.label / teacher for d in group]), softmax([d.score / student for d in group])
        return student**2 * sum(t * math.log(t / p) for t, p in zip(target, found, strict=True)), 1

    return loss


def margin_mse(only_best: bool) -> OfGroup:
    def loss(group: Group) -> tuple[float, int]:
        terms = []
        for i, a in enumerate(group):
            for b in group[:i]:
                best = max(doc.label for doc in group)
                if not only_best or best in (a.label, b.label):
                    terms.append(((a.score - b.score) - (a.label - b.label)) ** 2)
        return sum(terms), len(terms)

    return loss


def label_rank(doc: Doc, group: Group) -> float:
    """The average of the places that a document's label takes when the group is sorted by labels."""
    order = sorted((other.label for other in group), reverse=True)
    places = [place for place, label in enumerate(order, start=1) if label == doc.label]
    return sum(places) / len(places)


def soft_rank(group: Group, i: int, steepness: float) -> float:
    leads = [other.score - group[i].score for j, other in enumerate(group) if j != i]
    return 1 + sum(1 / (1 + math.exp(-steepness * lead)) for lead in leads)


def adr_mse(alpha: float) -> OfGroup:
    def loss(group: Group) -> tuple[float, int]:
        total = 0.0
        for i, doc in enumerate(group):
            rank = label_rank(doc, group)
            total += (rank - soft_rank(group, i, alpha)) ** 2 / math.log2(rank + 1)
        return total, len(group)

    return loss


def plackett_luce(doc: Doc, group: Group) -> float:
    """-log of the chance to draw a document before all others with a label as high or lower."""
    return math.log(sum(math.exp(other.score) for other in group if other.label <= doc.label)) - doc.score


def differ(group: Group) -> bool:
    return len({doc.label for doc in group}) > 1


def listmle(group: Group) -> tuple[float, int]:
    return (sum(plackett_luce(doc, group) for doc in group), 1) if differ(group) else (0.0, 0)


def position_aware_listmle(group: Group) -> tuple[float, int]:
    if not differ(group):
        return 0.0, 0
    order = sorted((doc.label for doc in group), reverse=True)
    weights: dict[float, list[float]] = {}
    for place, label in enumerate(order, start=1):
        weights.setdefault(label, []).append(2 ** (len(group) - place) - 1)
    everything = sum(weight for tied in weights.values() for weight in tied)
    terms = [sum(weights[d.label]) / len(weights[d.label]) * plackett_luce(d, group) for d in group]
    return sum(terms) / everything, 1


def gain(label: float) -> float:
    return 2 ** max(label, 0.0) - 1


def ideal_dcg(group: Group, k: int | None = None) -> float:
    best = sorted((gain(doc.label) for doc in group), reverse=True)[:k]
    return sum(value / math.log2(1 + place) for place, value in enumerate(best, start=1))


def orders_matter(group: Group) -> bool:
    return len({gain(doc.label) for doc in group}) > 1


def approx_ndcg(temperature: float) -> OfGroup:
    def loss(group: Group) -> tuple[float, int]:
        if not orders_matter(group):
            return 0.0, 0
        dcg = sum(gain(doc.label) / math.log2(1 + soft_rank(group, i, 1 / temperature)) for i, doc in enumerate(group))
        return 1 - dcg / ideal_dcg(group), 1

    return loss


def neural_ndcg(temperature: float, k: int | None = None) -> OfGroup:
    def loss(group: Group) -> tuple[float, int]:
        if not orders_matter(group):
            return 0.0, 0
        size, scores = len(group), [doc.score for doc in group]
        apart = [sum(abs(mine - other) for other in scores) for mine in scores]
        matrix = []
        for place in range(1, size + 1):
            values = [(size + 1 - 2 * place) * s - a for s, a in zip(scores, apart, strict=True)]
            matrix.append(softmax([value / temperature for value in values]))
        for _ in range(30):
            columns = [sum(row[j] for row in matrix) for j in range(size)]
            matrix = [[value / columns[j] for j, value in enumerate(row)] for row in matrix]
            matrix = [[value / sum(row) for value in row] for row in matrix]
        dcg = 0.0
        for place, row in list(enumerate(matrix, start=1))[:k]:
            dcg += sum(p * gain(d.label) for p, d in zip(row, group, strict=True)) / math.log2(1 + place)
        return 1 - dcg / ideal_dcg(group, k), 1

    return loss


def current_places(doc: Doc, group: Group) -> list[int]:
    """The places of all documents with this score and label, where equal scores are sorted worst first."""
    order = sorted((-other.still, other.label) for other in group)
    return [place for place, key in enumerate(order, start=1) if key == (-doc.still, doc.label)]


def lambda_loss(weighting: str, sigma: float = 1.0, mu: float = 10.0, k: int | None = None) -> OfGroup:
    def weight(a: Doc, b: Doc, group: Group) -> float:
        (ra, rb), ideal = [statistics.fmean(current_places(d, group)) for d in (a, b)], ideal_dcg(group, k) or 1.0
        gap = abs(gain(a.label) - gain(b.label)) / ideal
        swap = abs(1 / math.log2(1 + ra) - 1 / math.log2(1 + rb)) * gap
        step = abs(1 / math.log2(1 + abs(ra - rb)) - 1 / math.log2(2 + abs(ra - rb))) * gap if ra != rb else math.nan
        first = gain(a.label) / ideal / math.log2(1 + ra)
        return {
            "none": 1.0, "ndcg_loss1": first, "ndcg_loss2": step, "lambda_rank": swap, "ndcg_loss2pp": swap + mu * step
        }[weighting]  # fmt: skip

    def loss(group: Group) -> tuple[float, int]:
        terms = []
        for i, a in enumerate(group):
            for j, b in enumerate(group):
                wanted = gain(a.label) > 0 and i != j if weighting == "ndcg_loss1" else a.label > b.label
                if wanted and (k is None or min(current_places(a, group) + current_places(b, group)) <= k):
                    cost = math.log2(1 + math.exp(-sigma * (a.score - b.score)))
                    terms.append(weight(a, b, group) * cost)
        return sum(terms), len(terms)

    return loss


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    groups, docs = draw(st.integers(1, 3)), draw(st.integers(1, 5))

    def matrix(values: st.SearchStrategy[Any]) -> Any:
        return draw(st.lists(st.lists(values, min_size=docs, max_size=docs), min_size=groups, max_size=groups))

    # rounded, so that no two scores lie within the step that measures a slope; with ties, too
    scores = st.floats(-6, 6).map(lambda score: round(score, 3)) | st.sampled_from([0.0, 1.0])
    there = st.booleans() | st.just(True)
    return matrix(scores), matrix(st.sampled_from(LABELS)), matrix(there)


def tensors(batch: Batch, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    scores, labels, mask = batch
    return [torch.tensor(scores, dtype=dtype, requires_grad=True), torch.tensor(labels), torch.tensor(mask)]
