from __future__ import annotations

import itertools
import string
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import tiny_bert
import tiny_encoders
import torch

from rerankkit import Group, Reranker
from rerankkit.backbones.hf_encoder import hf_encoder
from rerankkit.collators.late_interaction import LateInteractionCollator
from rerankkit.engine import Parts
from rerankkit.errors import InputError
from rerankkit.formatters.pair import Pair
from rerankkit.heads.maxsim import MaxSim
from rerankkit.protocols import Batch, Hidden, Tokens
from rerankkit.settings import Engine
from rerankkit.strategies.pointwise import Pointwise

DOCS = [f"{tiny.sentence(60 + i, 1 + 5 * i % 23)}, {tiny.sentence(80 + i, 2)}." for i in range(7)] + ["", "!"]


def reranker(
    collator: LateInteractionCollator, head: MaxSim, architecture: str = "bert", settings: Engine | None = None
) -> Reranker:
    backbone = hf_encoder(str(tiny_encoders.encoder(architecture)))
    torch.manual_seed(5)
    found = Reranker(Parts(Pair(), collator, backbone, head, Pointwise()), settings)
    if head.module is not None and head.module.bias is not None:
        torch.nn.init.normal_(head.module.bias)
    found.untrained = False
    return found


@torch.no_grad()
def naive(of: Reranker, query: str, document: str) -> float:
    """MaxSim of one query and one document, token by token, with nothing padded but what expansion asks for."""
    collator, words, model = of.parts.collator, of.parts.backbone.tokenizer, of.parts.backbone.module
    assert isinstance(collator, LateInteractionCollator)

    def vectors(text: str, marker: str, length: int, is_query: bool) -> list[torch.Tensor]:
        plain = words(text, add_special_tokens=False)["input_ids"]
        before = [words.cls_token_id, *([words.convert_tokens_to_ids(marker)] if marker else [])]
        ids = [*before, *plain[: length - len(before) - 1], words.sep_token_id]
        real = len(ids)
        if is_query and collator.query_expansion:
            ids += [words.mask_token_id] * (length - real)
        seen = [1] * real + [int(collator.attend_to_expansion)] * (len(ids) - real)
        states = model(input_ids=torch.tensor([ids]), attention_mask=torch.tensor([seen])).last_hidden_state[0]
        kept = []
        for position, token in enumerate(ids):
            text_of = words.convert_ids_to_tokens(token)
            skipped = not is_query and collator.skiplist == "punctuation" and text_of in string.punctuation
            if skipped or (position == 0 and not collator.compare_first):
                continue
            vector = states[position]
            if of.parts.head.module is not None:
                linear = of.parts.head.module
                vector = linear.weight @ vector + (0 if linear.bias is None else linear.bias)
            kept.append(vector / vector.norm())
        return kept

    ours = vectors(query, collator.query_marker, collator.query_max_length, True)
    theirs = vectors(document, collator.document_marker, collator.document_max_length, False)
    best = [max(float(a @ b) for b in theirs) for a in ours]
    return sum(best) / (len(best) if of.parts.head.similarity == "mean" else 1)  # type: ignore[attr-defined]


CASES = [
    *itertools.product((None, False, True), (True, False), ("punctuation", None), (True, False), ["sum"], [(24, True)]),
    (None, True, "punctuation", True, "mean", (8, False)),
    (False, False, None, False, "mean", (None, False)),
    (True, True, "punctuation", True, "sum", (None, False)),
]  # fmt: skip


@pytest.mark.parametrize(("attended", "markers", "skiplist", "first", "similarity", "projection"), CASES)
def test_scores_are_naive_masked_maxsim(
    attended: bool | None, markers: bool, skiplist: Any, first: bool, similarity: Any, projection: Any
) -> None:
    collator = LateInteractionCollator(
        query_max_length=12,
        document_max_length=20,
        query_marker="[unused0]" if markers else "",
        document_marker="[unused1]" if markers else "",
        query_expansion=attended is not None,
        attend_to_expansion=bool(attended),
        skiplist=skiplist,
        compare_first=first,
    )
    of = reranker(collator, MaxSim(*projection, similarity=similarity))
    queries = [tiny.sentence(3, 4), tiny.sentence(4, 30), "a, b?"]
    pairs = [[query, document] for document in DOCS for query in queries]
    found = torch.tensor(of.compute_score(pairs))
    expected = torch.tensor([naive(of, *pair) for pair in pairs])
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-6)


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "modernbert", "roberta", "xlm_roberta"])
def test_no_batch_changes_a_score(architecture: str) -> None:
    collator = LateInteractionCollator(query_marker="", document_marker="")
    pairs = [[tiny.sentence(i % 4, 3 + i % 4), document] for i, document in enumerate(DOCS * 2)]
    whole = torch.tensor(reranker(collator, MaxSim(), architecture).compute_score(pairs))
    for settings in (Engine(batch_tokens=1, prefix_tokens=1), Engine(batch_tokens=90, prefix_tokens=64)):
        of = reranker(collator, MaxSim(), architecture, settings)
        found = torch.tensor(of.compute_score(pairs[::-1])).flip(0)
        torch.testing.assert_close(found, whole, atol=2e-5, rtol=1e-6)


