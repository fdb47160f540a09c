"""Long documents in passages: the best one by brute force, every token in one of them, and an end to all cutting."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import tiny
import tiny_bert
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_cli import Shell, shell, write

from rerankkit import Group, Passages, Reranker
from rerankkit.errors import InputError
from rerankkit.passages import by_best_passage
from rerankkit.trec import read_run
from rerankkit.warnings import collecting

__all__ = ["shell"]
QUERY = tiny.sentence(3, 5)
DOCS = [
    "",
    tiny.sentence(1, 3),
    tiny.sentence(2, 150),
    tiny.sentence(4, 60),
    tiny.sentence(5, 90),
    tiny.sentence(2, 150),
]


def ids(text: str) -> list[int]:
    return tiny.tokenizer()(text)["input_ids"]


def naive(text: str, tokens: int, overlap: int, most: int) -> list[str]:
    """A window that moves over the tokens until its end is theirs."""
    whole, start, found = ids(text), 0, []
    while len(found) < most:
        found.append(tiny.tokenizer().decode(whole[start : start + tokens]))
        if start + tokens >= len(whole):
            break
        start += tokens - overlap
    return found


@given(words=st.integers(0, 60), tokens=st.integers(1, 20), data=st.data(), most=st.integers(1, 30))
def test_passages_are_those_of_a_moving_window(words: int, tokens: int, data: st.DataObject, most: int) -> None:
    text, overlap = tiny.sentence(words, words), data.draw(st.integers(0, tokens - 1))
    found = Passages(tokens, overlap, most).of(text, tiny.tokenizer())
    assert found == naive(text, tokens, overlap, most)
    assert 1 <= len(found) <= most


@given(text=st.text(max_size=60), tokens=st.integers(1, 9))
def test_no_character_is_lost_without_a_limit(text: str, tokens: int) -> None:
    joined = "".join(Passages(tokens, 0, 1000).of(text, tiny.tokenizer()))
    rest = iter(joined)
    assert all(character in rest for character in text)  # one of several tokens may stand in two passages
    assert joined == text or not text.isascii()


def reranker(kind: str, at: Path) -> Reranker:
    if kind == "yes_no":
        return Reranker.from_recipe(tiny.recipe(at / "recipe.cfg"))
    (at / "recipe.cfg").write_text(tiny_bert.model_sections(kind))
    torch.manual_seed(1)
    of = Reranker.from_recipe(at / "recipe.cfg")
    of.untrained = False
    return of


@pytest.mark.parametrize("most", [2, 100])
@pytest.mark.parametrize("kind", ["yes_no", "classifier", "colbert"])
def test_a_document_scores_as_its_best_passage(kind: str, most: int, tmp_path: Path) -> None:
    of, passages = reranker(kind, tmp_path), Passages(40, 10, most)
    cut = [passages.of(document, of.parts.backbone.tokenizer) for document in DOCS]
    assert [len(found) for found in cut][:2] == [1, 1] and (max(map(len, cut)) > 4) is (most == 100)
    expected = [max(of.compute_score([[QUERY, text] for text in found])) for found in cut]
    ranked = of.rank(QUERY, DOCS, passages=passages)
    assert of.costs.prompts + of.costs.cached == sum(map(len, cut))
    assert sorted(found.index for found in ranked) == list(range(len(DOCS)))
    for found in ranked:
        assert found.score == pytest.approx(expected[found.index], abs=1e-4) and found.text == DOCS[found.index]
    assert [found.score for found in ranked] == sorted((found.score for found in ranked), reverse=True)
    places = [found.index for found in ranked]
    assert places.index(2) + 1 == places.index(5)  # equal documents keep their order
    assert of.rank(QUERY, DOCS, top_k=2, passages=passages) == ranked[:2]


def test_what_is_no_longer_than_a_passage_is_ranked_as_ever(tmp_path: Path) -> None:
    of, groups = reranker("yes_no", tmp_path), [Group(QUERY, DOCS[:2]), Group("a cat", []), tiny.group(3, 4)]
    assert of.rank_groups(groups, passages=Passages(1000, 0)) == of.rank_groups(groups)
    assert Passages(5, 2).of("  a cat ", tiny.tokenizer()) == ["  a cat "]


def test_the_end_of_a_long_document_counts(tmp_path: Path) -> None:
    of = reranker("yes_no", tmp_path)
    best = max(of.rank(QUERY, [tiny.sentence(i, 8) for i in range(30)]), key=lambda found: found.score)
    long = f"{DOCS[2]} {best.text}"
    (start,), (whole,) = (of.rank(QUERY, [long], passages=Passages(20, 10, most)) for most in (1, 100))
    assert whole.score > start.score


def test_documents_keep_the_order_of_their_first_passages() -> None:
    assert by_best_passage([(3, 4.0), (0, 3.0), (2, 2.0), (1, 1.0)], [0, 0, 1, 1]) == [(1, 4.0), (0, 3.0)]
    assert by_best_passage([], []) == []


def test_passages_that_are_cut_in_their_turn_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    of = Reranker.from_recipe(tiny.recipe(tmp_path / "r.cfg"), {"model.collator.document_max_length": 30})
    with caplog.at_level(logging.WARNING, "rerankkit"):
        of.rank(QUERY, DOCS, passages=Passages(25, 5))
        assert caplog.text == ""
        of.rank(QUERY, DOCS[2:3], passages=Passages(60, 5))
    assert "passages cut, such as passage 0 of query" in caplog.text
    assert "(60 tokens, 30 read: document_max_length = 30); give passages fewer tokens" in caplog.text


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"tokens": 0}, "tokens = 0 must be at least 1"),
        ({"tokens": 10, "overlap": 10}, "overlap = 10 must be at least 0 and less than tokens = 10"),
        ({"overlap": -1}, "overlap = -1 must be"),
        ({"most": 0}, "most = 0 must be at least 1"),
    ],
)
def test_numbers_that_would_never_end_are_refused(wrong: dict[str, int], said: str) -> None:
    with pytest.raises(InputError, match=f"^passages: {said}"):
        Passages(**wrong)


def test_half_a_surrogate_pair_is_replaced(tmp_path: Path) -> None:
    of = reranker("yes_no", tmp_path)
    broken, whole = (of.rank(QUERY, ["fine", text], passages=Passages(5, 1)) for text in ("a \ud800", "a \ufffd"))
    assert [found.score for found in broken] == [found.score for found in whole]
    assert {found.text for found in broken} == {"fine", "a \ud800"}


def test_what_lies_beyond_the_last_passage_is_told_of() -> None:
    group, passages = Group(QUERY, [tiny.sentence(1, 20), tiny.sentence(2, 200)], qid="q7"), Passages(10, 2, most=4)
    with collecting() as counted:
        passages.cut(group, tiny.tokenizer())
    total = len(range(0, len(ids(group.docs[1])) - 2, 8))
    assert counted.counts == {"documents_beyond_passages": 1} and total > 4
    assert counted.examples["documents_beyond_passages"] == f"document 1 of query 'q7' (4 of {total})"


def test_on_the_command_line(shell: Shell, tmp_path: Path) -> None:
    recipe = tiny.recipe(tmp_path / "r.cfg")
    write(tmp_path / "docs.tsv", "".join(f"d{i}\t{text}\n" for i, text in enumerate(DOCS[2:])))
    write(tmp_path / "queries.tsv", f"q\t{QUERY}\n")
    write(tmp_path / "first.trec", "".join(f"q Q0 d{i} {i} {9 - i} x\n" for i in range(4)))
    files = ("--queries", "queries.tsv", "--docs", "docs.tsv", "--run", "first.trec", "--output", "out.trec")
    files = tuple(str(tmp_path / word) if "." in word else word for word in files)
    assert shell("rank", str(recipe), *files, "--passages", "40")[0] == 0
    expected = Reranker.from_recipe(recipe).rank(QUERY, DOCS[2:], passages=Passages(40, 10))
    found = read_run(tmp_path / "out.trec")["q"]
    assert [found[f"d{r.index}"] for r in expected] == pytest.approx([r.score for r in expected], abs=1e-4)
    show = ("--query", QUERY, "--docs", str(tmp_path / "docs.tsv"), "--passages", "40", "--show", "1")
    code, out, err = shell("rank", str(recipe), *show)
    assert code == 0 and f"{expected[0].score:.2f}" in out, err
    assert shell("rank", str(recipe), *files, "--passages", "0")[0] == 2
