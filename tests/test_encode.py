"""`Reranker.encode`: the vectors that late interaction compares, one tensor a text."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
import tiny
import tiny_bert
import torch

from rerankkit import Reranker
from rerankkit.errors import InputError

TEXTS = [f"{tiny.sentence(40 + i, 1 + 7 * i % 19)}, {tiny.sentence(90 + i, 1)}." for i in range(12)] + ["!", ""]


def reranker(at: Path, expansion: bool = True, similarity: str = "sum", batch_tokens: int = 2048) -> Reranker:
    text = tiny_bert.model_sections("colbert").replace('"mean"', f'"{similarity}"')
    limits = f"query_max_length = 16\ndocument_max_length = 12\nquery_expansion = {str(expansion).lower()}"
    text = text.replace('"late_interaction.v1"', f'"late_interaction.v1"\n{limits}')
    (at / "recipe.cfg").write_text(text + f"[engine]\nbatch_tokens = {batch_tokens}\n")
    torch.manual_seed(4)
    found = Reranker.from_recipe(at / "recipe.cfg")
    found.untrained = False
    return found


@torch.no_grad()
def naive_document(of: Reranker, text: str) -> torch.Tensor:
    """One document through the model alone, unpadded; punctuation left out."""
    words, parts = of.parts.backbone.tokenizer, of.parts
    ids = [words.cls_token_id, words.convert_tokens_to_ids("[unused1]")]
    ids += [*words(text, add_special_tokens=False)["input_ids"][:9], words.sep_token_id]
    vectors = parts.head.module(parts.backbone.module(input_ids=torch.tensor([ids])).last_hidden_state[0])
    kept = [i for i, token in enumerate(words.convert_ids_to_tokens(ids)) if token not in string.punctuation]
    return torch.stack([vectors[i] / vectors[i].square().sum().sqrt() for i in kept])


@pytest.mark.parametrize("batch_tokens", [1, 40, 2048])
def test_documents_are_encoded_in_order_ragged_and_unpadded(batch_tokens: int, tmp_path: Path) -> None:
    of = reranker(tmp_path, batch_tokens=batch_tokens)
    found = of.encode(TEXTS)
    assert len(found) == len(TEXTS)
    assert len({len(vectors) for vectors in found}) > 4
    for text, vectors in zip(TEXTS, found, strict=True):
        expected = naive_document(of, text)
        assert vectors.shape == expected.shape == (len(expected), 128)
        assert vectors.dtype == torch.float32
        torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["query", "document"])
def test_order_and_company_change_nothing_and_duplicates_are_equal(kind: str, tmp_path: Path) -> None:
    of = reranker(tmp_path, batch_tokens=64)
    texts = [*TEXTS[:9], TEXTS[2], *TEXTS[9:], TEXTS[2]]
    found = of.encode(texts, kind)  # type: ignore[arg-type]
    for position in (9, len(texts) - 1):
        torch.testing.assert_close(found[position], found[2], atol=1e-5, rtol=0)
    for vectors, backwards in zip(found, of.encode(texts[::-1], kind)[::-1], strict=True):  # type: ignore[arg-type]
        torch.testing.assert_close(vectors, backwards, atol=1e-5, rtol=0)
    (alone,) = of.encode([texts[5]], kind)  # type: ignore[arg-type]
    torch.testing.assert_close(alone, found[5], atol=1e-5, rtol=0)
    assert of.encode([], kind) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("similarity", ["sum", "mean"])
@pytest.mark.parametrize("expansion", [True, False])
def test_maxsim_of_what_is_encoded_is_the_score(expansion: bool, similarity: str, tmp_path: Path) -> None:
    of = reranker(tmp_path, expansion, similarity, batch_tokens=100)
    queries = [tiny.sentence(i, 1 + 4 * i) for i in range(5)]
    ours, theirs = of.encode(queries, "query"), of.encode(TEXTS)
    words = of.parts.backbone.tokenizer
    lengths = [16 if expansion else min(16, len(words(query)["input_ids"]) + 1) for query in queries]
    assert [len(vectors) for vectors in ours] == lengths
    expected = of.compute_score([[query, text] for query in queries for text in TEXTS])
    found = []
    for query in ours:
        for document in theirs:
            best = [max(float(a @ b) for b in document) for a in query]
            found.append(sum(best) / (len(best) if similarity == "mean" else 1))
    assert found == pytest.approx(expected, abs=1e-5)


def test_many_texts_fill_several_batches_within_the_budget(tmp_path: Path) -> None:
    of = reranker(tmp_path, batch_tokens=256)
    shapes: list[tuple[int, int]] = []
    original = of.parts.backbone.read_shared

    def read(tokens):  # type: ignore[no-untyped-def]
        shapes.append(tuple(tokens.ids.shape))
        return original(tokens)

    of.parts.backbone.read_shared = read  # type: ignore[method-assign]
    queries = [tiny.sentence(i, 1 + i % 5) for i in range(300)]
    for kind, texts in (("document", TEXTS * 20), ("query", queries)):
        shapes.clear()
        assert len(of.encode(texts, kind)) == len(texts)  # type: ignore[arg-type]
        assert len(shapes) > 5
        assert max(rows * width for rows, width in shapes) <= 256


def test_what_is_encoded_can_be_changed_and_trained_on(tmp_path: Path) -> None:
    (vectors,) = reranker(tmp_path).encode(TEXTS[:1])
    assert not vectors.requires_grad
    vectors *= 2
    weight = torch.ones(128, requires_grad=True)
    (vectors * weight).sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, vectors.sum(0))


@pytest.mark.parametrize("kind", ["classifier", "linear", "yes_no"])
def test_only_late_interaction_encodes(kind: str, tmp_path: Path) -> None:
    if kind == "yes_no":
        of = Reranker(tiny.parts())
    else:
        (tmp_path / "recipe.cfg").write_text(tiny_bert.model_sections(kind))
        of = Reranker.from_recipe(tmp_path / "recipe.cfg")
    of.untrained = False
    for side in ("query", "document"):
        with pytest.raises(InputError, match="this reranker's head reads one score off a prompt"):
            of.encode(["a text"], side)  # type: ignore[arg-type]


def test_wrong_texts_and_kinds_and_an_untrained_projection_are_refused(tmp_path: Path) -> None:
    of = reranker(tmp_path)
    with pytest.raises(InputError, match="put the one text into a list"):
        of.encode("a text")
    for kind in ("passage", "", None):
        with pytest.raises(InputError, match="must be 'query' or 'document'"):
            of.encode(["a text"], kind)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="text 1 must be a text; got 3"):
        of.encode(["a text", 3])  # type: ignore[list-item]
    of.untrained = True
    with pytest.raises(InputError, match="new and random"):
        of.encode(["a text"])