def test_padding_never_counts_where_all_similarities_are_negative() -> None:
    head = MaxSim(dim=None)
    head.bind(SimpleNamespace(module=torch.nn.Linear(1, 1)))  # type: ignore[arg-type]
    query = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    documents = -torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(2)) - 0.1
    compared = torch.tensor([[True] * 4, [True, True, False, False], [False, True, False, False]])
    documents[~compared] = 1.0
    tokens = Tokens(torch.zeros(3, 4, dtype=torch.long), torch.ones(3, 4, dtype=torch.long), compared=compared)
    shared = Tokens(torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2), compared=torch.ones(1, 2).bool())
    batch = Batch(tokens, torch.zeros(3), shared, torch.zeros(3, dtype=torch.long))
    found = head.score(Hidden(documents, query), batch)
    for row in range(3):
        kept = [v / v.norm() for v, keep in zip(documents[row], compared[row], strict=True) if keep]
        expected = sum(max(float(q @ v) for v in kept) for q in query[0])
        assert expected < 0
        assert found[row].item() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(head.score_all(Hidden(documents, query), batch), found.T)


def reads(of: Reranker) -> list[int]:
    """How many queries each later call of the backbone encodes."""
    read: list[int] = []
    original = of.parts.backbone.read_shared

    def counted(shared: Tokens, before: Any = ()) -> Any:
        read.append(len(shared.ids))
        return original(shared, before)

    of.parts.backbone.read_shared = counted  # type: ignore[method-assign]
    return read


def test_a_query_is_encoded_once_and_not_once_per_document() -> None:
    of = reranker(LateInteractionCollator(), MaxSim(), settings=Engine(batch_tokens=64))
    read = reads(of)
    groups = [Group(tiny.sentence(i, 5), DOCS) for i in range(3)]
    of.rank_groups(groups)
    assert sum(read) == 3
    assert of.costs.passes > 4
    of.rank(groups[0].query, DOCS * 3)
    assert sum(read) == 4


def test_many_queries_and_many_documents_are_encoded_once_though_tokenized_in_pieces() -> None:
    of = reranker(LateInteractionCollator(query_expansion=False), MaxSim())
    words = of.parts.backbone.tokenizer
    read = reads(of)

    def cost_of_encoding(queries: list[str], documents: list[str]) -> int:
        framed = [len(words(text)["input_ids"]) + 1 for text in (*queries, *documents)]  # and the marker
        return sum(min(length, 32) for length in framed[: len(queries)]) + sum(framed[len(queries) :])

    groups = [Group(tiny.sentence(i, 5), [tiny.sentence(1000 + 7 * i + j, 3) for j in range(7)]) for i in range(300)]
    assert len({group.query for group in groups}) == 300
    ranked = of.rank_groups(groups)
    assert sum(read) == 300
    assert of.costs.prompts == 2100
    assert of.costs.tokens == cost_of_encoding([g.query for g in groups], [text for g in groups for text in g.docs])
    assert of.costs.prefix_saved == 6 * sum(min(len(words(group.query)["input_ids"]) + 1, 32) for group in groups)
    for number in (0, 146, 147, 255, 256, 299):
        found = {entry.index: entry.score for entry in ranked[number]}
        for position in (0, 6):
            expected = naive(of, groups[number].query, groups[number].docs[position])
            assert found[position] == pytest.approx(expected, abs=1e-5)

    read.clear()
    documents = [f"{tiny.sentence(i, 2)} {i}" for i in range(2500)]
    of.rank(groups[0].query, documents)
    assert read == [1]
    assert of.costs.tokens == cost_of_encoding([groups[0].query], documents)

    read.clear()
    pairs = [[groups[i].query, documents[50 * j + i]] for j in range(30) for i in range(50)]
    scores = of.compute_score(pairs)
    assert sum(read) == 50
    for number in (0, 1, 1023, 1024, 1499):
        assert scores[number] == pytest.approx(naive(of, *pairs[number]), abs=1e-5)


def test_encode_gives_the_compared_vectors_of_each_text() -> None:
    of = reranker(LateInteractionCollator(query_max_length=10, document_max_length=20), MaxSim(16), settings=Engine(64))
    queries = [tiny.sentence(i, 1 + 3 * i) for i in range(4)]
    ours, theirs = of.encode(queries, "query"), of.encode(DOCS)
    assert [len(vectors) for vectors in ours] == [10] * 4
    assert len({len(vectors) for vectors in theirs}) > 4
    for vectors in (*ours, *theirs):
        assert vectors.dtype == torch.float32
        assert vectors.shape[1] == 16
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))
    found = [float((query @ document.T).amax(1).sum()) for query in ours for document in theirs]
    expected = of.compute_score([[query, document] for query in queries for document in DOCS])
    assert found == pytest.approx(expected, abs=1e-5)
    (alone,) = of.encode(DOCS[2:3])
    torch.testing.assert_close(alone, theirs[2], atol=1e-5, rtol=0)
    assert of.encode([]) == []


def test_encode_refuses_what_has_no_token_vectors() -> None:
    of = reranker(LateInteractionCollator(), MaxSim())
    with pytest.raises(InputError, match="put the one text into a list"):
        of.encode("one text")
    with pytest.raises(InputError, match="must be 'query' or 'document'"):
        of.encode(["a"], "passage")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="this reranker's head reads one score off a prompt"):
        Reranker(tiny.parts()).encode(["a"])


def test_a_projection_of_another_shape_is_refused() -> None:
    backbone = hf_encoder(str(tiny_bert.with_projection(24)))
    with pytest.raises(InputError, match=r"colbert_linear.pt has dim = 24 and bias = true.*start = \"new\""):
        MaxSim(32).bind(backbone)
    head = MaxSim(24, bias=True)
    head.bind(backbone)
    stored = torch.load(tiny_bert.with_projection(24) / "colbert_linear.pt", weights_only=True)
    assert torch.equal(head.module.weight, stored["weight"])
    assert not head.untrained
    new = MaxSim(32, start="new")
    new.bind(backbone)
    assert new.untrained
